//! Publishes snapshots: merges the desired set, the network and the health checks, and hands the result to the
//! workers.
//!
//! Publishing starts with the first complete set and the first address. The first change after a quiet time is
//! published at once, those that follow within milliseconds together. When the interface or a source is lost, the
//! last good state stays in force.

mod current;
mod events;
mod own_network;
mod pace;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::future::pending;
use std::net::IpAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, error, info, warn};
use vl3lb_common::Duration;
use vl3lb_common::dataplane::{Dataplane, PublishError};
use vl3lb_common::flow_query::WorkerEvent;
use vl3lb_common::next_hop::{Link, NextHop};
use vl3lb_common::snapshot::{Generation, NatPorts, Snapshot};

use crate::api::EventCode;
use crate::discovery::{Desired, DesiredReceiver, Origin, ServiceSpec};
use crate::health::HealthTable;
use crate::local_ports::LocalPortsReceiver;
use crate::log::CONTROL_ACTION;
use crate::network::{NetworkReceiver, NetworkView, Resolver};
use crate::observe::events::{Event, Events};
use crate::state::{self, Inputs, State, TimePoint, Update};

use own_network::OwnNetwork;
use pace::Pace;

pub use current::{APPLY_BOUNDS, Current, CurrentReceiver, PROGRAM_BOUNDS, PublisherStats};

/// Two snapshots are at least this far apart, so that a burst of changes becomes one. Changes of the desired set
/// do not wait for those of the network: new backends bring new neighbours, one after the other.
const SETTLE: Duration = Duration::from_millis(2);
/// Two snapshots are also at least this many times as far apart as the last one took to compute: with thousands of
/// backends that change all the time the publisher uses a third of a core at most.
const REST: u32 = 2;
/// Time between two looks at the workers' events, and so the delay of neighbour resolution.
const EVENTS: Duration = Duration::from_millis(50);
/// Time between two looks whether draining backends have flows left.
const DRAINING: Duration = Duration::from_millis(500);
/// Pause before a failed snapshot is published again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the first snapshot waits for the backends' next hops. The kernel repeats a request after a
/// second, and a link that just came up loses its first packets.
const FIRST_NEXT_HOPS: Duration = Duration::from_secs(2);
/// Problems that are logged one by one for each snapshot.
const LOGGED: usize = 10;

/// Publishes snapshots for as long as it runs.
pub struct Publisher {
    dataplane: Arc<dyn Dataplane>,
    desired: DesiredReceiver,
    network: NetworkReceiver,
    local_ports: Option<LocalPortsReceiver>,
    health: Arc<HealthTable>,
    resolver: Resolver,
    state: State,
    own_network: OwnNetwork,
    problems: Vec<String>,
    events: Arc<Events>,
    /// Changes that are not live yet.
    pending_events: Vec<state::Event>,
    current: watch::Sender<Option<Arc<Current>>>,
    stats: Arc<PublisherStats>,
    /// When the first change was seen that is not published yet.
    seen: Option<Instant>,
    /// How long the last snapshot took to work out.
    worked: Duration,
    /// The time of the first complete input.
    started: Option<Instant>,
    /// When the first snapshot was live.
    began: Option<SystemTime>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("generation", &self.state.generation())
            .finish_non_exhaustive()
    }
}

impl Publisher {
    /// A publisher from `desired`, `network` and `health` to `dataplane`, which emits changes to `events` once they
    /// are live.
    pub fn new(
        dataplane: Arc<dyn Dataplane>,
        nat_ports: NatPorts,
        desired: DesiredReceiver,
        network: NetworkReceiver,
        health: Arc<HealthTable>,
        resolver: Resolver,
        events: Arc<Events>,
    ) -> (Self, CurrentReceiver, Arc<PublisherStats>) {
        let (current, receiver) = watch::channel(None);
        let stats = Arc::new(PublisherStats::default());
        let publisher = Self {
            dataplane,
            desired,
            network,
            local_ports: None,
            health,
            resolver,
            state: State::new(nat_ports),
            own_network: OwnNetwork::default(),
            problems: Vec::new(),
            events,
            pending_events: Vec::new(),
            current,
            stats: Arc::clone(&stats),
            seen: None,
            worked: Duration::ZERO,
            started: None,
            began: None,
        };
        (publisher, receiver, stats)
    }

    /// Leaves ports of this host out of the NAT ports.
    pub fn with_local_ports(mut self, local_ports: LocalPortsReceiver) -> Self {
        self.local_ports = Some(local_ports);
        self
    }

    /// Publishes each change until a source or the network's monitor ends.
    pub async fn run(mut self) {
        let mut events = interval(EVENTS);
        events.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut verdicts = self.health.subscribe();
        let mut pace = Pace::from(Instant::now());
        loop {
            tokio::select! {
                changed = self.desired.changed() => {
                    if changed.is_err() { return; }
                    let observed = self.desired.borrow().as_ref().and_then(|desired| desired.observed);
                    pace.desired_changed(self.note_change(observed));
                }
                changed = self.network.changed() => {
                    if changed.is_err() { return; }
                    pace.network_changed(self.note_change(None));
                }
                changed = verdicts.changed() => {
                    if changed.is_err() { return; }
                    pace.desired_changed(self.note_change(None));
                }
                changed = changed(self.local_ports.as_mut()) => {
                    if !changed { return; }
                    pace.network_changed(self.note_change(None));
                }
                _ = events.tick() => self.take_worker_events(),
                () = reached(pace.next()) => {
                    let wait = self.step().await;
                    pace.stepped(Instant::now(), SETTLE.max(self.worked * REST), wait);
                }
            }
        }
    }

    /// Notes a change that was observed at this time, or now. Returns the time now.
    fn note_change(&mut self, observed: Option<Instant>) -> Instant {
        let now = Instant::now();
        let seen = observed.unwrap_or(now).min(self.seen.unwrap_or(now));
        self.seen = Some(seen);
        now
    }

    /// Takes the workers' events: neighbours that their packets need, and cores that they left.
    fn take_worker_events(&self) {
        while let Some(event) = self.dataplane.next_event() {
            match event {
                WorkerEvent::Unresolved(neighbor) => self.resolver.resolve(neighbor),
                WorkerEvent::Moved { worker, from, to } => {
                    let text = format!(
                        "worker {worker} runs on core {to}, was on core {from}: under load, the kernel's receiving takes a core \
                         from its worker; afterwards the worker returns"
                    );
                    let event = Event::warn(EventCode::WorkerMoved, text);
                    self.events
                        .emit(event.transition(&from.to_string(), &to.to_string()));
                }
            }
        }
    }

    /// Publishes a snapshot if its inputs changed. Returns the time until the next step that is due without a change.
    async fn step(&mut self) -> Option<Duration> {
        // A step without a change was triggered by a deadline.
        let seen = self.seen.take().unwrap_or_else(Instant::now);
        self.follow_network();
        let desired = self.desired.borrow_and_update().clone()?;
        let network = self.own_network.current().cloned()?;
        if let Some(wait) = self.first_next_hops(&desired, &network) {
            return Some(wait);
        }
        if let Some(ports) = &mut self.local_ports {
            self.state.set_kernel_ports(&ports.borrow_and_update().kernel);
        }
        let findings = self.health.findings();
        let begin = Instant::now();
        let update = self.state.update(Inputs {
            desired: &desired,
            network: &network,
            health: &findings,
            now: TimePoint {
                monotonic: self.dataplane.now(),
                wall: SystemTime::now(),
            },
            workers: self.dataplane.stats(),
        });
        self.worked = begin.elapsed();
        if let Some(update) = &update {
            self.pending_events.extend_from_slice(&update.changes.events);
        }
        if let Some(update) = update
            && let Err(reason) = self.publish(update, seen).await
        {
            self.seen = Some(seen);
            self.state.mark_stale();
            error!(
                "publish snapshot {}: {reason}; trying again",
                self.state.generation().0
            );
            return Some(RETRY);
        }
        let deadline = self
            .state
            .next_deadline()
            .map(|deadline| deadline.since(self.dataplane.now()));
        let draining = self.state.is_draining().then_some(DRAINING);
        let addresses = self.own_network.deadline();
        let addresses = addresses.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        deadline.into_iter().chain(draining).chain(addresses).min()
    }

    /// How long to delay the first snapshot until the kernel has resolved a backend of each service
    /// and family: the first snapshot makes the balancer ready, and its first flows must not lose packets.
    fn first_next_hops(&mut self, desired: &Desired, network: &NetworkView) -> Option<Duration> {
        let started = *self.started.get_or_insert_with(Instant::now);
        let left = FIRST_NEXT_HOPS.checked_sub(started.elapsed())?;
        if self.state.generation() != Generation(0) || network.next_hops.link == Link::RawIp {
            return None;
        }
        let unreachable = |service: &Arc<ServiceSpec>| {
            let mut families = [None, None];
            for backend in &service.backends {
                let found = matches!(network.next_hops.resolve(backend.address), NextHop::Mac(_));
                let family = &mut families[usize::from(backend.address.is_ipv6())];
                *family = Some(family.unwrap_or(false) || found);
            }
            families.contains(&Some(false))
        };
        if !desired.services.iter().any(unreachable) {
            return None;
        }
        let backends = desired.services.iter().flat_map(|service| &service.backends);
        let addresses: HashSet<IpAddr> = backends.map(|backend| backend.address).collect();
        self.resolver.keep(addresses);
        Some(left)
    }

    /// Takes over the newest view of the network.
    fn follow_network(&mut self) {
        let Some(view) = self.network.borrow_and_update().clone() else {
            return;
        };
        let was_usable = self.own_network.is_usable();
        self.own_network.update(&view, Instant::now());
        if was_usable && !view.usable() {
            let generation = self.state.generation().0;
            warn!("no interface or address to balance on; keeping snapshot {generation}");
        }
    }

    /// Hands an update, whose first change was seen at `seen`, to the workers.
    async fn publish(&mut self, update: Update, seen: Instant) -> Result<(), PublishError> {
        let dataplane = Arc::clone(&self.dataplane);
        let snapshot = Arc::clone(&update.snapshot);
        let span = tracing::info_span!(
            target: CONTROL_ACTION,
            "publish",
            generation = snapshot.generation.0,
            services = snapshot.services.len(),
        );
        let publishing = tokio::task::spawn_blocking(move || span.in_scope(|| dataplane.publish(snapshot)));
        // Meanwhile, new backends are resolved.
        let backends = update.snapshot.backend_slots.iter().flatten();
        self.resolver
            .keep(backends.map(|backend| backend.address).collect());
        let outcome = match publishing.await {
            Ok(outcome) => outcome,
            // The supervisor of this task reports it.
            Err(ended) => resume_unwind(ended.into_panic()),
        };
        self.stats.record(&outcome);
        outcome?;
        self.resolver.published(update.snapshot.next_hops.link);
        let (applied_in, published) = (seen.elapsed(), SystemTime::now());

        let micros = u64::try_from(applied_in.as_micros()).unwrap_or(u64::MAX);
        self.stats.applied.observe(micros, &APPLY_BOUNDS);
        self.measure_programming(&update);
        self.current.send_replace(Some(Arc::new(Current {
            snapshot: Arc::clone(&update.snapshot),
            directory: Arc::clone(&update.directory),
            published,
            applied_in,
        })));
        // Events come after the state that they are about.
        self.emit(&update, applied_in);
        Ok(())
    }

    /// Measures the time since changes in Kubernetes. Changes before the first snapshot are not this balancer's delay.
    fn measure_programming(&mut self, update: &Update) {
        let now = SystemTime::now();
        let began = *self.began.get_or_insert(now);
        for &(origin, caused) in &update.changes.caused {
            if origin != Origin::Kubernetes || caused < began {
                continue;
            }
            let took = now.duration_since(caused).unwrap_or_default();
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.stats.programmed.observe(micros, &PROGRAM_BOUNDS);
        }
    }

    fn emit(&mut self, update: &Update, applied_in: Duration) {
        let changes = std::mem::take(&mut self.pending_events);
        self.events.emit_all(changes.iter().map(Event::from).collect());
        if self.problems != update.directory.problems {
            self.problems.clone_from(&update.directory.problems);
            for problem in self.problems.iter().take(LOGGED) {
                warn!("{problem}");
            }
        }
        let line = summary(&update.snapshot, update, applied_in);
        let generation = update.snapshot.generation.0;
        if update.changes.notable {
            info!(generation, "{line}");
        } else {
            debug!(generation, "{line}");
        }
    }
}

/// Waits for a change; for ever without a receiver. False if the sender is gone.
async fn changed(receiver: Option<&mut LocalPortsReceiver>) -> bool {
    match receiver {
        Some(receiver) => receiver.changed().await.is_ok(),
        None => pending().await,
    }
}

/// Waits until `time`; for ever without one. A time that has passed does not wait for the timer's next millisecond.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) if time > Instant::now() => sleep_until(time).await,
        Some(_) => {}
        None => pending().await,
    }
}

/// `snapshot 41 -> 42: 3 services, 14 backends (+1 -2), applied in 3ms`
fn summary(snapshot: &Snapshot, update: &Update, applied_in: Duration) -> String {
    let generation = snapshot.generation.0;
    let services = update.directory.live_services().count();
    let backends = update.directory.active_backends().count();
    let changes = &update.changes;
    format!(
        "snapshot {} -> {generation}: {services} services, {backends} backends (+{} -{}), applied in {}",
        generation - 1,
        changes.added,
        changes.removed,
        rounded(applied_in)
    )
}

/// `3ms`, or `250us` below a millisecond.
fn rounded(duration: Duration) -> String {
    match duration.as_millis() {
        0 => format!("{}us", duration.as_micros()),
        millis => format!("{millis}ms"),
    }
}
