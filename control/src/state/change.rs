//! What an update changed, for the log.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use vl3lb_common::report::BackendTransitions;

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
}

/// One change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Service {
        name: String,
        what: &'static str,
    },
    Backend {
        service: String,
        backend: SocketAddr,
        from: &'static str,
        to: &'static str,
        /// The health check that made it so.
        why: Option<String>,
    },
    /// A service without a backend for new flows, or with one again.
    Outage {
        service: String,
        over: bool,
        up: usize,
        total: usize,
    },
}

impl Event {
    /// Whether something was lost that worked before, by no one's wish.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Backend { to, .. } => *to == "down",
            Self::Outage { .. } => self.is_error(),
            Self::Service { .. } => false,
        }
    }

    /// Whether it needs a person now.
    pub const fn is_error(&self) -> bool {
        matches!(self, Self::Outage { over: false, .. })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { name, what } => write!(f, "service {name} {what}"),
            Self::Backend {
                service,
                backend,
                from,
                to,
                why,
            } => {
                write!(f, "backend {service}/{backend} {from} -> {to}")?;
                why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
            }
            Self::Outage {
                service,
                over,
                up,
                total,
            } => {
                if *over {
                    write!(
                        f,
                        "service {service}: takes new flows again ({up} of {total} backends up)"
                    )
                } else {
                    write!(
                        f,
                        "service {service}: no backend up ({up} of {total}); new flows are refused"
                    )
                }
            }
        }
    }
}

/// How often backends came into each state, by the name of their service.
#[derive(Debug, Default)]
pub(super) struct TransitionCounts(BTreeMap<String, BackendTransitions>);

impl TransitionCounts {
    /// Counts what changed, and forgets services for which `known` says no.
    pub(super) fn count(&mut self, changes: &Changes, known: impl Fn(&str) -> bool) {
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
        self.0.retain(|service, _| known(service));
    }

    pub(super) fn of(&self, service: &str) -> BackendTransitions {
        self.0.get(service).copied().unwrap_or_default()
    }
}
