//! What may come out of the balancer for a packet that goes in.

use std::net::IpAddr;

use vl3lb_common::{Protocol, Timestamp};

use super::model::{Flow, Mapping, Nat};
use super::network::{self, Network};
use super::piece::Piece;
use super::quote;
use super::seen::{Seen, addresses_of, tuple_of};
use super::whole::whole;
use crate::packet::Framing;
use crate::testing::builder::{MACS, flags};
use crate::testing::validate::validate;

/// What the balancer did with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Nothing,
    /// The sender got an ICMP error or a reset.
    Refused,
    Request(Flow, Mapping),
    Reply(Flow, Mapping),
    /// Fragments, translated.
    Fragments,
    /// Something about a packet that etherparse does not decode or finds wrong.
    Odd,
}

/// Checks what came out for `packet`, and notes it. `is_sound`: what comes out must be valid, although the sender may have
/// left a checksum to be completed.
///
/// # Panics
///
/// When it is wrong.
pub(super) fn check(
    nat: &mut Nat,
    network: &Network,
    packet: &[u8],
    is_sound: bool,
    out: &[Vec<u8>],
    now: Timestamp,
) -> Outcome {
    let ethernet = network.framing == Framing::Ethernet;
    let is_valid = is_sound || validate(packet, ethernet) == Ok(());
    for output in out {
        is_from_us(output, ethernet);
        if is_valid {
            assert_eq!(
                validate(output, ethernet),
                Ok(()),
                "{output:02x?} of {packet:02x?}"
            );
        }
    }
    if let Some(input) = Piece::of(packet, ethernet) {
        return fragment(nat, network, &input, out, now);
    }
    let Some(input) = Seen::of(packet, ethernet) else {
        for output in out {
            quote::check(nat, network, packet, output, ethernet);
            note_unknown(nat, network, packet, output, now);
        }
        return if out.is_empty() {
            Outcome::Nothing
        } else {
            Outcome::Odd
        };
    };
    if !is_valid {
        doubt(nat, &input);
    }
    let Some(output) = whole(network, out, is_valid) else {
        for output in out {
            is_refusal(output, input.source.ip(), ethernet);
        }
        return if out.is_empty() {
            Outcome::Nothing
        } else {
            Outcome::Refused
        };
    };
    if output.content.flags & flags::RST != 0
        && (output.source, output.destination) == (input.destination, input.source)
    {
        return Outcome::Refused;
    }
    assert_eq!(output.protocol, input.protocol);
    assert_eq!(output.ttl, input.ttl - 1, "{input:?} became {output:?}");
    if output.content != input.content {
        let content = input.content.without_timestamps();
        assert_eq!(output.content, content, "{input:?} became {output:?}");
        assert!(
            input.content.flags & flags::SYN != 0,
            "{input:?} became {output:?}"
        );
    }
    if network.is_nat_port(output.source) {
        request(nat, &input, &output, now)
    } else {
        reply(nat, &input, &output)
    }
}

/// A fragment, and what came out for it and those that have waited for it.
fn fragment(nat: &mut Nat, network: &Network, input: &Piece, out: &[Vec<u8>], now: Timestamp) -> Outcome {
    let ethernet = network.framing == Framing::Ethernet;
    let (pieces, others): (Vec<_>, Vec<_>) = out
        .iter()
        .map(|output| Piece::of(output, ethernet).ok_or(output))
        .partition(Result::is_ok);
    for output in others.into_iter().filter_map(Result::err) {
        is_refusal(output, input.name.source, ethernet);
    }
    let pieces: Vec<Piece> = pieces.into_iter().flatten().collect();
    let mut datagrams = std::mem::take(&mut nat.datagrams);
    datagrams.check(nat, network, input, &pieces, now);
    nat.datagrams = datagrams;
    match (out.is_empty(), pieces.is_empty()) {
        (true, _) => Outcome::Nothing,
        (_, true) => Outcome::Refused,
        _ => Outcome::Fragments,
    }
}

/// An ICMP error or a reset, for the sender.
fn is_refusal(output: &[u8], sender: IpAddr, ethernet: bool) {
    let (_, to) = addresses_of(output, ethernet).expect("checked");
    assert_eq!(to, sender, "an error for another one than the sender");
    if let Some(seen) = Seen::of(output, ethernet) {
        assert!(seen.content.flags & flags::RST != 0, "{seen:?}");
    }
}

fn request(nat: &mut Nat, input: &Seen, output: &Seen, now: Timestamp) -> Outcome {
    let service = network::service_at(input.protocol, input.destination);
    let service = service.unwrap_or_else(|| panic!("no service takes {input:?}, which became {output:?}"));
    assert!(
        network::serves(service, output.destination),
        "{input:?} became {output:?}"
    );
    let flow = Flow {
        protocol: input.protocol,
        client: input.source,
        service: input.destination,
    };
    let mapping = Mapping {
        protocol: input.protocol,
        outside: output.source,
        backend: output.destination,
    };
    let opens = input.protocol == Protocol::Udp || input.content.flags & flags::SYN != 0;
    nat.requested(flow, mapping, opens, now);
    if input.content.flags & (flags::RST | flags::FIN) != 0 {
        nat.doubt(&flow);
    }
    Outcome::Request(flow, mapping)
}

fn reply(nat: &mut Nat, input: &Seen, output: &Seen) -> Outcome {
    let mapping = Mapping {
        protocol: input.protocol,
        outside: input.destination,
        backend: input.source,
    };
    let flow = Flow {
        protocol: input.protocol,
        client: output.destination,
        service: output.source,
    };
    nat.replied(&mapping, &flow);
    if input.content.flags & (flags::RST | flags::FIN) != 0 {
        nat.doubt(&flow);
    }
    Outcome::Reply(flow, mapping)
}

/// Whether a packet that came out is a reset that neither was sent by a host nor answers the one that went in.
pub(super) fn is_own_reset(output: &[u8], input: &[u8], ethernet: bool) -> bool {
    let sender = addresses_of(input, ethernet).map(|(sender, _)| sender);
    let sent = tuple_of(input, ethernet);
    let is_reset = |seen: &Seen| seen.content.flags & flags::RST != 0;
    let was_reset = Seen::of(input, ethernet).is_some_and(|seen| is_reset(&seen));
    Seen::of(output, ethernet).is_some_and(|output| {
        let answers = (output.protocol, output.destination, output.source);
        let is_answer = match sent {
            Some(sent) => sent == answers,
            None => Some(output.destination.ip()) == sender,
        };
        is_reset(&output) && !was_reset && !is_answer
    })
}

/// A packet that the balancer sends by itself: a reset of a flow whose backend has gone.
pub(super) fn check_reset(nat: &Nat, network: &Network, output: &[u8]) {
    let ethernet = network.framing == Framing::Ethernet;
    is_from_us(output, ethernet);
    assert_eq!(validate(output, ethernet), Ok(()), "{output:02x?}");
    let Some(seen) = Seen::of(output, ethernet) else {
        panic!("neither asked for nor a reset: {output:02x?}");
    };
    assert!(
        seen.content.flags & flags::RST != 0,
        "neither asked for nor a reset: {seen:?}"
    );
    let is_known = if network.is_nat_port(seen.source) {
        nat.has(&Mapping {
            protocol: seen.protocol,
            outside: seen.source,
            backend: seen.destination,
        })
    } else {
        nat.knows(&Flow {
            protocol: seen.protocol,
            client: seen.destination,
            service: seen.source,
        })
    };
    assert!(is_known, "a reset for nobody: {seen:?}");
}

/// The flow that a packet seems to belong to may have ended.
pub(super) fn doubt(nat: &mut Nat, seen: &Seen) {
    nat.doubt(&Flow {
        protocol: seen.protocol,
        client: seen.source,
        service: seen.destination,
    });
    let mapping = Mapping {
        protocol: seen.protocol,
        outside: seen.destination,
        backend: seen.source,
    };
    if let Some(flow) = nat.owner(&mapping) {
        nat.doubt(&flow);
    }
}

/// A packet that etherparse does not decode came out, translated. Its ports may be found all the same.
fn note_unknown(nat: &mut Nat, network: &Network, input: &[u8], output: &[u8], now: Timestamp) {
    let ethernet = network.framing == Framing::Ethernet;
    let (Some((protocol, from, to)), Some((sender, _))) =
        (tuple_of(output, ethernet), addresses_of(input, ethernet))
    else {
        return;
    };
    if to.ip() == sender {
        // A reset.
        return;
    }
    let input = tuple_of(input, ethernet).map(|(_, source, destination)| (source, destination));
    let mapping = Mapping {
        protocol,
        outside: from,
        backend: to,
    };
    match (network.is_nat_port(from), input) {
        (true, Some((client, service))) => {
            let flow = Flow {
                protocol,
                client,
                service,
            };
            nat.requested(flow, mapping, true, now);
            nat.doubt(&flow);
        }
        (true, None) => nat.requested_by_unknown(mapping, sender),
        (false, input) => {
            let flow = Flow {
                protocol,
                client: to,
                service: from,
            };
            if let Some((backend, outside)) = input {
                let mapping = Mapping {
                    protocol,
                    outside,
                    backend,
                };
                nat.replied(&mapping, &flow);
            }
            nat.doubt(&flow);
        }
    }
}

/// From the balancer's own address, to a host that has not this address, with the right MAC addresses.
fn is_from_us(output: &[u8], ethernet: bool) {
    let addresses = addresses_of(output, ethernet);
    let Some((from, to)) = addresses else {
        panic!("not IP: {output:02x?}");
    };
    assert_eq!(from, network::own(from.is_ipv4()), "{output:02x?}");
    assert_ne!(from, to, "{output:02x?}");
    if ethernet {
        assert_eq!(output[6..12], MACS.1.0, "{output:02x?}");
    }
}
