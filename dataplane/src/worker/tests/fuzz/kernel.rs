//! The in-kernel path beside the workers: a program in Rust that translates by the records which the workers have
//! written, so that a wrong record makes a wrong packet.

use std::sync::Arc;

use etherparse::{NetSlice, SlicedPacket};
use vl3lb_common::addr::{from_octets, to_octets};
use vl3lb_common::hash::OwnerKey;
use vl3lb_common::{Protocol, Timestamp};

use super::network::Network;
use super::seen::Seen;
use crate::fastpath::FastMemory;
use crate::fastpath::tests::program::{Program, Segment, Tuple};
use crate::packet::Framing;
use crate::testing::builder::flags;
use crate::testing::validate::validate;

/// What the program does with a packet: `None` if it leaves it to the workers.
pub(super) fn translated(
    memory: &Arc<FastMemory>,
    network: &Network,
    packet: &[u8],
    now: Timestamp,
) -> Option<Vec<u8>> {
    let ethernet = network.framing == Framing::Ethernet;
    let link = network.framing.header_len();
    let seen = Seen::of(packet, ethernet)?;
    if !is_plain(packet, &seen, ethernet) {
        return None;
    }
    let tuple = Tuple {
        source: to_octets(seen.source.ip()),
        destination: to_octets(seen.destination.ip()),
        ports: (seen.source.port(), seen.destination.port()),
        protocol: seen.protocol.number(),
    };
    let mut program = Program::new(0, tuple, (packet.len() - link) as u64, now.0);
    program.segment = (seen.protocol == Protocol::Tcp).then(|| Segment {
        sequence: seen.content.sequence,
        acknowledgment: seen.content.acknowledgment,
        payload: u32::try_from(seen.content.payload.len()).expect("short"),
    });
    let taken = program.translate(memory, &OwnerKey::from_seed(7))?;
    let mut packet = packet.to_vec();
    if ethernet {
        let own: [u8; 6] = packet[..6].try_into().expect("six bytes");
        packet[..6].copy_from_slice(&taken.mac);
        packet[6..12].copy_from_slice(&own);
    }
    rewrite(
        &mut packet[link..],
        &seen,
        from_octets(taken.target.0)
            .to_string()
            .parse()
            .expect("an address"),
        (taken.source_port, taken.target.1),
    );
    Some(packet)
}

/// Whether `vl3lb_fast` looks for a flow of the packet: see `bpf/fastpath.h`.
fn is_plain(packet: &[u8], seen: &Seen, ethernet: bool) -> bool {
    let sliced = if ethernet {
        SlicedPacket::from_ethernet(packet)
    } else {
        SlicedPacket::from_ip(packet)
    };
    let has_options = match sliced.map(|sliced| sliced.net) {
        Ok(Some(NetSlice::Ipv4(ip))) => ip.header().ihl() != 5 || !ip.header().dont_fragment(),
        Ok(Some(NetSlice::Ipv6(ip))) => ip.header().next_header().0 != seen.protocol.number(),
        _ => true,
    };
    let is_ack = seen.content.flags & !flags::PSH == flags::ACK;
    !has_options
        && seen.ttl > 1
        && (seen.protocol == Protocol::Udp || is_ack)
        && validate(packet, ethernet) == Ok(())
}

/// The sender's address becomes the balancer's, the balancer's the receiver's; checksums are summed anew.
fn rewrite(ip: &mut [u8], seen: &Seen, receiver: std::net::IpAddr, ports: (u16, u16)) {
    let (addresses, l4) = match receiver {
        std::net::IpAddr::V4(_) => (12, 20),
        std::net::IpAddr::V6(_) => (8, 40),
    };
    let width = (l4 - addresses).min(32) / 2;
    let own = ip[addresses + width..addresses + 2 * width].to_vec();
    ip[addresses..addresses + width].copy_from_slice(&own);
    match receiver {
        std::net::IpAddr::V4(receiver) => ip[16..20].copy_from_slice(&receiver.octets()),
        std::net::IpAddr::V6(receiver) => ip[24..40].copy_from_slice(&receiver.octets()),
    }
    ip[l4..l4 + 2].copy_from_slice(&ports.0.to_be_bytes());
    ip[l4 + 2..l4 + 4].copy_from_slice(&ports.1.to_be_bytes());
    if l4 == 20 {
        ip[8] -= 1;
        ip[10..12].fill(0);
        let sum = folded(words(&ip[..20]));
        ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
    } else {
        ip[7] -= 1;
    }
    let (field, number) = match seen.protocol {
        Protocol::Tcp => (l4 + 16, 6),
        Protocol::Udp => (l4 + 6, 17),
        Protocol::Sctp => panic!("it takes no SCTP"),
    };
    let had_none = seen.protocol == Protocol::Udp && ip[field..field + 2] == [0, 0];
    if had_none {
        return;
    }
    ip[field..field + 2].fill(0);
    let length = u32::try_from(ip.len() - l4).expect("short");
    let sum = folded(words(&ip[addresses..]) + number + length);
    let sum = if sum == 0xffff && seen.protocol == Protocol::Udp {
        0xffff
    } else {
        !sum
    };
    ip[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

fn words(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low)))
        .sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}
