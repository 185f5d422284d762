//! ICMP errors that the balancer has translated: the quoted packet must be one that their receiver has sent.

use std::net::SocketAddr;

use vl3lb_common::Protocol;

use super::model::{Flow, Mapping, Nat};
use super::network::Network;
use super::seen::{addresses_of, tuple_of};

/// Checks the error that came out for the one that went in. Errors about fragments behind the first one have no ports,
/// and are not looked at.
///
/// # Panics
/// When it is about another flow than the one that went in, or not for that flow's host.
pub(super) fn check(nat: &Nat, network: &Network, input: &[u8], output: &[u8], ethernet: bool) {
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
    let ip = packet.get(if ethernet { 14 } else { 0 }..)?;
    let icmp = match (ip.first()? >> 4, ip.get(9)?, ip.get(6)?) {
        (4, 1, _) => usize::from(ip[0] & 0xf) * 4,
        (6, _, 58) => 40,
        _ => return None,
    };
    tuple_of(ip.get(icmp + 8..)?, false)
}
