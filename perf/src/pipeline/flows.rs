//! The flows of the benchmark: their clients, the flow of each packet, and the translation of each flow.

use std::net::{Ipv4Addr, SocketAddrV4};

use vl3lb_dataplane::Framing;

use super::args::Distribution;
use super::world::{BACKEND_PORT, OWN_ADDRESS};
use crate::frame::{Layout, be16, be32};
use crate::load::pattern::Pattern;

/// Flows of one client address.
const PORTS_PER_CLIENT: u32 = 64;
const FIRST_CLIENT_PORT: u16 = 40_000;
/// A prime above the largest number of flows, so that no two ranks are the same flow.
const PRIME: u64 = 2_654_435_761;

/// Address and port of the client of flow `number`: 64 flows for each address from 10.0.0.1 on, as a full
/// table has no place for a client with more than half of its flows.
pub(super) fn client(number: u32) -> SocketAddrV4 {
    let address = Ipv4Addr::new(10, 0, 0, 1).to_bits() + number / PORTS_PER_CLIENT;
    let port = u16::try_from(number % PORTS_PER_CLIENT).expect("below 64") + FIRST_CLIENT_PORT;
    SocketAddrV4::new(Ipv4Addr::from_bits(address), port)
}

/// The translation of a flow, for its replies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Translated {
    backend: Ipv4Addr,
    nat_port: u16,
}

impl Translated {
    /// From a request after the engine.
    pub(super) fn from_request(bytes: &[u8]) -> Option<Self> {
        let layout = Layout::of(bytes, Framing::Ethernet)?;
        Some(Self {
            backend: Ipv4Addr::from_bits(be32(bytes, layout.addresses + 4)),
            nat_port: be16(bytes, layout.transport),
        })
    }

    /// Source and destination of a reply.
    pub(super) const fn reply(self) -> (SocketAddrV4, SocketAddrV4) {
        let backend = SocketAddrV4::new(self.backend, BACKEND_PORT);
        (backend, SocketAddrV4::new(OWN_ADDRESS, self.nat_port))
    }
}

/// The sequence of flows.
pub(super) struct Flows {
    pattern: Pattern,
    /// Whether a number of the pattern is a rank.
    ranked: bool,
}

impl Flows {
    pub(super) fn new(distribution: Distribution, flows: u32, seed: u64) -> Self {
        Self {
            pattern: Pattern::new(distribution.spread(), flows, 0, 1, seed),
            ranked: distribution == Distribution::Zipf,
        }
    }

    /// The flow of the next packet. Popular flows are not neighbours in the table.
    pub(super) fn pick(&mut self) -> u32 {
        let flow = self.pattern.next_flow();
        if self.ranked {
            scatter(flow, self.pattern.flows())
        } else {
            flow
        }
    }
}

/// The flow of a rank.
fn scatter(rank: u32, flows: u32) -> u32 {
    u32::try_from(u64::from(rank) * PRIME % u64::from(flows)).expect("below the number of flows")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn clients_differ() {
        let ends: HashSet<SocketAddrV4> = (0..100_000).map(client).collect();
        assert_eq!(ends.len(), 100_000);
    }

    #[test]
    fn every_rank_is_a_different_flow() {
        let flows: HashSet<u32> = (0..1000).map(|rank| scatter(rank, 1000)).collect();
        assert_eq!(flows.len(), 1000);
    }
}
