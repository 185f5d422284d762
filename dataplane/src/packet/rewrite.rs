//! Full NAT of one packet: addresses, ports, hop limit and checksums, in place.

use vl3lb_common::{DropReason, Protocol};

use super::checksum::{Delta, Sum, transport_field};
use super::field::{
    be16, checksum_offset, header_at, header_at_mut, ipv4, ipv6, pair, ports, put, tcp, udp, unmapped,
};
use super::parse::{Family, Parsed, Transport};
use crate::port::Frame;

/// What addresses and ports become. Addresses are of the packet's own family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub source_port: u16,
    pub destination_port: u16,
}

/// When the transport checksum is made right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumPolicy {
    /// At once.
    Update,
    /// By [`segment`](super::segment), which makes new ones: leave it alone.
    Later,
}

/// Rewrites a TCP or UDP packet, or a fragment of one, to `to`, with one hop less. The caller has
/// seen that there is a hop left.
///
/// Checksums are updated incrementally (RFC 1624). A partial transport checksum, which is the
/// folded sum of the pseudo-header (CHECKSUM_PARTIAL: veth and TUN pass on what the sender's kernel
/// leaves to its hardware), is completed, at the cost of one pass over the payload. A UDP checksum
/// of 0 stays (RFC 768). Fragments' checksums cover the whole datagram and are updated in the first
/// one. Ports are written where the packet has them.
///
/// `Internal` if `parsed` is an ICMP message or not of this packet.
#[inline(always)]
pub fn translate<F: Frame>(
    packet: &mut [F],
    parsed: &Parsed,
    to: &Translation,
    checksum: ChecksumPolicy,
) -> Result<(), DropReason> {
    // Once for each protocol, so that its offsets are constants.
    match parsed.transport {
        Transport::Udp { .. } => {
            translate_whole::<F, { udp::HEADER_LEN }>(packet, parsed, Protocol::Udp, to, checksum)
        }
        Transport::Tcp { .. } => {
            translate_whole::<F, { tcp::HEADER_LEN }>(packet, parsed, Protocol::Tcp, to, checksum)
        }
        Transport::Fragment { protocol, ports, .. } => {
            translate_fragment(packet, parsed, protocol, ports.is_some(), to, checksum)
        }
        Transport::Icmp => Err(DropReason::Internal),
    }
}

/// A packet that is no fragment, with the transport header of `N` bytes of `protocol`.
#[inline(always)]
fn translate_whole<F: Frame, const N: usize>(
    packet: &mut [F],
    parsed: &Parsed,
    protocol: Protocol,
    to: &Translation,
    checksum: ChecksumPolicy,
) -> Result<(), DropReason> {
    let at = checksum_offset(protocol);
    let head = packet.first_mut().ok_or(DropReason::Internal)?.bytes_mut();
    let addresses = Sum::of_addresses(parsed.family, &parsed.source, &parsed.destination);
    let header: &[u8; N] = header_at(head, parsed.l4)?;
    let mut field = pair(header, at);
    if checksum == ChecksumPolicy::Update {
        let length = covered_len(header, parsed, protocol);
        let pseudo_header = Sum::pseudo_header(addresses, protocol.number(), length);
        if field == pseudo_header.folded().to_ne_bytes() {
            field = completed(packet, parsed, protocol, length, pseudo_header);
        }
    }
    let head = packet.first_mut().ok_or(DropReason::Internal)?.bytes_mut();
    let delta = rewrite_ip_header(head, parsed, addresses, &to.source, &to.destination)?;
    let header: &mut [u8; N] = header_at_mut(head, parsed.l4)?;
    let delta = rewrite_ports(header, to, delta);
    if checksum == ChecksumPolicy::Update {
        update_transport_checksum(&mut field, protocol, delta);
        put(header, at, field);
    }
    Ok(())
}

/// A fragment, whose checksum is not whole. Only the first one has ports.
#[cold]
fn translate_fragment<F: Frame>(
    packet: &mut [F],
    parsed: &Parsed,
    protocol: u8,
    has_ports: bool,
    to: &Translation,
    checksum: ChecksumPolicy,
) -> Result<(), DropReason> {
    let protocol = Protocol::from_number(protocol).ok_or(DropReason::Internal)?;
    let head = packet.first_mut().ok_or(DropReason::Internal)?.bytes_mut();
    let addresses = Sum::of_addresses(parsed.family, &parsed.source, &parsed.destination);
    let delta = rewrite_ip_header(head, parsed, addresses, &to.source, &to.destination)?;
    if !has_ports {
        return Ok(());
    }
    let delta = rewrite_ports::<{ ports::LEN }>(header_at_mut(head, parsed.l4)?, to, delta);
    if checksum == ChecksumPolicy::Update {
        let field = header_at_mut(head, parsed.l4 + checksum_offset(protocol))?;
        update_transport_checksum(field, protocol, delta);
    }
    Ok(())
}

/// Writes the addresses of a packet and takes one hop. `old` is the sum of the addresses that were
/// there. Returns the change that a pseudo-header sees.
#[inline(always)]
pub(super) fn rewrite_ip_header(
    head: &mut [u8],
    parsed: &Parsed,
    old: Sum,
    source: &[u8; 16],
    destination: &[u8; 16],
) -> Result<Delta, DropReason> {
    let new = Sum::of_addresses(parsed.family, source, destination);
    let delta = Delta::default().addresses(old, new);
    match parsed.family {
        Family::V4 => {
            let header: &mut [u8; ipv4::HEADER_LEN] = header_at_mut(head, parsed.l3)?;
            put(header, ipv4::SOURCE, unmapped(*source));
            put(header, ipv4::DESTINATION, unmapped(*destination));
            let [hops, protocol] = pair(header, ipv4::TTL);
            let after = [hops.saturating_sub(1), protocol];
            put(header, ipv4::TTL, after);
            let checksum = delta
                .word([hops, protocol], after)
                .apply(pair(header, ipv4::CHECKSUM));
            put(header, ipv4::CHECKSUM, checksum);
        }
        Family::V6 => {
            let header: &mut [u8; ipv6::HEADER_LEN] = header_at_mut(head, parsed.l3)?;
            put(header, ipv6::SOURCE, *source);
            put(header, ipv6::DESTINATION, *destination);
            header[ipv6::HOP_LIMIT] = header[ipv6::HOP_LIMIT].saturating_sub(1);
        }
    }
    Ok(delta)
}

/// Writes the ports of a transport header, of which at least they are there, and adds their change
/// to `delta`.
#[inline(always)]
pub(super) fn rewrite_ports<const N: usize>(header: &mut [u8; N], to: &Translation, delta: Delta) -> Delta {
    const { assert!(N >= ports::LEN) };
    let before = [header[0], header[1], header[2], header[3]];
    // Put together before they are written: reading back two halves as a whole would wait until
    // both have left the processor's store buffer.
    let ([a, b], [c, d]) = (to.source_port.to_be_bytes(), to.destination_port.to_be_bytes());
    put(header, ports::SOURCE, [a, b, c, d]);
    delta.ports(before, [a, b, c, d])
}

/// Gives an IPv4 packet another identification, for fragments of datagrams from many clients
/// that share one source address now. Nothing to do over IPv6.
pub fn set_ipv4_identification(head: &mut [u8], parsed: &Parsed, id: u16) -> Result<(), DropReason> {
    if parsed.family == Family::V6 {
        return Ok(());
    }
    let header: &mut [u8; ipv4::HEADER_LEN] = header_at_mut(head, parsed.l3)?;
    let checksum = Delta::default()
        .word(pair(header, ipv4::IDENTIFICATION), id.to_be_bytes())
        .apply(pair(header, ipv4::CHECKSUM));
    put(header, ipv4::IDENTIFICATION, id.to_be_bytes());
    put(header, ipv4::CHECKSUM, checksum);
    Ok(())
}

/// Updates the checksum of a transport header after a change of what it covers.
#[inline(always)]
pub(super) fn update_transport_checksum(field: &mut [u8; 2], protocol: Protocol, delta: Delta) {
    if protocol == Protocol::Tcp || *field != [0; 2] {
        *field = transport_field(protocol, delta.apply(*field));
    }
}

/// The checksum of a packet whose checksum field is the folded sum of its pseudo-header: the sender
/// has left it to be completed. One complete checksum in 65,536 looks like that too, and stays.
#[inline(never)]
fn completed<F: Frame>(
    packet: &[F],
    parsed: &Parsed,
    protocol: Protocol,
    length: usize,
    pseudo_header: Sum,
) -> [u8; 2] {
    let field = pseudo_header.folded().to_ne_bytes();
    let whole = pseudo_header.plus(sum_of_range(packet, parsed.l4, length));
    if whole.verifies() {
        return field;
    }
    // The sum over everything, less the field.
    let checksum = Delta::default().sums(pseudo_header, whole).apply([0xff; 2]);
    transport_field(protocol, checksum)
}

/// Length of what the transport checksum covers besides the pseudo-header, which holds it too.
#[inline(always)]
fn covered_len<const N: usize>(header: &[u8; N], parsed: &Parsed, protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => parsed.end - parsed.l4,
        Protocol::Udp => usize::from(be16(header, udp::LENGTH)),
    }
}

/// The sum of `length` bytes from `start` of the packet, over its frames. O(length).
fn sum_of_range<F: Frame>(packet: &[F], start: usize, length: usize) -> Sum {
    let (mut skip, mut summed) = (start, 0);
    let mut sum = Sum::default();
    for frame in packet {
        let bytes = frame.bytes();
        let rest = bytes.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(bytes.len());
        let covered = rest.get(..length - summed).unwrap_or(rest);
        sum = sum.append(summed, covered);
        summed += covered.len();
    }
    sum
}
