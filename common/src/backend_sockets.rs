//! The sockets that a service's live backends answer from.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::backend::{Backend, BackendState};

/// Addresses and ports of the backends of one service. A datagram that comes from one of them was forged, or would make
/// two backends answer each other for ever: each takes the other's answer for a request.
///
/// Workers look into it for each new flow, so it hashes fast; its keys are the control side's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackendSockets(HashSet<(IpAddr, u16), foldhash::fast::RandomState>);

impl BackendSockets {
    /// The sockets of those of `backends` that may have flows: all but [`BackendState::Gone`]. O(backends); control side
    /// only.
    pub fn new<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> Self {
        let live = backends
            .into_iter()
            .filter(|backend| backend.state != BackendState::Gone);
        Self(live.map(|backend| (backend.address, backend.port)).collect())
    }

    /// Whether a backend answers from this address and port. O(1).
    #[inline]
    pub fn contains(&self, address: IpAddr, port: u16) -> bool {
        !self.0.is_empty() && self.0.contains(&(address, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BackendSlot, Generation, Protocol, ServiceSlot, Timestamp};

    #[test]
    fn sockets_are_those_of_backends_that_may_have_flows() {
        let since = Timestamp(0);
        let states = [
            (BackendState::Active, true),
            (BackendState::Unknown, true),
            (BackendState::Draining { since }, true),
            (BackendState::Down, true),
            (BackendState::Gone, false),
        ];
        let address = IpAddr::from([172, 16, 1, 2]);
        for (state, live) in states {
            let backend = Backend {
                slot: BackendSlot(0),
                since: Generation(1),
                service: ServiceSlot(0),
                address,
                port: 8081,
                protocol: Protocol::Udp,
                weight: 0,
                state,
                mac: None,
            };
            let sockets = BackendSockets::new([&backend]);
            assert_eq!(sockets.contains(address, 8081), live, "{state:?}");
            assert!(!sockets.contains(address, 8082), "{state:?}");
            assert!(!sockets.contains([172, 16, 1, 3].into(), 8081), "{state:?}");
        }
    }
}
