//! Full NAT of one packet: addresses, ports, hop limit and checksums, in place.

use vl3lb_common::{DropReason, Protocol};

use super::checksum::{Delta, Sum, transport_field};
use super::field::{be16, checksum_offset, header_at, header_at_mut, ipv4, ipv6, ports, put, udp, unmapped};
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
#[inline]
pub fn translate<F: Frame>(
    packet: &mut [F],
    parsed: &Parsed,
    to: &Translation,
    checksum: ChecksumPolicy,
) -> Result<(), DropReason> {
    let (protocol, has_ports, whole) = match parsed.transport {
        Transport::Tcp { .. } => (Protocol::Tcp, true, true),
        Transport::Udp { .. } => (Protocol::Udp, true, true),
        Transport::Fragment { protocol, ports, .. } => {
            let protocol = Protocol::from_number(protocol).ok_or(DropReason::Internal)?;
            (protocol, ports.is_some(), false)
        }
        Transport::Icmp => return Err(DropReason::Internal),
    };
    let partial =
        whole && checksum == ChecksumPolicy::Update && has_partial_checksum(packet, parsed, protocol)?;

    let head = packet.first_mut().ok_or(DropReason::Internal)?.bytes_mut();
    let addresses = rewrite_ip_header(head, parsed, &to.source, &to.destination)?;
    if !has_ports {
        return Ok(());
    }
    let delta = rewrite_ports(head, parsed.l4, to, addresses)?;
    if checksum == ChecksumPolicy::Later {
        Ok(())
    } else if partial {
        complete_checksum(packet, parsed, protocol, to)
    } else {
        update_transport_checksum(head, parsed.l4, protocol, delta)
    }
}

/// Writes the addresses of a packet and takes one hop. Returns the change that a pseudo-header
/// sees.
#[inline]
pub(super) fn rewrite_ip_header(
    head: &mut [u8],
    parsed: &Parsed,
    source: &[u8; 16],
    destination: &[u8; 16],
) -> Result<Delta, DropReason> {
    let delta = Delta::default().addresses(
        Sum::of_addresses(&parsed.source, &parsed.destination),
        Sum::of_addresses(source, destination),
    );
    match parsed.family {
        Family::V4 => {
            let header: &mut [u8; ipv4::HEADER_LEN] = header_at_mut(head, parsed.l3)?;
            put(header, ipv4::SOURCE, unmapped(*source));
            put(header, ipv4::DESTINATION, unmapped(*destination));
            let before = be16(header, ipv4::TTL);
            header[ipv4::TTL] = header[ipv4::TTL].saturating_sub(1);
            let checksum = delta
                .word(before, be16(header, ipv4::TTL))
                .apply(be16(header, ipv4::CHECKSUM));
            put(header, ipv4::CHECKSUM, checksum.to_be_bytes());
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

/// Writes the ports of the transport header at `l4` and adds their change to `delta`.
#[inline]
pub(super) fn rewrite_ports(
    head: &mut [u8],
    l4: usize,
    to: &Translation,
    delta: Delta,
) -> Result<Delta, DropReason> {
    let field: &mut [u8; ports::LEN] = header_at_mut(head, l4)?;
    let before = *field;
    // Put together before they are written: reading back two halves as a whole would wait until
    // both have left the processor's store buffer.
    let ([a, b], [c, d]) = (to.source_port.to_be_bytes(), to.destination_port.to_be_bytes());
    *field = [a, b, c, d];
    Ok(delta.ports(before, [a, b, c, d]))
}

/// Gives an IPv4 packet another identification, for fragments of datagrams from many clients
/// that share one source address now. Nothing to do over IPv6.
pub fn set_ipv4_identification(head: &mut [u8], parsed: &Parsed, id: u16) -> Result<(), DropReason> {
    if parsed.family == Family::V6 {
        return Ok(());
    }
    let header: &mut [u8; ipv4::HEADER_LEN] = header_at_mut(head, parsed.l3)?;
    let checksum = Delta::default()
        .word(be16(header, ipv4::IDENTIFICATION), id)
        .apply(be16(header, ipv4::CHECKSUM));
    put(header, ipv4::IDENTIFICATION, id.to_be_bytes());
    put(header, ipv4::CHECKSUM, checksum.to_be_bytes());
    Ok(())
}

/// Updates the checksum of the transport header at `l4` after a change of what it covers.
#[inline]
pub(super) fn update_transport_checksum(
    head: &mut [u8],
    l4: usize,
    protocol: Protocol,
    delta: Delta,
) -> Result<(), DropReason> {
    let field: &mut [u8; 2] = header_at_mut(head, l4 + checksum_offset(protocol))?;
    let checksum = u16::from_be_bytes(*field);
    if protocol == Protocol::Udp && checksum == 0 {
        return Ok(());
    }
    *field = transport_field(protocol, delta.apply(checksum)).to_be_bytes();
    Ok(())
}

/// Whether the sender left the checksum to be completed: the field is the folded sum of the
/// pseudo-header. One complete checksum in 65,536 looks like that too, so then the sum over
/// everything decides.
#[inline]
fn has_partial_checksum<F: Frame>(
    packet: &[F],
    parsed: &Parsed,
    protocol: Protocol,
) -> Result<bool, DropReason> {
    let head = packet.first().ok_or(DropReason::Internal)?.bytes();
    let length = covered_len(head, parsed, protocol)?;
    let pseudo_header = Sum::pseudo_header(&parsed.source, &parsed.destination, protocol.number(), length);
    let field: &[u8; 2] = header_at(head, parsed.l4 + checksum_offset(protocol))?;
    if u16::from_be_bytes(*field) != pseudo_header.fold() {
        return Ok(false);
    }
    let sum = pseudo_header.plus(sum_of_range(packet, parsed.l4, length));
    Ok(!sum.verifies())
}

/// Makes a full checksum over all frames.
#[cold]
fn complete_checksum<F: Frame>(
    packet: &mut [F],
    parsed: &Parsed,
    protocol: Protocol,
    to: &Translation,
) -> Result<(), DropReason> {
    let at = parsed.l4 + checksum_offset(protocol);
    let head = packet.first_mut().ok_or(DropReason::Internal)?.bytes_mut();
    let length = covered_len(head, parsed, protocol)?;
    *header_at_mut(head, at)? = [0; 2];
    let checksum = Sum::pseudo_header(&to.source, &to.destination, protocol.number(), length)
        .plus(sum_of_range(packet, parsed.l4, length))
        .checksum();
    let head = packet.first_mut().ok_or(DropReason::Internal)?.bytes_mut();
    *header_at_mut(head, at)? = transport_field(protocol, checksum).to_be_bytes();
    Ok(())
}

/// Length of what the transport checksum covers besides the pseudo-header, which holds it too.
#[inline]
fn covered_len(head: &[u8], parsed: &Parsed, protocol: Protocol) -> Result<usize, DropReason> {
    match protocol {
        Protocol::Tcp => Ok(parsed.end - parsed.l4),
        Protocol::Udp => {
            let header: &[u8; udp::HEADER_LEN] = header_at(head, parsed.l4)?;
            Ok(usize::from(be16(header, udp::LENGTH)))
        }
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
