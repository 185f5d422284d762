//! The reporter: builds reports, and knows readiness and liveness.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::api::{NsmConnection, Report, Time};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use vl3lb_common::dataplane::Dataplane;
use vl3lb_common::stats::WorkerStats;
use vl3lb_common::{Duration, Timestamp};

use super::active_since::ActiveSince;
use super::build::{self, Facts, Identity};
use super::capacity::Capacity;
use super::counters::{Sample, Window};
use super::measures::{Course, Measures};
use super::readiness::NotReady;
use super::{process, readiness};
use crate::attachment::FailureReceiver;
use crate::discovery::SourceStatus;
use crate::dns::DnsStats;
use crate::flow_log::FlowLogStats;
use crate::health::HealthTable;
use crate::local_ports::LocalPortsReceiver;
use crate::network::NetworkReceiver;
use crate::nsm::client::Handle;
use crate::observe::capture::Captures;
use crate::observe::events::Events;
use crate::observe::flow_events::FlowEvents;
use crate::observe::flows::{ServiceNames, service_names};
use crate::peers::Membership;
use crate::publisher::{Current, CurrentReceiver, PublisherStats};

/// A worker whose loop has not run for this long is stuck: idle ones run it every second.
pub const WORKER_STUCK: Duration = Duration::from_secs(30);
/// Counters are sampled this often.
const SAMPLE: Duration = Duration::from_secs(1);

/// A worker whose loop makes no progress.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("worker {worker} has made no progress for {seconds}s")]
pub struct StuckWorker {
    worker: usize,
    seconds: u64,
}

/// The inputs of the reporter.
pub struct Sources {
    pub dataplane: Arc<dyn Dataplane>,
    /// The snapshot in use; `None` before the first one.
    pub current: CurrentReceiver,
    pub network: NetworkReceiver,
    /// Ports of the range of NAT ports that are this host's.
    pub local_ports: LocalPortsReceiver,
    /// Why attaching to the interface failed.
    pub attach_failure: FailureReceiver,
    pub health: Arc<HealthTable>,
    /// How the source of backends is doing.
    pub source: watch::Receiver<SourceStatus>,
    /// How the addresses of pods are doing, where they have a source of their own.
    pub connections: Option<watch::Receiver<SourceStatus>>,
    /// How the configuration file is doing; the same where it is the source.
    pub file: watch::Receiver<SourceStatus>,
    pub publisher: Arc<PublisherStats>,
    pub dns: Arc<DnsStats>,
    pub events: Arc<Events>,
    /// `None` without a group.
    pub membership: Option<Membership>,
    /// `None` where another process makes the interface.
    pub nsm: Option<Handle>,
    /// `None` without a flow log.
    pub flow_log: Option<Arc<FlowLogStats>>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources")
            .field("current", &self.current)
            .field("network", &self.network)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// Builds reports, and knows whether the balancer is ready and alive.
#[derive(Debug)]
pub struct Reporter {
    identity: Identity,
    sources: Sources,
    flow_events: Arc<FlowEvents>,
    captures: Arc<Captures>,
    /// When workers were first seen.
    workers_since: OnceLock<Timestamp>,
    window: Mutex<Window>,
    active_since: Mutex<ActiveSince>,
    course: Mutex<Course>,
    draining: AtomicBool,
}

impl Reporter {
    /// A reporter without samples: rates are unknown until [`Self::run`] has taken some.
    pub fn new(identity: Identity, sources: Sources) -> Self {
        let current = sources.current.clone();
        Self {
            identity,
            flow_events: Arc::new(FlowEvents::new(Arc::clone(&sources.dataplane), current.clone())),
            captures: Arc::new(Captures::new(Arc::clone(&sources.dataplane), current)),
            workers_since: OnceLock::new(),
            sources,
            window: Mutex::default(),
            active_since: Mutex::default(),
            course: Mutex::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// Samples the counters once a second, for ever. Also builds a report each time, for the start of each
    /// warning, the events of [`Capacity`] and the course of [`Self::measures`].
    pub async fn run(self: Arc<Self>) {
        let mut ticks = interval(SAMPLE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut capacity = Capacity::default();
        loop {
            ticks.tick().await;
            let reporter = Arc::clone(&self);
            let sampled = spawn_blocking(move || {
                reporter.sample();
                let report = reporter.report();
                lock(&reporter.course).record(&report, reporter.sources.dataplane.now());
                report
            });
            let Ok(report) = sampled.await else {
                // A panic, which is logged: end, which stops the process.
                return;
            };
            for event in capacity.update(&report) {
                self.sources.events.emit(event);
            }
        }
    }

    /// Takes one sample.
    pub fn sample(&self) {
        let sample = self.read_counters(self.current().as_deref());
        lock(&self.window).push(sample);
    }

    /// The state of the balancer now.
    ///
    /// Cost: O(services + backends).
    pub fn report(&self) -> Report {
        let current = self.current();
        let network = self.sources.network.borrow().clone();
        let source = self.sources.source.borrow().clone();
        let connections = self.sources.connections.as_ref();
        let connections = connections.map(|connections| connections.borrow().clone());
        let file = self.sources.file.borrow().clone();
        let dataplane = &*self.sources.dataplane;
        let attachment = dataplane.attachment();
        let attach_failure = self.sources.attach_failure.borrow().clone();
        let sample = self.read_counters(current.as_deref());
        let start = lock(&self.window).start(sample.at);
        let time = Time::now();
        let mut report = build::report(&Facts {
            identity: &self.identity,
            time,
            now: dataplane.now(),
            attachment: attachment.as_deref(),
            attach_failure: attach_failure.as_deref(),
            stats: dataplane.stats(),
            steered: dataplane.steered(),
            sample: &sample,
            start: start.as_deref(),
            current: current.as_deref(),
            network: network.as_deref(),
            health: &self.sources.health,
            checks: &self.sources.health.checks(),
            publisher: &self.sources.publisher,
            source: &source,
            connections: connections.as_ref(),
            file: &file,
            dns: &self.sources.dns,
            events_lost: self.sources.events.lost() + lost_by_workers(dataplane.stats()),
            flow_followers: self.flow_events.subscriber_count(),
            flow_events_lost: self.flow_events.lost(),
            captures: self.captures.count(),
            capture_lost: self.captures.lost(),
            flow_log: self.sources.flow_log.as_deref().map(FlowLogStats::report),
            nsm: self.nsm(),
            peer_group: self.sources.membership.as_ref().map(Membership::report),
            process: process::read(),
            local_ports: Arc::clone(&self.sources.local_ports.borrow()),
            nat_port_capacity: self.nat_port_capacity(current.as_deref()),
            draining: self.is_draining(),
            not_ready: self.readiness().err().map(|reason| reason.to_string()),
        });
        lock(&self.active_since).update(&mut report.status.warnings, time);
        report
    }

    /// Flows at a time towards one backend from one own address, of all workers together: the NAT ports that are not left
    /// out. 0 before there are workers.
    fn nat_port_capacity(&self, current: Option<&Current>) -> u64 {
        if self.sources.dataplane.stats().is_empty() {
            return 0;
        }
        let nat_ports = self.identity.nat_ports;
        let all = u64::from(nat_ports.last() - nat_ports.first()) + 1;
        current.map_or(all, |current| current.snapshot.flow_ports().len().into())
    }

    /// Whether the interface is up and attached, and a complete snapshot is live on it. Errors: why not.
    ///
    /// Cost: O(workers).
    pub fn readiness(&self) -> Result<(), NotReady> {
        let network = self.sources.network.borrow();
        let source = self.sources.source.borrow();
        let current = self.current();
        readiness::readiness(&readiness::Inputs {
            draining: self.is_draining(),
            interface: &self.identity.interface,
            attachment: self.sources.dataplane.attachment().as_deref(),
            attach_failure: self.sources.attach_failure.borrow().as_deref(),
            network: network.as_deref(),
            snapshot: current.as_deref().map(|current| &*current.snapshot),
            source: &source,
            nsm: self.nsm().as_ref(),
            workers: self.sources.dataplane.stats(),
        })
    }

    /// Liveness: every worker loop makes progress, with or without an interface. Errors: which one does not.
    pub fn health(&self) -> Result<(), StuckWorker> {
        let now = self.sources.dataplane.now();
        for (worker, stats) in self.sources.dataplane.stats().iter().enumerate() {
            // The first attachment makes the workers.
            let started = *self.workers_since.get_or_init(|| now);
            let last = match stats.heartbeat.get() {
                0 => started,
                heartbeat => Timestamp(heartbeat),
            };
            let age = now.since(last);
            if age > WORKER_STUCK {
                return Err(StuckWorker {
                    worker,
                    seconds: age.as_secs(),
                });
            }
        }
        Ok(())
    }

    /// Makes the balancer not ready: it is shutting down.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Flows that are open now. Finished ones that are only kept for stragglers do not count.
    pub fn open_flows(&self) -> u64 {
        let current = self.current();
        let backends = current
            .iter()
            .flat_map(|current| current.directory.backends.iter().flatten());
        backends
            .flat_map(|backend| {
                let stats = self.sources.dataplane.stats();
                stats.iter().map(|stats| stats.backend(backend.slot).flows.get())
            })
            .sum()
    }

    /// The longest drain time of all services.
    pub fn longest_drain(&self) -> Duration {
        let current = self.current();
        let services = current
            .iter()
            .flat_map(|current| current.directory.live_services());
        services.map(|service| service.drain).max().unwrap_or_default()
    }

    /// The event log.
    pub fn events(&self) -> &Arc<Events> {
        &self.sources.events
    }

    /// The course of the last minutes, oldest first.
    pub fn measures(&self) -> Vec<Measures> {
        lock(&self.course).points()
    }

    /// Flow events, to subscribe to.
    pub fn flow_events(&self) -> &Arc<FlowEvents> {
        &self.flow_events
    }

    /// Captures, to start one.
    pub fn captures(&self) -> &Arc<Captures> {
        &self.captures
    }

    /// The data plane, to query for flows.
    pub fn dataplane(&self) -> Arc<dyn Dataplane> {
        Arc::clone(&self.sources.dataplane)
    }

    /// Names of services by slot, including removed ones with flows.
    pub fn service_names(&self) -> ServiceNames {
        let current = self.current();
        current.map_or_else(ServiceNames::new, |current| service_names(&current.directory))
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn nsm(&self) -> Option<NsmConnection> {
        self.sources.nsm.as_ref().map(Handle::status)
    }

    /// The snapshot in use; `None` before the first.
    pub fn current(&self) -> Option<Arc<Current>> {
        self.sources.current.borrow().clone()
    }

    fn read_counters(&self, current: Option<&Current>) -> Sample {
        let (services, backends) = current.map_or((0, 0), |current| {
            let directory = &current.directory;
            (directory.services.len(), directory.backends.len())
        });
        let dataplane = &self.sources.dataplane;
        Sample::read(
            dataplane.now(),
            dataplane.stats(),
            services,
            backends,
            process::throttled_now(),
        )
    }
}

/// Requests to resolve neighbours that overflowed a worker's ring.
fn lost_by_workers(stats: &[Arc<WorkerStats>]) -> u64 {
    stats.iter().map(|worker| worker.events_lost.get()).sum()
}

/// What is locked here is consistent after every step, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
