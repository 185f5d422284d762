//! Fuzz target: arbitrary and mutated packets through every function that a packet may reach. See
//! `vl3lb_testbed::fuzz`.

use std::net::IpAddr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use vl3lb_common::Protocol;
use vl3lb_common::addr::to_octets;

use super::properties::{mutated, reach_everything};
use super::support::{Spec, icmp_error};
use crate::packet::{Framing, Translation};

/// Seeds that have failed.
const CORPUS: &[u64] = &[];
/// Packets of one seed.
const PACKETS: u64 = 500;

#[test]
fn no_packet_does_harm() {
    vl3lb_testbed::fuzz::run("packets", 12, CORPUS, |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..PACKETS {
            let spec = spec(&mut rng);
            let bytes = packet(&mut rng, &spec);
            let framing = spec.framing;
            let to = translation(&mut rng, spec.source.is_ipv4());
            let cut = rng.random_range(0..200);
            reach_everything(&bytes, &[], framing, &to);
            reach_everything(&bytes, &[cut], framing, &to);
        }
        PACKETS
    });
}

/// Arbitrary bytes, the packet with changes, or an error about it.
fn packet(rng: &mut StdRng, spec: &Spec) -> Vec<u8> {
    match rng.random_range(0..10) {
        0 => {
            let mut bytes = vec![0; rng.random_range(0..200)];
            rng.fill(&mut bytes[..]);
            bytes
        }
        1..7 => changed(rng, spec.bytes(), spec.framing),
        _ => {
            let quoted = Spec {
                framing: Framing::RawIp,
                ..spec.clone()
            };
            let quote = changed(rng, quoted.bytes(), Framing::RawIp);
            let [a, b, c, d] = if rng.random() { [0; 4] } else { rng.random() };
            let header = [rng.random_range(0..13), rng.random_range(0..5), 0, 0, a, b, c, d];
            let bytes = icmp_error(spec.framing, spec.destination, spec.source, header, &quote);
            if rng.random() {
                bytes
            } else {
                changed(rng, bytes, spec.framing)
            }
        }
    }
}

/// With up to three bytes changed, most of them in the headers; a third is cut.
fn changed(rng: &mut StdRng, bytes: Vec<u8>, framing: Framing) -> Vec<u8> {
    let end = if rng.random() { 60 } else { 130 };
    let changes: Vec<_> = (0..rng.random_range(0..4))
        .map(|_| (rng.random_range(0..end), byte(rng)))
        .collect();
    let len = if rng.random_range(0..3) == 0 {
        rng.random_range(0..300)
    } else {
        bytes.len()
    };
    mutated(bytes, framing, &changes, len)
}

/// Half are numbers at which lengths, types and versions turn.
fn byte(rng: &mut StdRng) -> u8 {
    const TURNS: [u8; 20] = [
        0, 1, 4, 5, 6, 8, 17, 20, 40, 43, 44, 51, 58, 60, 0x45, 0x4f, 0x60, 0x7f, 0x80, 0xff,
    ];
    if rng.random() {
        TURNS[rng.random_range(0..TURNS.len())]
    } else {
        rng.random()
    }
}

fn spec(rng: &mut StdRng) -> Spec {
    let protocol = if rng.random() {
        Protocol::Tcp
    } else {
        Protocol::Udp
    };
    let is_v4 = rng.random();
    let mut payload = vec![0; rng.random_range(0..100)];
    rng.fill(&mut payload[..]);
    let mut spec = Spec {
        framing: if rng.random() {
            Framing::RawIp
        } else {
            Framing::Ethernet
        },
        source: address(rng, is_v4),
        destination: address(rng, is_v4),
        hop_limit: byte(rng),
        source_port: rng.random(),
        destination_port: rng.random(),
        ipv4_options: (0..rng.random_range(0..=10_usize) * 4)
            .map(|_| byte(rng))
            .collect(),
        payload,
        ..Spec::request(protocol)
    };
    spec.tcp.sequence_number = rng.random();
    spec
}

/// A unicast address of IPv4 or IPv6.
fn address(rng: &mut StdRng, is_v4: bool) -> IpAddr {
    if is_v4 {
        let [_, b, c, d] = rng.random::<[u8; 4]>();
        IpAddr::from([rng.random_range(1..127), b, c, d])
    } else {
        let mut octets = rng.random::<[u8; 16]>();
        octets[0] = 0x20;
        IpAddr::from(octets)
    }
}

fn translation(rng: &mut StdRng, is_v4: bool) -> Translation {
    Translation {
        source: to_octets(address(rng, is_v4)),
        destination: to_octets(address(rng, is_v4)),
        source_port: rng.random(),
        destination_port: rng.random(),
    }
}
