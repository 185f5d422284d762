//! Full NAT of one packet: addresses, ports, hop limit and checksums, in place.

use vl3lb_common::{DropReason, Protocol};

use super::checksum::{Delta, Sum, transport_field};
use super::field::{
    be16, checksum_offset, header_at, header_at_mut, ipv4, ipv6, ports, put, sctp, tcp, udp, unmapped, word,
};
use super::parse::{Family, Parsed, Transport, ipv4_addresses, ipv6_addresses};
use super::{extension, plain_rewrite};
use crate::port::Frame;

/// The hop limit in the word of an IPv4 header that it shares with the protocol, and one hop of it.
const HOPS: u16 = u16::from_ne_bytes([0xff, 0]);
const ONE_HOP: u16 = u16::from_ne_bytes([1, 0]);

/// New addresses and ports. Addresses are of the packet's family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Translation {
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub source_port: u16,
    pub destination_port: u16,
}

/// When the transport checksum is updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChecksumPolicy {
    /// At once.
    Update,
    /// By [`segment`](super::segment), which makes new ones: leave it alone.
    Later,
}

/// Rewrites a TCP, UDP or SCTP packet, or a fragment of one, to `to`, with one hop less. The caller has
/// checked the hop limit.
///
/// Checksums are updated incrementally (RFC 1624). A partial transport checksum, which is the
/// folded sum of the pseudo-header (CHECKSUM_PARTIAL: veth and TUN pass on what the sender's kernel
/// leaves to its hardware), is completed, at the cost of one pass over the payload. A UDP checksum
/// of 0 stays (RFC 768). Fragments' checksums cover the whole datagram and are updated in the first
/// one. Ports are written where the packet has them. The checksum of an SCTP packet is left alone:
/// [`seal_sctp`](super::seal_sctp) makes a new one.
///
/// `Internal` if `parsed` is an ICMP message or not of this packet.
#[inline(never)] // In a frame of its own it keeps all it needs in registers.
pub(crate) fn translate<F: Frame>(
    packet: &mut [F],
    parsed: &Parsed,
    to: &Translation,
    checksum: ChecksumPolicy,
) -> Result<(), DropReason> {
    let (first, rest) = packet.split_first_mut().ok_or(DropReason::Internal)?;
    let head = first.bytes_mut();
    if parsed.plain
        && rest.is_empty()
        && checksum == ChecksumPolicy::Update
        && plain_rewrite::translate(head, parsed, to)
    {
        return Ok(());
    }
    // Once for each protocol, so that its offsets are constants.
    match parsed.transport {
        Transport::Udp { .. } => {
            translate_whole::<F, { udp::HEADER_LEN }>(head, rest, parsed, Protocol::Udp, to, checksum)
        }
        Transport::Tcp { .. } => {
            translate_whole::<F, { tcp::HEADER_LEN }>(head, rest, parsed, Protocol::Tcp, to, checksum)
        }
        Transport::Fragment { protocol, ports, .. } => {
            translate_fragment(head, parsed, protocol, ports.is_some(), to, checksum)
        }
        Transport::Sctp { .. } => translate_sctp(head, parsed, to),
        Transport::Icmp => Err(DropReason::Internal),
    }
}

/// An SCTP packet, without its checksum.
#[cold]
fn translate_sctp(head: &mut [u8], parsed: &Parsed, to: &Translation) -> Result<(), DropReason> {
    let addresses = Sum::of_addresses(parsed.family, &parsed.source, &parsed.destination);
    let delta = rewrite_ip_header(head, parsed, addresses, &to.source, &to.destination)?;
    let header: &mut [u8; sctp::HEADER_LEN] = header_at_mut(head, parsed.l4())?;
    rewrite_ports(header, to, delta);
    Ok(())
}

/// A packet that is no fragment, with the transport header of `N` bytes of `protocol`. `rest` are its
/// frames behind the first one.
#[inline(always)]
fn translate_whole<F: Frame, const N: usize>(
    head: &mut [u8],
    rest: &[F],
    parsed: &Parsed,
    protocol: Protocol,
    to: &Translation,
    checksum: ChecksumPolicy,
) -> Result<(), DropReason> {
    let at = checksum_offset(protocol);
    let addresses = Sum::of_addresses(parsed.family, &parsed.source, &parsed.destination);
    let header: &[u8; N] = header_at(head, parsed.l4())?;
    let mut field = word(header, at);
    if checksum == ChecksumPolicy::Update {
        let length = covered_len(header, parsed, protocol);
        let pseudo_header = Sum::pseudo_header(addresses, protocol.number(), length);
        if field == pseudo_header.folded() {
            let covered = head.get(parsed.l4()..).unwrap_or_default();
            field = completed(covered, rest, protocol, length, pseudo_header);
        }
    }
    let delta = rewrite_ip_header(head, parsed, addresses, &to.source, &to.destination)?;
    let header: &mut [u8; N] = header_at_mut(head, parsed.l4())?;
    let delta = rewrite_ports(header, to, delta);
    if checksum == ChecksumPolicy::Update {
        let field = updated_transport_checksum(field, protocol, delta);
        put(header, at, field.to_ne_bytes());
    }
    Ok(())
}

/// A fragment: its checksum covers bytes of others. Only the first one has ports.
#[cold]
fn translate_fragment(
    head: &mut [u8],
    parsed: &Parsed,
    protocol: u8,
    has_ports: bool,
    to: &Translation,
    checksum: ChecksumPolicy,
) -> Result<(), DropReason> {
    let protocol = Protocol::from_number(protocol).ok_or(DropReason::Internal)?;
    let addresses = Sum::of_addresses(parsed.family, &parsed.source, &parsed.destination);
    let delta = rewrite_ip_header(head, parsed, addresses, &to.source, &to.destination)?;
    if !has_ports {
        return Ok(());
    }
    let delta = rewrite_ports::<{ ports::LEN }>(header_at_mut(head, parsed.l4())?, to, delta);
    if checksum == ChecksumPolicy::Update {
        let field: &mut [u8; 2] = header_at_mut(head, parsed.l4() + checksum_offset(protocol))?;
        *field = updated_transport_checksum(word(field, 0), protocol, delta).to_ne_bytes();
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
            let header: &mut [u8; ipv4::HEADER_LEN] = header_at_mut(head, parsed.l3())?;
            put(header, ipv4::SOURCE, unmapped(*source));
            put(header, ipv4::DESTINATION, unmapped(*destination));
            let before = word(header, ipv4::TTL);
            let after = before - if before & HOPS == 0 { 0 } else { ONE_HOP };
            put(header, ipv4::TTL, after.to_ne_bytes());
            let checksum = delta.word(before, after).apply(word(header, ipv4::CHECKSUM));
            put(header, ipv4::CHECKSUM, checksum.to_ne_bytes());
        }
        Family::V6 => {
            let header: &mut [u8; ipv6::HEADER_LEN] = header_at_mut(head, parsed.l3())?;
            put(header, ipv6::SOURCE, *source);
            put(header, ipv6::DESTINATION, *destination);
            header[ipv6::HOP_LIMIT] = header[ipv6::HOP_LIMIT].saturating_sub(1);
        }
    }
    Ok(delta)
}

/// Writes the ports of a transport header and adds their change to `delta`.
#[inline(always)]
pub(super) fn rewrite_ports<const N: usize>(header: &mut [u8; N], to: &Translation, delta: Delta) -> Delta {
    const { assert!(N >= ports::LEN) };
    let before = [header[0], header[1], header[2], header[3]];
    // Put together before they are written: reading back two halves as a whole would wait until
    // both have left the processor's store buffer.
    let after = (u32::from(to.source_port) << 16 | u32::from(to.destination_port)).to_be_bytes();
    put(header, ports::SOURCE, after);
    delta.ports(before, after)
}

/// Source and destination of a packet that was translated since it was parsed.
///
/// # Errors
/// `Internal` if `parsed` is not of this packet.
pub(crate) fn addresses(head: &[u8], parsed: &Parsed) -> Result<([u8; 16], [u8; 16]), DropReason> {
    let addresses = match parsed.family {
        Family::V4 => header_at(head, parsed.l3()).map(ipv4_addresses),
        Family::V6 => header_at(head, parsed.l3()).map(ipv6_addresses),
    };
    addresses.map_err(|_| DropReason::Internal)
}

/// Sets the identification of an IPv4 packet, of which the lower 16 bits of `id` are used, or of a fragment over IPv6;
/// an IPv6 packet that is not one has none. Many clients share one source address after translation.
///
/// # Errors
/// `Internal` if `parsed` is not of this packet.
pub(crate) fn set_identification(head: &mut [u8], parsed: &Parsed, id: u32) -> Result<(), DropReason> {
    if parsed.family == Family::V6 {
        if let Transport::Fragment { .. } = parsed.transport {
            let at = parsed.l4() - extension::FRAGMENT_LEN + extension::FRAGMENT_ID;
            *header_at_mut(head, at)? = id.to_be_bytes();
        }
        return Ok(());
    }
    #[expect(clippy::cast_possible_truncation, reason = "the lower 16 bits")]
    let id = id as u16;
    let header: &mut [u8; ipv4::HEADER_LEN] = header_at_mut(head, parsed.l3())?;
    let checksum = Delta::default()
        .word(word(header, ipv4::IDENTIFICATION), id.to_be())
        .apply(word(header, ipv4::CHECKSUM));
    put(header, ipv4::IDENTIFICATION, id.to_be_bytes());
    put(header, ipv4::CHECKSUM, checksum.to_ne_bytes());
    Ok(())
}

/// The checksum of a transport header after a change of the covered bytes.
#[inline(always)]
pub(super) fn updated_transport_checksum(field: u16, protocol: Protocol, delta: Delta) -> u16 {
    if protocol == Protocol::Udp && field == 0 {
        return 0;
    }
    transport_field(protocol, delta.apply(field))
}

/// The checksum of a packet with the folded sum of its pseudo-header in the checksum field: the sender
/// left it to be completed. One complete checksum in 65,536 looks like that too, and stays.
/// `covered` begins with the transport header and continues in the frames of `rest`.
#[inline(never)]
fn completed<F: Frame>(
    covered: &[u8],
    rest: &[F],
    protocol: Protocol,
    length: usize,
    pseudo_header: Sum,
) -> u16 {
    let whole = pseudo_header.plus(sum_of_first(covered, rest, length));
    if whole.verifies() {
        return pseudo_header.folded();
    }
    // The sum over all bytes except the field.
    let checksum = Delta::default().sums(pseudo_header, whole).apply(0xffff);
    transport_field(protocol, checksum)
}

/// Number of bytes that the transport checksum covers without the pseudo-header, which contains this number.
#[inline(always)]
fn covered_len<const N: usize>(header: &[u8; N], parsed: &Parsed, protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp | Protocol::Sctp => parsed.end() - parsed.l4(),
        Protocol::Udp => usize::from(be16(header, udp::LENGTH)),
    }
}

/// Checks the TCP checksum of a packet that is made anew, since that hides a wrong one. O(payload).
///
/// # Errors
/// `BadChecksum`.
pub(crate) fn check_tcp<F: Frame>(packet: &[F], parsed: &Parsed) -> Result<(), DropReason> {
    let (first, rest) = packet.split_first().ok_or(DropReason::Internal)?;
    let covered = first.bytes().get(parsed.l4()..).ok_or(DropReason::Internal)?;
    let length = parsed.end() - parsed.l4();
    let addresses = Sum::of_addresses(parsed.family, &parsed.source, &parsed.destination);
    let whole = Sum::pseudo_header(addresses, Protocol::Tcp.number(), length)
        .plus(sum_of_first(covered, rest, length));
    if whole.verifies() {
        Ok(())
    } else {
        Err(DropReason::BadChecksum)
    }
}

/// The sum of the first `length` bytes of `head` and the frames of `rest`. O(length).
pub(super) fn sum_of_first<F: Frame>(head: &[u8], rest: &[F], length: usize) -> Sum {
    let mut sum = Sum::default();
    let mut summed = 0;
    for bytes in std::iter::once(head).chain(rest.iter().map(Frame::bytes)) {
        let covered = bytes.get(..length - summed).unwrap_or(bytes);
        sum = sum.append(summed, covered);
        summed += covered.len();
    }
    sum
}
