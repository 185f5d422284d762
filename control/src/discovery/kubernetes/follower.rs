//! The loop of the source: applies changes of the API server, of the file and of connections, and sends sets.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::warn;
use vl3lb_common::Duration;

use super::admission::{Accepted, Listening, Refused, StaleStatus};
use super::assembly::Assembly;
use super::cache::Activity;
use super::claims::Surroundings;
use super::connections::{Connections, ConnectionsReceiver};
use super::denied::{Denied, DeniedReason};
use super::watches::{Plan, Watches};
use crate::api::EventCode;
use crate::config::{self, AddressFrom, Prefer, Service};
use crate::discovery::{DesiredSender, ErrorReason, Missing, SourceStatus};
use crate::kubernetes::client::Server;
use crate::kubernetes::error::ConnectError;
use crate::network::{NetworkReceiver, NetworkView};
use crate::observe::events::{Event, Events};

/// Time between two sets, at least, so that a burst of changes becomes one set. Short, because the publisher paces
/// itself too.
pub(super) const SETTLE: Duration = Duration::from_millis(1);

/// Pause after a set in multiples of the time that it took to assemble, so that thousands of pods that change all the
/// time leave CPU for packets.
const REST: u32 = 4;

/// Time until credentials that are missing, unreadable or refused are read again.
const REOPEN: Duration = Duration::from_secs(5);

/// Problems of pods to log for each set, at most.
const LOGGED: usize = 10;

/// Where results go.
pub(super) struct Output {
    pub(super) desired: DesiredSender,
    pub(super) status: watch::Sender<SourceStatus>,
    pub(super) accepted: watch::Sender<Arc<Vec<Accepted>>>,
    pub(super) refused: watch::Sender<Arc<Vec<Refused>>>,
    pub(super) stale_statuses: watch::Sender<Arc<Vec<StaleStatus>>>,
}

/// Follows the API server.
pub(super) struct Follower {
    /// The services of the file.
    services: watch::Receiver<Vec<Service>>,
    output: Output,
    events: Arc<Events>,
    watches: Watches,
    assembly: Assembly,
    /// Whether the addresses of pods are known.
    located: bool,
    /// Whether the balancer's network is known, if claims depend on it.
    surrounded: bool,
    /// The time to send the next set; `None` without changes.
    due: Option<Instant>,
    /// When the next set may be sent.
    earliest: Instant,
    /// When the first change was observed that is not in the last set.
    observed: Option<Instant>,
    /// Problems of pods as of the last set.
    problems: BTreeSet<String>,
    /// Pods and endpoints left out of the last set.
    denied: BTreeSet<Denied>,
}

impl Follower {
    /// `listening` lists the balancer's own servers; `services` are those of the file.
    pub(super) fn new(
        config: config::Kubernetes,
        listening: Vec<Listening>,
        mut services: watch::Receiver<Vec<Service>>,
        output: Output,
        events: Arc<Events>,
    ) -> Self {
        let assembly = Assembly::new(&config, &listening, &services.borrow_and_update());
        Self {
            services,
            output,
            events,
            located: config.address_from != AddressFrom::Nsm,
            watches: Watches::new(plan(config)),
            assembly,
            due: None,
            earliest: Instant::now(),
            observed: None,
            problems: BTreeSet::new(),
            denied: BTreeSet::new(),
            surrounded: true,
        }
    }

    /// Follows `server` and `connections` for ever.
    pub(super) async fn run(
        mut self,
        server: Server,
        mut connections: Option<ConnectionsReceiver>,
        mut network: Option<NetworkReceiver>,
    ) -> Infallible {
        if let Some(network) = &mut network {
            network.mark_changed();
            self.surrounded = false;
        }
        if let Some(connections) = &mut connections {
            connections.mark_changed();
        }
        let mut start_at = Some(Instant::now());
        let mut started = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = at(self.due) => {
                    self.due = None;
                    self.send();
                }
                () = changed(&mut self.services) => {
                    self.assembly.replace_file(&self.services.borrow_and_update());
                    self.note_change();
                }
                connections = next_connections(&mut connections) => {
                    self.assembly.replace_connections(connections);
                    self.located = true;
                    self.note_change();
                    self.update_status();
                }
                view = next_network(&mut network) => {
                    let surroundings = Surroundings::of(&view);
                    let changed = surroundings.is_some_and(|now| self.assembly.replace_surroundings(now));
                    let is_first = !std::mem::replace(&mut self.surrounded, true);
                    if changed || is_first {
                        self.note_change();
                        self.update_status();
                    }
                }
                () = at(start_at) => {
                    started = Instant::now();
                    start_at = match self.start(&server).await {
                        Ok(()) => None,
                        Err(error) => {
                            self.note_unconnected(&error);
                            Some(Instant::now() + REOPEN)
                        }
                    };
                }
                changed = self.watches.next(&mut self.assembly) => {
                    if changed {
                        self.note_change();
                    }
                    let activity = self.update_status();
                    if activity.is_unauthorized() {
                        // The token or certificate may have been renewed.
                        start_at.get_or_insert(started + REOPEN);
                    }
                }
            }
        }
    }

    async fn start(&mut self, server: &Server) -> Result<(), ConnectError> {
        let config = server.config().await?;
        self.watches.start(&config)
    }

    /// Whether there is a set to send.
    fn is_usable(&self) -> bool {
        self.located && self.surrounded && self.watches.is_usable()
    }

    /// Schedules a set.
    fn note_change(&mut self) {
        if self.is_usable() {
            self.observed.get_or_insert_with(Instant::now);
            self.due.get_or_insert(self.earliest);
        }
    }

    fn send(&mut self) {
        let begin = Instant::now();
        let mut assembled = self.assembly.assemble();
        assembled.desired.observed = self.observed.take();
        for problem in assembled.problems.difference(&self.problems).take(LOGGED) {
            warn!("{problem}");
        }
        self.problems = assembled.problems;
        self.note_denied(assembled.denied);
        let left_out = assembled.left_out;
        self.output.status.send_if_modified(|status| {
            let changed = status.left_out != left_out;
            status.left_out = left_out;
            changed
        });
        replace(&self.output.accepted, assembled.accepted);
        replace(&self.output.refused, assembled.refused);
        replace(&self.output.stale_statuses, assembled.stale_statuses);
        self.output
            .desired
            .send_replace(Some(Arc::new(assembled.desired)));
        self.earliest = Instant::now() + SETTLE.max(begin.elapsed() * REST);
    }

    /// Emits events about pods and endpoints that are left out from now on. Those of foreign namespaces may be others
    /// with the same labels: no warning.
    fn note_denied(&mut self, denied: BTreeSet<Denied>) {
        let new: Vec<&Denied> = denied.difference(&self.denied).collect();
        for denied in new.iter().take(LOGGED) {
            let text = format!("{}: {}; left out", denied.reason.word(), denied.text);
            self.events.emit(match denied.reason {
                DeniedReason::Namespace => Event::new(EventCode::LeftOut, text),
                DeniedReason::Address | DeniedReason::Quota => Event::warn(EventCode::LeftOut, text),
            });
        }
        if let Some(more) = new.len().checked_sub(LOGGED).filter(|more| *more > 0) {
            let text = format!("{more} more pods and endpoints are left out");
            self.events.emit(Event::warn(EventCode::LeftOut, text));
        }
        self.denied = denied;
    }

    /// Reports credentials that cannot be read. The records stay.
    fn note_unconnected(&self, error: &ConnectError) {
        let now = SystemTime::now();
        self.output.status.send_modify(|status| {
            let missing = status.missing.clone();
            note_state(status, Some(error.to_string()), missing, &self.events);
            status.synced = false;
            status.last_event = Some(now);
            status.errors.count(ErrorReason::Io);
        });
    }

    /// Updates the status from the watches, and emits events if it changed. Returns the activity since the last call.
    fn update_status(&mut self) -> Activity {
        let error = self.watches.error();
        let now = SystemTime::now();
        let missing = self.watches.missing(now);
        let usable = self.is_usable();
        let activity = self.watches.take_activity();
        self.output.status.send_modify(|status| {
            status.synced = usable && error.is_none() && missing.is_empty();
            if usable && error.is_none() {
                status.loaded = Some(now);
            }
            if activity != Activity::default() {
                status.last_event = Some(now);
            }
            status.events += activity.changes;
            status.errors.add(activity.failures);
            // An error stays until all records are known again.
            if usable || error.is_some() {
                note_state(status, error, missing, &self.events);
            }
        });
        activity
    }
}

/// The collections that `config` needs. None of it depends on the services of the file.
fn plan(config: config::Kubernetes) -> Plan {
    let has_endpoints = config.address_from == AddressFrom::PodIp;
    Plan {
        namespaces: config.namespaces,
        selector: config.label_selector,
        address_from: config.address_from,
        services: config.services,
        slices: config.services && has_endpoints,
        // `prefer: node` falls back to the zone.
        nodes: config.topology.prefer != Prefer::None,
    }
}

/// Waits until `time`; for ever without one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => future::pending().await,
    }
}

/// Waits for a change of the file's services; for ever if there can be none.
async fn changed(services: &mut watch::Receiver<Vec<Service>>) {
    if services.changed().await.is_err() {
        future::pending().await
    }
}

/// Waits for the next connections; for ever without a source of them.
async fn next_connections(receiver: &mut Option<ConnectionsReceiver>) -> Arc<Connections> {
    if let Some(receiver) = receiver {
        while receiver.changed().await.is_ok() {
            if let Some(connections) = receiver.borrow_and_update().clone() {
                return connections;
            }
        }
    }
    future::pending().await
}

/// Waits for the next view of the network; for ever without one.
async fn next_network(receiver: &mut Option<NetworkReceiver>) -> Arc<NetworkView> {
    if let Some(receiver) = receiver {
        while receiver.changed().await.is_ok() {
            if let Some(view) = receiver.borrow_and_update().clone() {
                return view;
            }
        }
    }
    future::pending().await
}

/// Puts `error` and `missing` into `status`, and emits an event if they are new.
fn note_state(status: &mut SourceStatus, error: Option<String>, mut missing: Vec<Missing>, events: &Events) {
    for missing in &mut missing {
        let mut known = status.missing.iter();
        let is_same = |known: &&Missing| known.kind == missing.kind && known.place == missing.place;
        if let Some(known) = known.find(is_same) {
            missing.since = known.since;
        }
    }
    let state = |error: &Option<String>, missing: &[Missing]| match error {
        Some(_) => "lost",
        None if missing.is_empty() => "followed",
        None => "incomplete",
    };
    let before = state(&status.error, &status.missing);
    let now = state(&error, &missing);
    let event = match &error {
        Some(error) if status.error.as_ref() != Some(error) => {
            let kept = if status.loaded.is_some() {
                "keeping the last set"
            } else {
                "no complete set yet"
            };
            let text = format!("{error}; {kept}, retrying");
            Some(Event::warn(EventCode::DiscoveryLost, text))
        }
        None if before != now || collections(&missing) != collections(&status.missing) => {
            Some(match describe(&missing) {
                Some(text) => Event::warn(EventCode::DiscoveryLost, text),
                None => Event::new(
                    EventCode::DiscoveryBack,
                    "the Kubernetes API answers again".to_owned(),
                ),
            })
        }
        _ => None,
    };
    if let Some(event) = event {
        events.emit(event.transition(before, now));
    }
    status.error = error;
    status.missing = missing;
}

/// Kind and place of each.
fn collections(missing: &[Missing]) -> Vec<(&str, &str)> {
    let collections = missing.iter();
    collections
        .map(|missing| (missing.kind.as_str(), missing.place.as_str()))
        .collect()
}

fn describe(missing: &[Missing]) -> Option<String> {
    let texts: Vec<String> = missing.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| format!("{}; serving without them, retrying", texts.join("; ")))
}

/// Sends `now` if it differs from the last value.
fn replace<T: PartialEq>(sender: &watch::Sender<Arc<Vec<T>>>, now: Vec<T>) {
    sender.send_if_modified(|last| {
        let changed = **last != now;
        if changed {
            *last = Arc::new(now);
        }
        changed
    });
}
