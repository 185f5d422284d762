//! The owners of slots.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::api::{BackendCounts, ServiceState};
use ipnet::IpNet;
use vl3lb_common::schedule::Scheduler;
use vl3lb_common::snapshot::{Backend, BackendSlot, BackendState, Generation, ServiceSlot};
use vl3lb_common::stats::{BackendStats, ServiceStats};
use vl3lb_common::{BackendSockets, ClientAddress, Duration, MacAddr, Protocol, Timestamp};

use super::merge::BackendIdentity;
use super::pool::CachedPool;
use super::slow_start::Share;
use super::{Event, TimePoint};
use crate::config::{FlowRules, HealthCheck, ListenAddresses};
use crate::discovery::{BackendSpec, Eligibility, Origin, PodPlace, ServiceSpec};

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
    /// Whether all its backends are down and get new flows nevertheless.
    pub(super) fails_open: bool,
    /// Whether one of its backends has a part of its weight only.
    pub(super) is_slow: bool,
    /// The state in the last event, and whether it failed open then; `None` for a new service.
    pub(super) emitted: Option<(ServiceState, bool)>,
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
    pub(super) fn event(&mut self, backends: BackendCounts, fails_open: bool) -> Option<Event> {
        let state = self.state?;
        let before = self.emitted.replace((state, fails_open));
        let last = before.unwrap_or((ServiceState::Ok, false));
        (last != (state, fails_open) && self.removed.is_none()).then(|| Event::Service {
            name: self.attributes.name.clone(),
            from: before.map_or("new", |(state, _)| state.name()),
            to: state,
            fails_open,
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
    pub(super) namespace: Option<String>,
    pub(super) addresses: ListenAddresses,
    pub(super) target_port: u16,
    pub(super) selector: BTreeMap<String, String>,
    pub(super) scheduler: Scheduler,
    pub(super) affinity: Duration,
    pub(super) source_ranges: Vec<IpNet>,
    pub(super) client_address: ClientAddress,
    pub(super) drain: Duration,
    pub(super) health_check: Option<HealthCheck>,
    pub(super) rules: FlowRules,
}

impl From<&ServiceSpec> for Attributes {
    fn from(spec: &ServiceSpec) -> Self {
        Self {
            name: spec.name.clone(),
            host: spec.host.clone(),
            namespace: spec.namespace.clone(),
            addresses: spec.addresses.clone(),
            target_port: spec.target_port,
            selector: spec.selector.clone(),
            scheduler: spec.scheduler,
            affinity: spec.affinity,
            source_ranges: spec.source_ranges.clone(),
            client_address: spec.client_address,
            drain: spec.drain,
            health_check: spec.health_check.clone(),
            rules: spec.rules.clone(),
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
    pub(super) backup: bool,
    /// When it came up last, and its share of its weight since then.
    pub(super) risen: Timestamp,
    pub(super) share: Share,
    /// Whether its source wants new flows for it.
    pub(super) is_eligible: bool,
    /// Whether it is down and gets new flows, since all backends of its service are down.
    pub(super) failing_open: bool,
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
        let before = (self.weight, self.backup, self.origin, self.held);
        let held = matches!(to, BackendState::Draining { .. });
        (self.weight, self.backup, self.origin, self.held) = (spec.weight, spec.backup, spec.origin, held);
        self.changed = spec.changed;
        self.is_eligible = spec.eligibility == Eligibility::NewFlows;
        let moved = self.pod != spec.pod;
        if moved {
            self.pod.clone_from(&spec.pod);
        }
        moved || before != (self.weight, self.backup, self.origin, self.held)
    }

    /// Changes to state `to`. Returns whether the state is another one.
    pub(super) fn transition(&mut self, to: BackendState, next: Generation, now: TimePoint) -> bool {
        if std::mem::discriminant(&self.state) == std::mem::discriminant(&to) {
            return false;
        }
        if self.state.takes_new_flows() || self.failing_open {
            self.inactive_from = next;
        }
        if to == BackendState::Active {
            self.risen = now.monotonic;
        }
        self.failing_open = false;
        self.state = to;
        self.since = now.wall;
        self.transitions += 1;
        true
    }

    /// Whether only checks keep new flows from it.
    pub(super) fn may_fail_open(&self) -> bool {
        self.state == BackendState::Down && self.is_eligible
    }

    /// Lets it get new flows while it is down, or ends that with this generation.
    pub(super) fn fail_open(&mut self, fails_open: bool, generation: Generation) {
        let fails_open = fails_open && self.may_fail_open();
        if self.failing_open && !fails_open {
            self.inactive_from = generation;
        }
        self.failing_open = fails_open;
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
            // To a worker it is one of which nothing is known.
            state: if self.failing_open {
                BackendState::Unknown
            } else {
                self.state
            },
            mac: self.mac,
        }
    }
}
