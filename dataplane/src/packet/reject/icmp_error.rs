//! ICMP and ICMPv6 errors that the balancer itself sends (RFC 1812 section 4.3.2, RFC 4443 section
//! 2.4).

use vl3lb_common::DropReason;

use super::header::{RejectHeader, check_one_receiver, ip_header_len, swap_macs, write_ip_header};
use crate::packet::checksum::Sum;
use crate::packet::field::{header_at_mut, icmp, put};
use crate::packet::parse::{Family, Parsed, Transport};
use crate::port::Frame;

/// The kinds of error that the balancer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IcmpError {
    /// No backend listens.
    PortUnreachable,
    /// No resources for the flow (RFC 5508 REQ-8).
    AdminProhibited,
    TimeExceeded,
    /// The MTU of the next hop, in bytes.
    TooBig {
        mtu: u16,
    },
}

/// Precedence 6, Internetwork Control (RFC 1812 section 4.3.2.5).
const V4_TOS: u8 = 0xc0;
/// An error over IPv4 has at most this many bytes (RFC 1812 section 4.3.2.3).
const V4_LIMIT: usize = 576;
/// An error over IPv6 fits the minimum MTU (RFC 4443 section 2.4 (c)).
const V6_LIMIT: usize = 1280;

/// Turns the first frame of `packet` into an ICMP or ICMPv6 error from `source` to the packet's
/// sender. It quotes the packet as received, so this comes before any translation. Further frames
/// are not part of the error.
///
/// Errors: `IcmpUnmatched` for an ICMP error and `FragmentUnmatched` for a fragment other than the
/// first, to which no error is sent; `Martian` for a packet not sent to one receiver; `Internal` if the
/// frame is too small. The packet is unchanged then.
pub(crate) fn reject_with_icmp_error<F: Frame>(
    packet: &mut [F],
    parsed: &Parsed,
    kind: IcmpError,
    source: [u8; 16],
) -> Result<(), DropReason> {
    match parsed.transport {
        Transport::Icmp => return Err(DropReason::IcmpUnmatched),
        Transport::Fragment { offset: 1.., .. } => return Err(DropReason::FragmentUnmatched),
        Transport::Fragment { .. }
        | Transport::Tcp { .. }
        | Transport::Udp { .. }
        | Transport::Sctp { .. } => {}
    }
    let first = packet.first_mut().ok_or(DropReason::Internal)?;
    check_one_receiver(first.bytes(), parsed)?;

    let front = ip_header_len(parsed.family) + icmp::HEADER_LEN;
    let quoted = quoted_len(first, parsed, front).ok_or(DropReason::Internal)?;
    let end = parsed.l3() + front + quoted;
    first.set_len(end);
    first.set_continues(false);
    let head = first.bytes_mut();
    swap_macs(head, parsed);
    let error_packet = head.get_mut(parsed.l3()..end).ok_or(DropReason::Internal)?;
    error_packet.copy_within(..quoted, front);
    write_error(error_packet, parsed, kind, source)
}

/// Number of bytes of the packet that the error quotes: those of the first frame, up to the limit. `None` if the
/// frame has no room for the parsed headers.
fn quoted_len<F: Frame>(first: &F, parsed: &Parsed, front: usize) -> Option<usize> {
    let limit = match parsed.family {
        Family::V4 => V4_LIMIT,
        Family::V6 => V6_LIMIT,
    };
    let available = first.bytes().len().min(parsed.end()).checked_sub(parsed.l3())?;
    let room = first.capacity().checked_sub(parsed.l3() + front)?;
    let quoted = available.min(limit - front).min(room);
    // RFC 792: the header and 8 bytes.
    let least = (parsed.l4() - parsed.l3() + 8).min(limit - front);
    (quoted >= least).then_some(quoted)
}

/// Writes the headers in front of the quote.
fn write_error(
    error_packet: &mut [u8],
    parsed: &Parsed,
    kind: IcmpError,
    source: [u8; 16],
) -> Result<(), DropReason> {
    let header_len = ip_header_len(parsed.family);
    let (protocol, traffic_class) = match parsed.family {
        Family::V4 => (icmp::PROTOCOL_V4, V4_TOS),
        Family::V6 => (icmp::PROTOCOL_V6, 0),
    };
    let fields = RejectHeader {
        protocol,
        traffic_class,
        source,
        destination: parsed.source,
        payload_len: error_packet.len() - header_len,
    };
    write_ip_header(error_packet, parsed.family, &fields)?;

    let header: &mut [u8; icmp::HEADER_LEN] = header_at_mut(error_packet, header_len)?;
    *header = icmp_header(parsed.family, kind);
    let sum = Sum::of(error_packet.get(header_len..).unwrap_or_default());
    let checksum = match parsed.family {
        Family::V4 => sum,
        Family::V6 => {
            let addresses = Sum::of_addresses(parsed.family, &source, &parsed.source);
            sum.plus(Sum::pseudo_header(addresses, protocol, fields.payload_len))
        }
    }
    .checksum();
    let header: &mut [u8; icmp::HEADER_LEN] = header_at_mut(error_packet, header_len)?;
    put(header, icmp::CHECKSUM, checksum);
    Ok(())
}

/// The message header, its checksum 0.
fn icmp_header(family: Family, kind: IcmpError) -> [u8; icmp::HEADER_LEN] {
    let (message, code) = match (family, kind) {
        (Family::V4, IcmpError::PortUnreachable) => (3, 3),
        (Family::V4, IcmpError::AdminProhibited) => (3, 13),
        (Family::V4, IcmpError::TimeExceeded) => (11, 0),
        (Family::V4, IcmpError::TooBig { .. }) => (3, 4),
        (Family::V6, IcmpError::PortUnreachable) => (1, 4),
        (Family::V6, IcmpError::AdminProhibited) => (1, 1),
        (Family::V6, IcmpError::TimeExceeded) => (3, 0),
        (Family::V6, IcmpError::TooBig { .. }) => (2, 0),
    };
    let mut header = [0; icmp::HEADER_LEN];
    header[icmp::TYPE] = message;
    header[icmp::CODE] = code;
    if let IcmpError::TooBig { mtu } = kind {
        match family {
            Family::V4 => put(&mut header, icmp::V4_MTU, mtu.to_be_bytes()),
            Family::V6 => put(&mut header, icmp::V6_MTU, u32::from(mtu).to_be_bytes()),
        }
    }
    header
}
