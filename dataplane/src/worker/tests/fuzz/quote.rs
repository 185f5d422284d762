//! ICMP errors that the balancer has translated: the quoted packet must be one that their receiver has sent.

use std::net::SocketAddr;

use vl3lb_common::Protocol;

use super::model::{Flow, Mapping, Nat};
use super::network::Network;
use super::seen::{addresses_of, tuple_of};

/// Checks the error that came out for the one that went in.
///
/// # Panics
/// When it is about another flow than the one that went in, or not for that flow's host, or about a fragment behind the
/// first one: that has no ports, so nobody knows its sender.
pub(super) fn check(nat: &Nat, network: &Network, input: &[u8], output: &[u8], ethernet: bool) {
    let is_later = quote_of(input, ethernet).is_some_and(is_later_fragment);
    assert!(
        !is_later,
        "an error about a fragment without ports came out: {input:02x?} as {output:02x?}"
    );
    let (Some(input), Some(quoted)) = (quoted(input, ethernet), quoted(output, ethernet)) else {
        return;
    };
    let (_, receiver) = addresses_of(output, ethernet).expect("checked");
    let (protocol, from, to) = input;
    assert_eq!(quoted.0, protocol, "{input:?} became {quoted:?}");
    assert_eq!(
        quoted.1.ip(),
        receiver,
        "{receiver} gets an error about {quoted:?}, which it has not sent"
    );
    let (flow, mapping) = if network.is_nat_port(from) {
        let flow = Flow {
            protocol,
            client: quoted.1,
            service: quoted.2,
        };
        let mapping = Mapping {
            protocol,
            outside: from,
            backend: to,
        };
        (flow, mapping)
    } else {
        let flow = Flow {
            protocol,
            client: to,
            service: from,
        };
        let mapping = Mapping {
            protocol,
            outside: quoted.2,
            backend: quoted.1,
        };
        (flow, mapping)
    };
    nat.replied(&mapping, &flow);
}

/// Protocol, source and destination of the packet that an ICMP error quotes.
fn quoted(packet: &[u8], ethernet: bool) -> Option<(Protocol, SocketAddr, SocketAddr)> {
    tuple_of(quote_of(packet, ethernet)?, false)
}

/// The packet that an ICMP error quotes.
fn quote_of(packet: &[u8], ethernet: bool) -> Option<&[u8]> {
    let ip = packet.get(if ethernet { 14 } else { 0 }..)?;
    let icmp = match (ip.first()? >> 4, ip.get(9)?, ip.get(6)?) {
        (4, 1, _) => usize::from(ip[0] & 0xf) * 4,
        (6, _, 58) => 40,
        _ => return None,
    };
    ip.get(icmp + 8..)
}

/// Whether an IP packet is a fragment behind the first one of its datagram.
fn is_later_fragment(ip: &[u8]) -> bool {
    let offset = |at: usize, mask: u16| {
        let word = ip.get(at..at + 2).and_then(|word| word.try_into().ok());
        word.is_some_and(|word| u16::from_be_bytes(word) & mask != 0)
    };
    match (ip.first().map(|first| first >> 4), ip.get(6)) {
        (Some(4), _) => offset(6, 0x1fff),
        // A Fragment header at once.
        (Some(6), Some(44)) => offset(42, 0xfff8),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use vl3lb_common::schedule::Scheduler;
    use vl3lb_common::{BackendState, Duration};

    use super::super::network::{self, BACKENDS};
    use super::*;
    use crate::packet::Framing;
    use crate::testing::builder::{self, Addresses};

    /// An error about each fragment of a datagram.
    fn errors(is_v4: bool) -> Vec<Vec<u8>> {
        let own = SocketAddr::new(network::own(is_v4), 20_000);
        let backend = SocketAddr::new(network::backend(is_v4, 0), 8081);
        let addresses = |source, destination| Addresses {
            macs: None,
            source,
            destination,
            ttl: 64,
        };
        let datagram = builder::udp(addresses(own, backend), &[7; 100]);
        builder::fragments(&datagram, false, 64, 9)
            .iter()
            .map(|fragment| {
                let kind = if is_v4 { 3 } else { 1 };
                builder::icmp_error(addresses(backend, own), kind, 1, 0, fragment)
            })
            .collect()
    }

    #[test]
    fn fragments_behind_the_first_one_are_known_by_their_offset() {
        for is_v4 in [true, false] {
            let later = errors(is_v4)
                .iter()
                .map(|error| is_later_fragment(quote_of(error, false).unwrap()))
                .collect::<Vec<_>>();
            assert_eq!(later, [false, true], "{is_v4}");
        }
    }

    #[test]
    #[should_panic(expected = "an error about a fragment without ports")]
    fn an_error_about_a_later_fragment_is_noticed() {
        let error = errors(true).remove(1);
        let network = Network {
            framing: Framing::RawIp,
            nat_ports: (20_000, 23_999),
            scheduler: Scheduler::Maglev,
            affinity: Duration::ZERO,
            is_narrow: false,
            states: [BackendState::Active; BACKENDS],
        };
        check(&Nat::new(false), &network, &error, &error, false);
    }
}
