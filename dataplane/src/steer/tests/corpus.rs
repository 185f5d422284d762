//! The two parsers on one corpus: what the steer program sends to the workers is what they take, and nothing that they
//! would take is left to the kernel.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use vl3lb_common::addr::to_octets;

use super::classify::Bench;
use super::packets::{DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ICMP, ICMPV6, ROUTING, SCTP, TCP, UDP};
use super::table::{NAT_FIRST, NAT_LAST, OURS, OURS6, PORT, table};
use crate::packet::{self, Framing, Parsed, Transport};

/// Mutated packets, besides those of the table.
const MUTATIONS: usize = 30_000;
/// Seed of the mutations: a failure names its packet.
const SEED: u64 = 17;

/// Whether the workers take `packet` for the balancer's; `None` if they drop it, whosever it is. A later fragment counts
/// as one whose first fragment was not seen.
fn workers_view(packet: &[u8]) -> Option<bool> {
    let parsed = packet::parse(packet, packet.len(), Framing::RawIp).ok()?;
    let is_own = |address: [u8; 16]| address == to_octets(OURS.into()) || address == to_octets(OURS6.into());
    let is_ours = |address, port: u16, protocol| {
        let is_service = port == PORT && (protocol != UDP || address == to_octets(OURS6.into()));
        is_own(address) && (is_service || (NAT_FIRST..=NAT_LAST).contains(&port))
    };
    let to = parsed.destination;
    match parsed.transport {
        Transport::Tcp { destination_port, .. } => Some(is_ours(to, destination_port, TCP)),
        Transport::Udp { destination_port, .. } => Some(is_ours(to, destination_port, UDP)),
        Transport::Sctp { destination_port, .. } => Some(is_ours(to, destination_port, SCTP)),
        Transport::Icmp => {
            let quoted = packet::parse_quote(packet, &parsed).ok()?;
            let is_ours = is_ours(quoted.source, quoted.source_port, quoted.protocol.number());
            Some(quoted.source == to && is_ours)
        }
        Transport::Fragment { protocol, ports, .. } => {
            Some(ports.map_or_else(|| is_own(to), |(_, port)| is_ours(to, port, protocol)))
        }
    }
}

/// The Internet checksum of `bytes`, to which `start` is added.
fn checksum(bytes: &[u8], start: u32) -> [u8; 2] {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let mut sum = words.sum::<u32>() + start;
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

/// Makes the checksum of an IPv4 header right, if `packet` has one that is not cut off.
fn seal_ipv4(packet: &mut [u8]) {
    let length = usize::from(packet.first().map_or(0, |first| first & 0xf)) * 4;
    if packet.first().is_some_and(|first| first >> 4 == 4) && (20..=packet.len()).contains(&length) {
        packet[10..12].fill(0);
        let sum = checksum(&packet[..length], 0);
        packet[10..12].copy_from_slice(&sum);
    }
}

/// Where the transport header of a packet of the table is, and its protocol; `None` for later fragments.
fn transport(packet: &[u8]) -> Option<(usize, u8)> {
    if packet[0] >> 4 == 4 {
        let is_later = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0;
        return (!is_later).then_some((usize::from(packet[0] & 0xf) * 4, packet[9]));
    }
    let (mut at, mut next) = (40, packet[6]);
    while [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS].contains(&next) {
        let header = packet.get(at..at + 8)?;
        if next == FRAGMENT && u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
            return None;
        }
        at += if next == FRAGMENT {
            8
        } else {
            (usize::from(header[1]) + 1) * 8
        };
        next = header[0];
    }
    Some((at, next))
}

/// Completes a packet of the table, whose transport headers have ports only, so that a worker takes it.
fn complete(packet: &mut [u8]) {
    let original = packet.len();
    if let Some((at, protocol)) = transport(packet)
        && at <= original
    {
        let length = original - at;
        match protocol {
            TCP if length >= 20 => packet[at + 12] = 0x50,
            UDP if length >= 8 => {
                packet[at + 4..at + 6].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
                packet[at + 6..at + 8].copy_from_slice(&[1, 1]);
            }
            ICMP | ICMPV6 if length >= 8 => {
                seal_ipv4(&mut packet[at + 8..]);
                packet[at + 2..at + 4].fill(0);
                let pseudo_header = if protocol == ICMP {
                    0
                } else {
                    let words = packet[8..40].chunks(2);
                    let sum = words
                        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
                        .sum::<u32>();
                    sum + u32::from(ICMPV6) + u32::try_from(length).unwrap()
                };
                let sum = checksum(&packet[at..], pseudo_header);
                packet[at + 2..at + 4].copy_from_slice(&sum);
            }
            _ => {}
        }
    }
    seal_ipv4(packet);
}

/// Fragments of the table have lengths that the workers refuse: their payloads are cut to multiples of 8 bytes.
fn corpus() -> Vec<(&'static str, Vec<u8>, bool)> {
    let mut corpus = table();
    for (_, packet, _) in &mut corpus {
        let more_v4 = packet[0] >> 4 == 4 && packet[6] & 0x20 != 0;
        if more_v4 && packet.len() > 28 {
            packet.resize(20 + 24, 0);
            let total = u16::try_from(packet.len()).unwrap();
            packet[2..4].copy_from_slice(&total.to_be_bytes());
        }
        let more_v6 = packet[0] >> 4 == 6 && packet[6] == FRAGMENT && packet[43] & 1 != 0;
        if more_v6 {
            packet.resize(48 + 24, 0);
            packet[4..6].copy_from_slice(&32_u16.to_be_bytes());
        }
        complete(packet);
    }
    corpus
}

#[test]
fn workers_take_every_packet_that_is_steered_to_them() {
    let mut bench = Bench::new();
    for (description, packet, ours) in corpus() {
        assert_eq!(bench.is_ours(&packet), ours, "{description}");
        let view = workers_view(&packet);
        if ours {
            let dropped =
                packet::parse(&packet, packet.len(), Framing::RawIp).map(|parsed: Parsed| parsed.transport);
            assert_eq!(view, Some(true), "{description}: {dropped:?}");
        } else {
            assert_ne!(view, Some(true), "{description}");
        }
    }
}

#[test]
fn both_parsers_agree_on_mutated_packets() {
    let mut bench = Bench::new();
    let mut random = StdRng::seed_from_u64(SEED);
    let corpus = corpus();
    let mut below = |limit: usize| usize::try_from(random.next_u64() % limit as u64).unwrap();
    let mut taken = 0;
    for number in 0..MUTATIONS {
        let (description, packet, _) = &corpus[below(corpus.len())];
        let mut packet = packet.clone();
        // Mostly where headers are.
        for _ in 0..=below(3) {
            let reach = if below(4) == 0 { 200 } else { 64 };
            let at = below(packet.len().min(reach));
            packet[at] = match below(4) {
                0 => packet[at] ^ 1 << below(8),
                1 => [0, 1, 4, 6, 7, 8, 17, 43, 44, 60, 131, 132, 137][below(13)],
                2 => packet[at].wrapping_add(1),
                _ => u8::try_from(below(256)).unwrap(),
            };
        }
        if below(8) > 0 {
            seal_ipv4(&mut packet);
        }
        // BPF_PROG_TEST_RUN wants a whole IP header of the version that the Ethernet header announces.
        if !matches!((packet[0] >> 4, packet.len()), (4, 20..) | (6, 40..)) {
            continue;
        }
        let view = workers_view(&packet);
        let ours = bench.is_ours(&packet);
        // The steer program remembers the first fragments of earlier mutations.
        let is_later_fragment = packet::parse(&packet, packet.len(), Framing::RawIp)
            .is_ok_and(|parsed| matches!(parsed.transport, Transport::Fragment { ports: None, .. }));
        if let Some(view) = view.filter(|_| !is_later_fragment) {
            taken += usize::from(view);
            assert_eq!(ours, view, "mutation {number} of {description}: {packet:02x?}");
        }
    }
    assert!(
        taken > MUTATIONS / 20,
        "only {taken} of the packets were the balancer's"
    );
}
