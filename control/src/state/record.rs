//! What the state remembers about each slot.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::api::{BackendCounts, ServiceState};
use ipnet::IpNet;
use vl3lb_common::schedule::{Pool, Scheduler};
use vl3lb_common::snapshot::{Backend, BackendSlot, BackendState, Generation, ServiceSlot};
use vl3lb_common::stats::{BackendStats, ServiceStats};
use vl3lb_common::{Duration, MacAddr, Protocol};

use super::wanted::BackendIdentity;
use super::{Event, Moment};
use crate::config::HealthCheck;
use crate::discovery::{BackendSpec, Origin, PodPlace, ServiceSpec};

/// The owner of a service slot.
#[derive(Debug)]
pub(super) struct ServiceRecord {
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) attributes: Attributes,
    /// `Some` once removed: the first generation without it.
    pub(super) removed: Option<Generation>,
    /// `None` until its backends have been looked at.
    pub(super) state: Option<ServiceState>,
    /// The state that was told last; `None` of a new one.
    pub(super) told: Option<ServiceState>,
    pub(super) since: SystemTime,
    /// All its backends, leaving ones too, in order.
    pub(super) members: BTreeMap<BackendIdentity, BackendSlot>,
    /// What was wanted for it when all of that was done; empty if something was left out.
    pub(super) settled: Vec<Arc<ServiceSpec>>,
    /// Whether its pools may have to change.
    pub(super) stale: bool,
    pub(super) v4: CachedPool,
    pub(super) v6: CachedPool,
    pub(super) baseline: Option<Arc<ServiceStats>>,
}

impl ServiceRecord {
    /// What is to be told of its state, if it is another than was told last. Of a new one that is as it
    /// should be nothing is: it was added. Of a removed one neither.
    pub(super) fn news(&mut self, backends: BackendCounts) -> Option<Event> {
        let state = self.state?;
        let before = self.told.replace(state);
        let told = before.unwrap_or(ServiceState::Ok);
        (told != state && self.removed.is_none()).then(|| Event::Service {
            name: self.attributes.name.clone(),
            from: before.map_or("new", ServiceState::name),
            to: state,
            up: backends.up,
            total: backends.total,
        })
    }
}

/// What may change about a service while it keeps its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) name: String,
    pub(super) host: Option<String>,
    pub(super) target_port: u16,
    pub(super) selector: BTreeMap<String, String>,
    pub(super) scheduler: Scheduler,
    pub(super) affinity: Duration,
    pub(super) source_ranges: Vec<IpNet>,
    pub(super) drain: Duration,
    pub(super) health_check: Option<HealthCheck>,
}

impl From<&ServiceSpec> for Attributes {
    fn from(spec: &ServiceSpec) -> Self {
        Self {
            name: spec.name.clone(),
            host: spec.host.clone(),
            target_port: spec.target_port,
            selector: spec.selector.clone(),
            scheduler: spec.scheduler,
            affinity: spec.affinity,
            source_ranges: spec.source_ranges.clone(),
            drain: spec.drain,
            health_check: spec.health_check.clone(),
        }
    }
}

/// The owner of a backend slot.
#[derive(Debug)]
pub(super) struct BackendRecord {
    pub(super) service: ServiceSlot,
    /// The generation in which it got its slot.
    pub(super) assigned: Generation,
    pub(super) protocol: Protocol,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// Of its next hop; `None` on a raw-IP link or while it is not known.
    pub(super) mac: Option<MacAddr>,
    pub(super) instance: Option<Arc<str>>,
    pub(super) weight: u16,
    pub(super) origin: Origin,
    pub(super) pod: Option<Arc<PodPlace>>,
    pub(super) state: BackendState,
    /// Draining though it is desired: its flows stay without a limit of time.
    pub(super) held: bool,
    pub(super) since: SystemTime,
    /// While it leaves: when it was not desired any more, and its drain time began.
    pub(super) left: SystemTime,
    /// How often it came into a state.
    pub(super) transitions: u64,
    /// What the source last said about when it changed.
    pub(super) changed: Option<SystemTime>,
    /// While it takes no new flows: the first generation in which it did not.
    pub(super) inactive_from: Generation,
    pub(super) baseline: Option<Arc<BackendStats>>,
}

impl BackendRecord {
    pub(super) fn identity(&self) -> BackendIdentity {
        BackendIdentity {
            address: self.address,
            port: self.port,
            instance: self.instance.clone(),
        }
    }

    /// Whether it leaves: not desired any more, or replaced. One that checks found dead does not.
    pub(super) const fn is_leaving(&self) -> bool {
        match self.state {
            BackendState::Active | BackendState::Unknown | BackendState::Down => false,
            BackendState::Draining { .. } => !self.held,
            BackendState::Gone => true,
        }
    }

    /// Takes over what may change of a desired backend that is to be in state `to`. Whether anything
    /// did.
    pub(super) fn follow(&mut self, spec: &BackendSpec, to: BackendState) -> bool {
        let before = (self.weight, self.origin, self.held);
        let held = matches!(to, BackendState::Draining { .. });
        (self.weight, self.origin, self.held) = (spec.weight, spec.origin, held);
        self.changed = spec.changed;
        let moved = self.pod != spec.pod;
        if moved {
            self.pod.clone_from(&spec.pod);
        }
        moved || before != (self.weight, self.origin, self.held)
    }

    /// Comes into state `to`, unless it is in it already. Whether it did.
    pub(super) fn turn(&mut self, to: BackendState, next: Generation, now: Moment) -> bool {
        if std::mem::discriminant(&self.state) == std::mem::discriminant(&to) {
            return false;
        }
        if self.state.takes_new_flows() {
            self.inactive_from = next;
        }
        self.state = to;
        self.since = now.wall;
        self.transitions += 1;
        true
    }

    /// As the workers see it.
    pub(super) const fn backend(&self, slot: BackendSlot) -> Backend {
        Backend {
            slot,
            since: self.assigned,
            service: self.service,
            address: self.address,
            port: self.port,
            protocol: self.protocol,
            weight: self.weight,
            state: self.state,
            mac: self.mac,
        }
    }
}

/// A pool that is built again only when what it depends on changes: a Maglev table takes
/// milliseconds and 128 KiB, a snapshot may change for many other reasons.
#[derive(Debug)]
pub(super) struct CachedPool {
    scheduler: Scheduler,
    members: Vec<(BackendSlot, u16)>,
    pool: Arc<Pool>,
}

impl CachedPool {
    pub(super) fn empty() -> Self {
        Self {
            scheduler: Scheduler::Maglev,
            members: Vec::new(),
            pool: Arc::new(Pool::Empty),
        }
    }

    /// The pool of those of `backends` that take new flows. A slot never changes its owner while
    /// it is taken, and is left out of every pool before it is freed, so slots and weights say all.
    ///
    /// A backend that no health check has answered is left out as long as another one is up: it may not
    /// be there yet. So is one whose next hop the kernel has not found as long as another one can be
    /// reached: its flows would lose their first packets, and wait a second for the next.
    pub(super) fn refresh(&mut self, scheduler: Scheduler, backends: &[Backend]) {
        let takes_flows = |backend: &&Backend| backend.state.takes_new_flows() && backend.weight > 0;
        let candidates: Vec<&Backend> = backends.iter().filter(takes_flows).collect();
        let candidates = preferred(candidates, |backend| backend.state == BackendState::Active);
        let candidates = preferred(candidates, |backend| backend.mac.is_some());
        let chosen: Vec<Backend> = candidates.into_iter().cloned().collect();
        let members: Vec<_> = chosen
            .iter()
            .map(|backend| (backend.slot, backend.weight))
            .collect();
        if scheduler != self.scheduler || members != self.members {
            self.pool = Arc::new(Pool::build(scheduler, &chosen));
            self.scheduler = scheduler;
            self.members = members;
        }
    }

    pub(super) fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.pool)
    }
}

/// Those of `backends` that are `better`, or all if none is.
fn preferred(backends: Vec<&Backend>, better: impl Fn(&Backend) -> bool) -> Vec<&Backend> {
    if !backends.iter().any(|backend| better(backend)) {
        return backends;
    }
    backends.into_iter().filter(|backend| better(backend)).collect()
}
