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

/// Seeds that have failed: the padding of an SCTP INIT in a second frame.
const CORPUS: &[u64] = &[7_714_000_038_027_854_837];
/// Packets without changes of one seed, and what is made of each: to make one takes longer than to try it.
const ORIGINALS: u64 = 32;
const VARIANTS: u64 = 16;

#[test]
fn no_packet_does_harm() {
    vl3lb_testbed::fuzz::run("packets", 12, CORPUS, |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..ORIGINALS {
            let original = Original::new(&mut rng);
            for _ in 0..VARIANTS {
                let bytes = original.variant(&mut rng);
                let cut = rng.random_range(0..200);
                reach_everything(&bytes, &[], original.spec.framing, &original.to);
                reach_everything(&bytes, &[cut], original.spec.framing, &original.to);
            }
        }
        ORIGINALS * VARIANTS
    });
}

/// A packet, its translation, and an error about it.
struct Original {
    spec: Spec,
    to: Translation,
    packet: Vec<u8>,
    quote: Vec<u8>,
    error: Vec<u8>,
}

impl Original {
    fn new(rng: &mut StdRng) -> Self {
        let spec = spec(rng);
        let packet = spec.bytes();
        let quote = packet[spec.framing.header_len()..].to_vec();
        Self {
            to: translation(rng, spec.source.is_ipv4()),
            error: error(rng, &spec, &quote),
            spec,
            packet,
            quote,
        }
    }

    /// Arbitrary bytes, the packet with changes, or an error about it.
    fn variant(&self, rng: &mut StdRng) -> Vec<u8> {
        let framing = self.spec.framing;
        match rng.random_range(0..16) {
            0 => {
                let mut bytes = vec![0; rng.random_range(0..200)];
                rng.fill(&mut bytes[..]);
                bytes
            }
            1..11 => changed(rng, self.packet.clone(), framing),
            11..14 => changed(rng, self.error.clone(), framing),
            _ => {
                let quote = changed(rng, self.quote.clone(), Framing::RawIp);
                error(rng, &self.spec, &quote)
            }
        }
    }
}

fn error(rng: &mut StdRng, spec: &Spec, quote: &[u8]) -> Vec<u8> {
    let [a, b, c, d] = if rng.random() { [0; 4] } else { rng.random() };
    let header = [rng.random_range(0..13), rng.random_range(0..5), 0, 0, a, b, c, d];
    icmp_error(spec.framing, spec.destination, spec.source, header, quote)
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
        0, 1, 4, 5, 6, 8, 17, 20, 40, 43, 44, 51, 58, 60, 0x45, 0x4f, 0x60, 0x7f, 0x84, 0xff,
    ];
    if rng.random() {
        TURNS[rng.random_range(0..TURNS.len())]
    } else {
        rng.random()
    }
}

fn spec(rng: &mut StdRng) -> Spec {
    let protocol = Protocol::ALL[rng.random_range(0..Protocol::ALL.len())];
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
        sctp_chunk: rng.random_range(0..16),
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
