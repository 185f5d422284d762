//! What an update changed, for the log.

use std::fmt;
use std::net::SocketAddr;

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
    },
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
            } => write!(f, "backend {service}/{backend} {from} -> {to}"),
        }
    }
}
