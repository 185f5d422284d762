//! What an update changed, for the log and the events.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::SystemTime;

use crate::api::{BackendTransitions, ServiceState};

use crate::discovery::Eligibility;

use crate::discovery::Origin;

/// The difference between two snapshots.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Backends that now take new flows and did not before, and the reverse.
    pub added: usize,
    pub removed: usize,
    pub events: Vec<Event>,
    /// Services, backends, addresses or the MTU changed: something that people follow. Otherwise
    /// only next hops changed or a slot was freed.
    pub notable: bool,
    /// When sources, as they say, had what made backends change their state.
    pub caused: Vec<(Origin, SystemTime)>,
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
        /// `new` if it was not known before.
        from: &'static str,
        to: ServiceState,
        up: usize,
        total: usize,
    },
    Backend {
        service: String,
        backend: SocketAddr,
        /// `new` if it was not known before.
        from: &'static str,
        /// `removed` if it is not known any more.
        to: &'static str,
        /// Why; empty where there is nothing to add.
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
                up,
                total,
            } => match to {
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

/// Why flows of a pod never go on to the next one.
pub(super) const REPLACED: &str = "another instance has its address";
/// Why a draining backend is given up before its time.
pub(super) const DEAD: &str = "its source says it is dead";

/// Why a backend of this `eligibility`, for which its source asks `desired`, changes its state.
pub(super) const fn why(desired: Eligibility, eligibility: Eligibility) -> &'static str {
    match eligibility {
        Eligibility::NewFlows => "",
        Eligibility::ExistingFlows => "its source wants no new flows for it",
        Eligibility::Dead if matches!(desired, Eligibility::Dead) => DEAD,
        Eligibility::Dead => REPLACED,
    }
}

/// How often backends came into each state, by the name of their service.
#[derive(Debug, Default)]
pub(super) struct TransitionCounts(BTreeMap<String, BackendTransitions>);

impl TransitionCounts {
    /// Counts what changed, and forgets services that are not `known`.
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
