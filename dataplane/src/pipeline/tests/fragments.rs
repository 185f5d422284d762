//! Fragmented datagrams: in any order, both directions, both families; overlaps, floods, identifications.

use std::collections::{BTreeMap, HashSet};

use etherparse::{IpHeaders, UdpHeader};
use proptest::prelude::*;

use super::*;

/// Client, service, backend.
const PATHS: [(&str, &str, &str); 2] = [
    ("172.16.1.100:40000", "172.16.1.103:8080", "172.16.1.2:8081"),
    (
        "[2001:db8::64]:40000",
        "[2001:db8::67]:8080",
        "[2001:db8::2]:8081",
    ),
];

/// A fragment as its receiver sees it.
#[derive(Debug)]
struct Piece {
    destination: IpAddr,
    identification: u32,
    offset: usize,
    more: bool,
    payload: Vec<u8>,
}

impl Piece {
    fn of(packet: &[u8]) -> Self {
        validate::assert_valid(packet, true);
        let (headers, payload) = IpHeaders::from_slice(&packet[14..]).unwrap();
        let (destination, identification, offset, more) = match headers {
            IpHeaders::Ipv4(ip, _) => (
                IpAddr::from(ip.destination),
                ip.identification.into(),
                ip.fragment_offset,
                ip.more_fragments,
            ),
            IpHeaders::Ipv6(ip, extensions) => {
                let fragment = extensions.fragment.unwrap();
                (
                    IpAddr::from(ip.destination),
                    fragment.identification,
                    fragment.fragment_offset,
                    fragment.more_fragments,
                )
            }
        };
        Self {
            destination,
            identification,
            offset: usize::from(offset.value()) * 8,
            more,
            payload: payload.payload.to_vec(),
        }
    }
}

/// Puts fragments together by destination and identification, as their receiver does; whole ones only.
fn reassemble(packets: &[Vec<u8>]) -> Vec<(IpAddr, u32, Vec<u8>)> {
    let mut datagrams: BTreeMap<(IpAddr, u32), Vec<Piece>> = BTreeMap::new();
    for packet in packets {
        let piece = Piece::of(packet);
        datagrams
            .entry((piece.destination, piece.identification))
            .or_default()
            .push(piece);
    }
    let mut whole = Vec::new();
    for ((destination, identification), mut pieces) in datagrams {
        pieces.sort_by_key(|piece| piece.offset);
        let mut payload = Vec::new();
        for piece in &pieces {
            assert!(
                piece.offset >= payload.len(),
                "fragments of two datagrams are mixed"
            );
            if piece.offset == payload.len() {
                payload.extend_from_slice(&piece.payload);
            }
        }
        if pieces
            .last()
            .is_some_and(|last| !last.more && last.offset + last.payload.len() == payload.len())
        {
            whole.push((destination, identification, payload));
        }
    }
    whole
}

/// A reassembled UDP datagram between `source` and `destination`: its checksum must be right.
fn udp_payload(datagram: &[u8], source: &str, destination: &str) -> Vec<u8> {
    let (header, payload) = UdpHeader::from_slice(datagram).unwrap();
    let (source, destination): (SocketAddr, SocketAddr) =
        (source.parse().unwrap(), destination.parse().unwrap());
    assert_eq!(
        (header.source_port, header.destination_port),
        (source.port(), destination.port())
    );
    let expected = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), payload)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), payload)
        }
        _ => panic!("two families"),
    };
    assert_eq!(header.checksum, expected.unwrap());
    payload.to_vec()
}

/// The payload of the one UDP datagram from a service or to the backend over IPv4 whose fragments, in order, these are.
pub(super) fn udp_payload_of(packets: &[Vec<u8>]) -> Vec<u8> {
    let offsets = packets.iter().map(|packet| Piece::of(packet).offset);
    assert!(offsets.is_sorted(), "in order");
    let datagrams = reassemble(packets);
    assert_eq!(datagrams.len(), 1);
    let ip = etherparse::Ipv4HeaderSlice::from_slice(&packets[0][14..]).unwrap();
    let (header, _) = UdpHeader::from_slice(&datagrams[0].2).unwrap();
    udp_payload(
        &datagrams[0].2,
        &SocketAddr::new(ip.source_addr().into(), header.source_port).to_string(),
        &SocketAddr::new(ip.destination_addr().into(), header.destination_port).to_string(),
    )
}

fn permuted<T: Clone>(items: &[T], order: &[usize]) -> Vec<T> {
    order.iter().map(|&index| items[index].clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// New flows and known ones, any number of workers, at any queue: each datagram arrives whole, and its reply too.
    #[test]
    fn fragments_in_any_order_reach_their_flow(
        workers in 1..5_u16,
        enters in 0..5_u16,
        order in Just((0..5).collect::<Vec<usize>>()).prop_shuffle(),
        back in Just((0..5).collect::<Vec<usize>>()).prop_shuffle(),
        v6: bool,
        id: u16,
    ) {
        let (client, service, backend) = PATHS[usize::from(v6)];
        let mut world = World::new(Setup { workers, ..Setup::default() });
        world.enters = enters % workers;
        let packet = world.client_udp(client, &[7; 6_000]);
        let sent = world.send_all(&permuted(&builder::fragments(&packet, true, 1_208, id), &order));
        let datagrams = reassemble(&sent);
        prop_assert_eq!(datagrams.len(), 1, "drops: {:?}", world.drops());
        let nat_port = u16::from_be_bytes([datagrams[0].2[0], datagrams[0].2[1]]);
        let own: SocketAddr = service.parse().unwrap();
        let nat = SocketAddr::new(own.ip(), nat_port).to_string();
        prop_assert_eq!(udp_payload(&datagrams[0].2, &nat, backend), vec![7; 6_000]);

        let reply = builder::udp(world.addresses(backend, &nat), &[9; 6_000]);
        let sent = world.send_all(&permuted(&builder::fragments(&reply, true, 1_208, id), &back));
        let datagrams = reassemble(&sent);
        prop_assert_eq!(datagrams.len(), 1, "drops: {:?}", world.drops());
        prop_assert_eq!(udp_payload(&datagrams[0].2, service, client), vec![9; 6_000]);
        prop_assert_eq!(world.drops(), []);
        prop_assert!(world.waiting.is_empty());
        prop_assert!(world.engines.iter().all(|engine| engine.tables.fragments.is_empty()));
    }

    /// Datagrams of clients with equal identifications, their fragments mixed: none is put together with another one.
    #[test]
    fn datagrams_of_different_clients_do_not_mix(
        workers in 1..4_u16,
        v6: bool,
        order in Just((0..60).collect::<Vec<usize>>()).prop_shuffle(),
    ) {
        let mut world = World::new(Setup { workers, ..Setup::default() });
        let fragments: Vec<_> = (10..30_u8)
            .flat_map(|client| {
                let address = if v6 {
                    format!("[2001:db8::{client:x}]:40000")
                } else {
                    format!("172.16.1.{client}:40000")
                };
                let packet = world.client_udp(&address, &[client; 4_000]);
                builder::fragments(&packet, true, 1_400, 77)
            })
            .collect();
        let sent = world.send_all(&permuted(&fragments, &order));
        let datagrams = reassemble(&sent);
        prop_assert_eq!(datagrams.len(), 20, "drops: {:?}", world.drops());
        let identifications: HashSet<_> = datagrams.iter().map(|(_, id, _)| *id).collect();
        prop_assert_eq!(identifications.len(), 20);
        for (_, _, datagram) in datagrams {
            let payload = &datagram[8..];
            prop_assert_eq!(payload.len(), 4_000);
            prop_assert!(payload.iter().all(|byte| *byte == payload[0]), "bytes of one client");
        }
    }
}

/// Without DF a router on the way may fragment it, and the fragments of two clients would meet at the backend.
#[test]
fn packets_that_may_be_fragmented_on_their_way_get_identifications_of_our_own() {
    let mut world = World::new(Setup::default());
    let mut identifications = HashSet::new();
    for client in 10..60 {
        let mut packet = world.client_udp(&format!("172.16.1.{client}:40000"), b"data");
        packet[20] = 0;
        fix_ipv4_checksum(&mut packet);
        let (verdict, out) = world.send(&packet);
        assert_eq!(verdict, Verdict::Transmit);
        validate::assert_valid(&out, true);
        assert!(identifications.insert([out[18], out[19]]));
        // With DF it means nothing (RFC 6864 section 4.1) and stays.
        let packet = world.client_udp(&format!("172.16.1.{client}:40000"), b"data");
        assert_eq!(world.send(&packet).1[18..20], [0x12, 0x34]);
    }
}

fn fix_ipv4_checksum(packet: &mut [u8]) {
    let header = etherparse::Ipv4HeaderSlice::from_slice(&packet[14..])
        .unwrap()
        .to_header();
    let checksum = header.calc_header_checksum();
    packet[24..26].copy_from_slice(&checksum.to_be_bytes());
}

/// How many fragments come out of `packets`, and the drops counted.
fn outcome(packets: &[Vec<u8>]) -> (usize, u64) {
    let mut world = World::new(Setup::default());
    let sent = world.send_all(packets).len();
    (sent, world.dropped(DropReason::FragmentOverlap))
}

#[test]
fn overlapping_fragments_end_their_datagram_and_repeated_ones_do_not() {
    for (client, ..) in PATHS {
        let world = World::new(Setup::default());
        let packet = world.client_udp(client, &[1; 4_000]);
        let by = |size| builder::fragments(&packet, true, size, 5);
        let (three, other) = (by(1_400), by(1_000));
        let rows = [
            (
                "in order",
                vec![three[0].clone(), three[1].clone(), three[2].clone()],
                (3, 0),
            ),
            // It covers the end of the first one.
            (
                "overlap, then the rest",
                vec![
                    three[0].clone(),
                    other[1].clone(),
                    three[1].clone(),
                    three[2].clone(),
                ],
                (1, 3),
            ),
            (
                "before the first",
                vec![
                    three[1].clone(),
                    other[1].clone(),
                    three[0].clone(),
                    three[2].clone(),
                ],
                (0, 4),
            ),
            (
                "repeated",
                vec![
                    three[0].clone(),
                    three[1].clone(),
                    three[1].clone(),
                    three[2].clone(),
                ],
                (3, 1),
            ),
            (
                "repeated while it waits",
                vec![
                    three[1].clone(),
                    three[1].clone(),
                    three[0].clone(),
                    three[2].clone(),
                ],
                (3, 1),
            ),
            (
                "behind the last",
                vec![other[0].clone(), other[3].clone(), last(&other[1])],
                (2, 1),
            ),
        ];
        for (what, packets, expected) in rows {
            assert_eq!(outcome(&packets), expected, "{client}: {what}");
        }
    }
}

/// The fragment as the last one of its datagram.
fn last(fragment: &[u8]) -> Vec<u8> {
    let mut fragment = fragment.to_vec();
    if fragment[14] >> 4 == 4 {
        fragment[20] &= !0x20;
        fix_ipv4_checksum(&mut fragment);
    } else {
        fragment[14 + 40 + 3] &= !1;
    }
    fragment
}

#[test]
fn a_fragment_without_its_first_one_waits_and_is_dropped_in_the_end() {
    let mut world = World::new(Setup::default());
    let packet = world.client_udp("172.16.1.100:40000", &[1; 4_000]);
    let fragments = builder::fragments(&packet, true, 1_480, 77);
    assert!(matches!(world.send(&fragments[1]).0, Verdict::Wait(_)));
    assert_eq!(world.stats[0].fragments_waited.get(), 1);
    world.pass(Duration::from_millis(2_999));
    world.sweep();
    assert!(world.resume().is_empty());
    assert_eq!(world.drops(), []);
    world.pass(Duration::from_millis(1));
    world.sweep();
    assert!(world.resume().is_empty());
    assert_eq!(world.dropped(DropReason::FragmentUnmatched), 1);
    assert!(world.waiting.is_empty());
}

/// 683 first fragments a second took all places before.
#[test]
fn a_flood_of_fragments_costs_its_sender_only() {
    let mut world = World::new(Setup::default());
    let flood = world.client_udp("172.16.1.66:40000", &[6; 3_000]);
    let honest = world.client_udp("172.16.1.100:40000", &[1; 4_000]);
    let honest = builder::fragments(&honest, true, 1_480, 9);
    // Two fragments of an honest datagram, 20,000 of the flood, the first one of the honest.
    assert_eq!(world.send_all(&[honest[2].clone(), honest[1].clone()]).len(), 0);
    for id in 0..20_000 {
        let fragments = builder::fragments(&flood, true, 1_480, id);
        world.send_all(&fragments[usize::from(id % 2)..][..1]);
    }
    let sent = world.send_all(&honest[..1]);
    assert_eq!(sent.len(), 3, "{:?}", world.drops());
    assert_eq!(reassemble(&sent).len(), 1);
    assert!(
        world.waiting.len() <= 64,
        "{} fragments wait",
        world.waiting.len()
    );
}

#[test]
fn a_flood_from_many_sources_leaves_datagrams_that_arrive_meanwhile_whole() {
    let mut world = World::new(Setup {
        flows: 10_000,
        ..Setup::default()
    });
    let honest = world.client_udp("172.16.1.100:40000", &[1; 4_000]);
    for id in 0..200_u16 {
        let fragments = builder::fragments(&honest, true, 1_480, id);
        let mut sent = Vec::new();
        for (index, fragment) in fragments.iter().rev().enumerate() {
            for spoofed in 0..50_u16 {
                let [a, b] = (id * 150 + u16::try_from(index).unwrap() * 50 + spoofed).to_be_bytes();
                let flood = world.client_udp(&format!("10.9.{a}.{b}:40000"), &[6; 3_000]);
                let fragments = builder::fragments(&flood, true, 1_480, id);
                world.send_all(&fragments[1..2]);
            }
            sent.extend(world.send_all(std::slice::from_ref(fragment)));
        }
        assert_eq!(reassemble(&sent).len(), 1, "datagram {id}: {:?}", world.drops());
    }
}

#[test]
fn fin_and_rst_in_first_fragments_move_the_flow() {
    for (client, ..) in PATHS {
        for (bits, state) in [
            (
                flags::FIN | flags::ACK,
                vl3lb_common::flow_query::FlowState::HalfClosed,
            ),
            (
                flags::RST | flags::ACK,
                vl3lb_common::flow_query::FlowState::Reset,
            ),
            (flags::ACK, vl3lb_common::flow_query::FlowState::Established),
        ] {
            let mut world = World::new(Setup::default());
            world.connect(client);
            let segment = world.client_tcp(client, bits, &[3; 2_000]);
            let mut fragments = builder::fragments(&segment, true, 1_000, 1);
            fragments.reverse();
            assert_eq!(world.send_all(&fragments).len(), 3);
            let flow = world.engines[0].flow_slice(0, 10_000, world.now).flows.remove(0);
            assert_eq!(flow.state, state, "{client} {bits:#x}");
        }
    }
}

/// A SYN that is fragmented opens a flow (RFC 7413 allows data in it).
#[test]
fn a_fragmented_syn_opens_a_flow() {
    let mut world = World::new(Setup::default());
    let syn = world.client_tcp("172.16.1.100:40000", flags::SYN, &[3; 2_000]);
    let mut fragments = builder::fragments(&syn, true, 1_000, 1);
    fragments.reverse();
    assert_eq!(world.send_all(&fragments).len(), 3);
    assert_eq!(world.flows(), 1);
}

/// The first one of this datagram found no room. The second did, and nobody saw the ports of its flow, which could
/// be those of another one before.
#[test]
fn a_fragment_behind_the_first_one_opens_no_flow() {
    for (client, ..) in PATHS {
        let mut world = World::new(Setup {
            client_flows: Some(1),
            ..Setup::default()
        });
        let seen = world.connect(client);
        let packet = world.client_udp(client, &[1; 4_000]);
        let fragments = builder::fragments(&packet, true, 1_400, 77);
        assert_eq!(world.send(&fragments[0]).0, Verdict::Reject);
        assert_eq!(world.drops(), [DropReason::ClientLimit]);
        // The connection ends: now there is room.
        let reset = world.backend_tcp(&seen, flags::RST | flags::ACK, b"");
        world.forward(&reset);
        for fragment in &fragments[1..] {
            assert_eq!(world.send(fragment).0, Verdict::Drop, "{client}");
        }
        assert_eq!(world.dropped(DropReason::FragmentUnmatched), 2);
        assert_eq!(world.flows(), 1, "the one that is over");
    }
}

/// The NAT port had no flow when the first fragment of a backend's datagram came. The client that gets the port then has
/// nothing to do with the rest.
#[test]
fn the_rest_of_a_refused_datagram_is_not_for_the_next_flow_of_its_nat_port() {
    for (client, service, backend) in PATHS {
        let mut world = World::new(Setup {
            nat_ports: (20_000, 20_000),
            ..Setup::default()
        });
        let own: SocketAddr = service.parse().unwrap();
        let nat = SocketAddr::new(own.ip(), 20_000).to_string();
        let datagram = builder::udp(world.addresses(backend, &nat), &[9; 4_000]);
        let fragments = builder::fragments(&datagram, true, 1_400, 77);
        assert_eq!(world.send(&fragments[0]).0, Verdict::Reject, "{client}");
        let request = world.client_udp(client, b"request");
        world.forward(&request);
        assert_eq!(world.flows(), 1);
        for fragment in &fragments[1..] {
            assert_eq!(world.send(fragment).0, Verdict::Drop, "{client}");
        }
        assert_eq!(world.dropped(DropReason::FragmentUnmatched), 2);
        // A new datagram of the same backend is the client's.
        let fragments = builder::fragments(&datagram, true, 1_400, 78);
        assert_eq!(world.send_all(&fragments).len(), 3, "{client}");
    }
}
