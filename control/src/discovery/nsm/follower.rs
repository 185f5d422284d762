//! The loop: runs the streams, applies their reports to the inventory, and sends the clients.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use futures_util::future;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::warn;
use vl3lb_common::Duration;

use super::clients::Clients;
use super::endpoint::{InvalidRegistration, Manager, Registration};
use super::inventory::Inventory;
use super::monitor::{Monitor, MonitorChange, MonitorReport, Readings};
use super::owners::{Own, Owners};
use super::record::Record;
use super::registry::{Registry, RegistryReport};
use super::stream::Dial;
use crate::discovery::SourceStatus;
use crate::network::NetworkReceiver;
use crate::nsm::Target;
use crate::observe::events::Events;

/// Time between two sets of clients, at least, so that a burst of changes becomes one.
const SETTLE: Duration = Duration::from_millis(1);
/// Pause after a set in multiples of the time that it took, which leaves CPU for packets.
const REST: u32 = 4;
/// Reports that wait to be applied; a stream that is ahead waits.
const WAITING: usize = 64;

/// What to follow.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    /// The network service.
    pub(super) service: String,
    /// The manager of this node.
    pub(super) manager: Target,
    /// The limit of a call.
    pub(super) limit: Duration,
    /// The name of the balancer's own path segment.
    pub(super) own_name: String,
}

/// All clients at one time.
#[derive(Debug, Clone)]
pub(super) struct Roll {
    pub(super) clients: Arc<Clients>,
    /// When the first change was observed that is new in it.
    pub(super) observed: Instant,
}

/// The sending half; `None` until the first complete set.
pub(super) type RollSender = watch::Sender<Option<Roll>>;
/// The receiving half.
pub(super) type RollReceiver = watch::Receiver<Option<Roll>>;

/// Follows the clients of a network service.
pub(super) struct Follower<D> {
    dial: D,
    scope: Scope,
    service: Arc<str>,
    inventory: Inventory,
    owners: Owners,
    own: Own,
    record: Record,
    output: RollSender,
    monitors: HashMap<Arc<str>, Running>,
    /// Monitors started so far.
    started: u64,
    /// The inventory's revision in the last set, or in the next one.
    revision: u64,
    tasks: JoinSet<()>,
    reports: mpsc::Sender<MonitorReport>,
    /// When to send the next set; `None` if nothing has changed.
    due: Option<Instant>,
    /// When the next set may be sent.
    earliest: Instant,
    /// When the first change was observed that is not in the last set.
    observed: Option<Instant>,
}

struct Running {
    number: u64,
    manager: Manager,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<D: Dial> Follower<D> {
    pub(super) fn new(
        dial: D,
        scope: Scope,
        output: RollSender,
        status: watch::Sender<SourceStatus>,
        events: Arc<Events>,
    ) -> Self {
        let own = Own {
            name: scope.own_name.clone(),
            addresses: Vec::new(),
        };
        // Replaced by `run`.
        let (reports, _) = mpsc::channel(1);
        Self {
            record: Record::new(&scope, status, events),
            service: scope.service.as_str().into(),
            dial,
            scope,
            inventory: Inventory::default(),
            owners: Owners::default(),
            own,
            output,
            monitors: HashMap::new(),
            started: 0,
            revision: 0,
            tasks: JoinSet::new(),
            reports,
            due: None,
            earliest: Instant::now(),
            observed: None,
        }
    }

    /// Follows the network service for ever. `network` has the balancer's own addresses. All streams end when this is
    /// dropped.
    pub(super) async fn run(mut self, mut network: NetworkReceiver) -> Infallible {
        let (monitor_reports, mut changes) = mpsc::channel(WAITING);
        self.reports = monitor_reports;
        let (registry_reports, mut registrations) = mpsc::channel(WAITING);
        let registry = Registry {
            dial: self.dial.clone(),
            manager: self.scope.manager.clone(),
            service: self.scope.service.clone(),
            limit: self.scope.limit,
        };
        self.tasks.spawn(registry.run(registry_reports));
        network.mark_changed();
        loop {
            let deadline = self.inventory.deadline(Instant::now());
            // What was known may look different by now.
            let mut is_due = false;
            tokio::select! {
                biased;
                () = at(self.due) => {
                    self.due = None;
                    self.send();
                    continue;
                }
                Some(report) = registrations.recv() => self.apply_registry(report),
                Some(report) = changes.recv() => self.apply_monitor(report),
                addresses = own_addresses(&mut network) => {
                    self.own.addresses = addresses;
                    is_due = true;
                }
                () = at(deadline) => is_due = true,
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                    continue;
                }
            }
            self.settle(is_due);
        }
    }

    fn apply_registry(&mut self, report: RegistryReport) {
        let now = Instant::now();
        match report {
            RegistryReport::Listed(list) => {
                let listed = list.into_iter().filter_map(|read| self.readable(read)).collect();
                self.inventory.list(listed, now);
                self.record.registry_live();
            }
            RegistryReport::Registered(read) => {
                if let Some(registration) = self.readable(read) {
                    self.inventory.register(registration, now);
                }
                self.record.changed();
            }
            RegistryReport::Unregistered(name) => {
                self.inventory.unregister(&name, now);
                self.record.changed();
            }
            RegistryReport::Lost(error) => self.record.registry_lost(&error),
        }
    }

    /// A registration, unless it is invalid, which is logged once.
    fn readable(&mut self, read: Result<Registration, InvalidRegistration>) -> Option<Registration> {
        read.map_err(|error| {
            let text = error.to_string();
            if self.record.invalid(&text) {
                warn!("{text}");
            }
        })
        .ok()
    }

    fn apply_monitor(&mut self, report: MonitorReport) {
        let MonitorReport {
            endpoint,
            monitor,
            change,
        } = report;
        let running = self.monitors.get(&endpoint);
        let Some(running) = running.filter(|running| running.number == monitor) else {
            return;
        };
        let now = Instant::now();
        match change {
            MonitorChange::Listed(readings) => {
                let connections = self.count_skipped(readings).connections;
                self.inventory.replace(&endpoint, connections, now);
                self.record.monitor_live(&endpoint);
            }
            MonitorChange::Updated(readings) => {
                let Readings { connections, skipped } = self.count_skipped(readings);
                let gone = skipped.iter().map(|(id, _)| id.as_str());
                self.inventory.delete(&endpoint, gone, now);
                self.inventory.update(&endpoint, connections, now);
                self.record.changed();
            }
            MonitorChange::Deleted(ids) => {
                self.inventory
                    .delete(&endpoint, ids.iter().map(String::as_str), now);
                self.record.changed();
            }
            MonitorChange::Unknown => self.record.unknown_event(&endpoint),
            MonitorChange::Lost(error) => {
                let target = target_of(&running.manager, &self.scope.manager).clone();
                self.inventory.lose(&endpoint, now);
                self.record.monitor_lost(&endpoint, &target, &error);
            }
        }
    }

    fn count_skipped(&mut self, readings: Readings) -> Readings {
        self.record.skipped(&readings.skipped);
        readings
    }

    /// Follows up a change: forgets what is over, runs the monitors that are needed, and schedules a set.
    fn settle(&mut self, is_due: bool) {
        self.inventory.expire(Instant::now());
        self.run_monitors();
        self.record.show(&self.inventory, &self.owners);
        let is_first = self.output.borrow().is_none();
        let is_changed = is_due || self.revision != self.inventory.revision();
        if self.inventory.is_complete() && is_first || is_changed && !is_first {
            self.revision = self.inventory.revision();
            self.observed.get_or_insert_with(Instant::now);
            self.due.get_or_insert(self.earliest);
        }
    }

    /// Starts and stops monitors: one for each endpoint, at its manager.
    fn run_monitors(&mut self) {
        let mut wanted: HashMap<Arc<str>, Manager> = HashMap::new();
        for (endpoint, manager) in self.inventory.monitored() {
            wanted.insert(Arc::clone(endpoint), manager.clone());
        }
        self.monitors
            .retain(|endpoint, running| wanted.get(endpoint) == Some(&running.manager));
        for (endpoint, manager) in wanted {
            if self.monitors.contains_key(&endpoint) {
                continue;
            }
            self.started += 1;
            let monitor = Monitor {
                dial: self.dial.clone(),
                manager: target_of(&manager, &self.scope.manager).clone(),
                endpoint: Arc::clone(&endpoint),
                service: Arc::clone(&self.service),
                number: self.started,
                limit: self.scope.limit,
            };
            let running = Running {
                number: self.started,
                manager,
                task: self.tasks.spawn(monitor.run(self.reports.clone())),
            };
            self.monitors.insert(endpoint, running);
        }
    }

    fn send(&mut self) {
        let begin = Instant::now();
        let (clients, changes) = self.owners.resolve(&self.inventory, &self.own, begin);
        self.record.conflicts(&changes);
        self.record.show(&self.inventory, &self.owners);
        let observed = self.observed.take().unwrap_or(begin);
        self.output.send_if_modified(|last| {
            let changed = last.as_ref().is_none_or(|last| *last.clients != clients);
            if changed {
                *last = Some(Roll {
                    clients: Arc::new(clients),
                    observed,
                });
            }
            changed
        });
        self.earliest = Instant::now() + SETTLE.max(begin.elapsed() * REST);
    }
}

/// The server to ask about an endpoint.
const fn target_of<'a>(manager: &'a Manager, local: &'a Target) -> &'a Target {
    match manager {
        Manager::Local => local,
        Manager::Remote(target) => target,
    }
}

/// Waits until `time`; for ever without one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => future::pending().await,
    }
}

/// Waits for a change of the balancer's addresses. Those of an interface that is gone for now stay.
async fn own_addresses(network: &mut NetworkReceiver) -> Vec<std::net::IpAddr> {
    while network.changed().await.is_ok() {
        let view = network.borrow_and_update();
        if let Some(view) = view.as_ref().filter(|view| view.usable()) {
            return view.addresses.clone();
        }
    }
    future::pending().await
}
