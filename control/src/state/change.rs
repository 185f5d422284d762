//! The changes of an update, for the log and the events.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::SystemTime;

use vl3lb_common::snapshot::BackendState;

use super::backend_state::{reason, state_name};
use super::merge::DesiredBackend;
use crate::api::{BackendTransitions, ServiceState};
use crate::discovery::{Eligibility, Origin, ServiceSpec};
use crate::health::Verdict;

/// The difference between two snapshots.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Backends that now take new flows and did not before, and the reverse.
    pub added: usize,
    pub removed: usize,
    pub events: Vec<Event>,
    /// Services, backends, addresses or the MTU changed, which is logged at level info. Otherwise only next
    /// hops changed or a slot was freed.
    pub notable: bool,
    /// The sources and times of the changes that caused changes of backend states.
    pub caused: Vec<(Origin, SystemTime)>,
}

impl Changes {
    /// Records that a backend of `service` came into state `to`; `from` is `None` for a new one. `is_caused`
    /// if its source changed it, and not a check or another backend.
    pub(super) fn backend(
        &mut self,
        service: &ServiceSpec,
        DesiredBackend { spec, eligibility }: DesiredBackend<'_>,
        finding: Option<(Verdict, &str)>,
        from: Option<BackendState>,
        to: BackendState,
        is_caused: bool,
    ) {
        let took_flows = from.is_some_and(BackendState::takes_new_flows);
        self.added += usize::from(to.takes_new_flows() && !took_flows);
        self.removed += usize::from(took_flows && !to.takes_new_flows());
        if is_caused {
            self.caused.extend(spec.changed.map(|time| (spec.origin, time)));
        }
        self.events.push(Event::Backend {
            service: service.name.clone(),
            backend: (spec.address, spec.port).into(),
            from: from.map_or("new", state_name),
            to: state_name(to),
            reason: reason(finding, from, to)
                .map_or_else(|| why(spec.eligibility, eligibility).into(), Cow::Owned),
        });
    }
}

/// One change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    ServiceAdded {
        name: String,
    },
    ServiceRemoved {
        name: String,
    },
    Service {
        name: String,
        /// `new` for a new one.
        from: &'static str,
        to: ServiceState,
        /// Whether all backends are down and get new flows nevertheless.
        fails_open: bool,
        up: usize,
        total: usize,
    },
    Backend {
        service: String,
        backend: SocketAddr,
        /// `new` for a new one.
        from: &'static str,
        /// `removed` once its slot is free.
        to: &'static str,
        /// Empty if unknown.
        reason: Cow<'static, str>,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceAdded { name } => write!(f, "service {name} added"),
            Self::ServiceRemoved { name } => write!(f, "service {name} removed"),
            Self::Service {
                name,
                from,
                to,
                fails_open,
                up,
                total,
            } => match to {
                _ if *fails_open => write!(
                    f,
                    "service {name} {from} -> {}: no backend up (0 of {total}); it fails open, so all get new flows",
                    to.name()
                ),
                ServiceState::Down => write!(
                    f,
                    "service {name} {from} -> down: no backend up (0 of {total}); new flows are refused"
                ),
                to => write!(
                    f,
                    "service {name} {from} -> {}: {up} of {total} backends up",
                    to.name()
                ),
            },
            Self::Backend {
                service,
                backend,
                from,
                to,
                reason,
            } => {
                let separator = if reason.is_empty() { "" } else { ": " };
                write!(f, "backend {service}/{backend} {from} -> {to}{separator}{reason}")
            }
        }
    }
}

/// The reason for ending the flows of a replaced instance.
pub(super) const REPLACED: &str = "another instance has its address";
/// The reason for ending a drain early.
pub(super) const DEAD: &str = "its source says it is dead";

/// The reason for a state that follows from `eligibility`; its source asked for `desired`.
pub(super) const fn why(desired: Eligibility, eligibility: Eligibility) -> &'static str {
    match eligibility {
        Eligibility::NewFlows => "",
        Eligibility::ExistingFlows => "its source wants no new flows for it",
        Eligibility::Dead if matches!(desired, Eligibility::Dead) => DEAD,
        Eligibility::Dead => REPLACED,
    }
}

/// Transitions of backends into each state, by service name.
#[derive(Debug, Default)]
pub(super) struct TransitionCounts(BTreeMap<String, BackendTransitions>);

impl TransitionCounts {
    /// Counts the transitions in `changes`, and drops services that are not `known`.
    pub(super) fn count(&mut self, changes: &Changes, known: &HashSet<&str>) {
        for event in &changes.events {
            let Event::Backend { service, to, .. } = event else {
                continue;
            };
            let counts = self.0.entry(service.clone()).or_default();
            match *to {
                "up" => counts.up += 1,
                "draining" => counts.draining += 1,
                "unknown" => counts.unknown += 1,
                "down" => counts.down += 1,
                _ => {}
            }
        }
        self.0.retain(|service, _| known.contains(service.as_str()));
    }

    pub(super) fn of(&self, service: &str) -> BackendTransitions {
        self.0.get(service).copied().unwrap_or_default()
    }
}
