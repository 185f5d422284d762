//! The owners of slots.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::api::{BackendCounts, ServiceState};
use ipnet::IpNet;
use vl3lb_common::schedule::{Pool, Scheduler};
use vl3lb_common::snapshot::{Backend, BackendSlot, BackendState, Generation, ServiceSlot};
use vl3lb_common::stats::{BackendStats, ServiceStats};
use vl3lb_common::{BackendSockets, Duration, MacAddr, Protocol};

use super::merge::BackendIdentity;
use super::{Event, TimePoint};
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
    /// `None` until the first refresh.
    pub(super) state: Option<ServiceState>,
    /// The state in the last event; `None` for a new service.
    pub(super) emitted: Option<ServiceState>,
    pub(super) since: SystemTime,
    /// All its backends, draining ones too, in order.
    pub(super) members: BTreeMap<BackendIdentity, BackendSlot>,
    /// The specifications that were applied completely; empty if something was left out.
    pub(super) applied: Vec<Arc<ServiceSpec>>,
    /// Whether its pools may have to change.
    pub(super) stale: bool,
    pub(super) v4: CachedPool,
    pub(super) v6: CachedPool,
    /// Empty for TCP.
    pub(super) backend_sockets: Arc<BackendSockets>,
    pub(super) baseline: Option<Arc<ServiceStats>>,
}

impl ServiceRecord {
    /// The event to emit if the state changed; none for a new healthy or a removed service.
    pub(super) fn event(&mut self, backends: BackendCounts) -> Option<Event> {
        let state = self.state?;
        let before = self.emitted.replace(state);
        let last = before.unwrap_or(ServiceState::Ok);
        (last != state && self.removed.is_none()).then(|| Event::Service {
            name: self.attributes.name.clone(),
            from: before.map_or("new", ServiceState::name),
            to: state,
            up: backends.up,
            total: backends.total,
        })
    }
}

/// The attributes of a service that may change while it keeps its slot.
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
    /// Desired for existing flows only: it drains without a time limit.
    pub(super) held: bool,
    pub(super) since: SystemTime,
    /// When its drain time began, if it is draining.
    pub(super) left: SystemTime,
    /// Number of state changes.
    pub(super) transitions: u64,
    /// When its source changed it last, according to the source.
    pub(super) changed: Option<SystemTime>,
    /// The first generation in which it got no new flows, while it gets none.
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

    /// Whether its slot is to be freed: not desired any more, or replaced. A backend that checks found dead
    /// keeps it.
    pub(super) const fn is_ending(&self) -> bool {
        match self.state {
            BackendState::Active | BackendState::Unknown | BackendState::Down => false,
            BackendState::Draining { .. } => !self.held,
            BackendState::Gone => true,
        }
    }

    /// Takes over the attributes of `spec` for a backend that comes into state `to`. Whether any changed.
    pub(super) fn update(&mut self, spec: &BackendSpec, to: BackendState) -> bool {
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

    /// Changes to state `to`. Returns whether the state is another one.
    pub(super) fn transition(&mut self, to: BackendState, next: Generation, now: TimePoint) -> bool {
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

    /// Its entry in a snapshot.
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

/// A pool that is rebuilt only when its members or scheduler change: a Maglev table takes milliseconds and
/// 128 KiB.
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

    /// The pool of those of `backends` that take new flows. Slots and weights identify its members: a slot is
    /// out of every pool before it is freed.
    ///
    /// A backend without a finding yet is used only while no other is up: it may not be there yet. A backend
    /// whose next hop is unresolved is used only while no other is reachable: its flows would lose their first
    /// packets, and wait a second for the next.
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
