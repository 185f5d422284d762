//! ICMP and ICMPv6 errors about translated packets (RFC 5508 section 4): reading the packet they
//! quote, and undoing its translation.

use vl3lb_common::{DropReason, Protocol};

use super::checksum::{Delta, Sum};
use super::extension;
use super::field::{
    be16, be32, checksum_offset, header_at, header_at_mut, icmp, ipv4, ipv6, is_mapped, ports, put, unmapped,
    word,
};
use super::parse::{
    Family, Parsed, Transport, checked_ipv4_header_len, ipv4_addresses, ipv4_fragment, ipv6_addresses,
};
use super::rewrite::{
    Translation, rewrite_ip_header, rewrite_ports, sum_of_first, updated_transport_checksum,
};
use crate::port::Frame;

/// The packet that an ICMP error is about, as it was when the error was made.
///
/// Its IPv4 header checksum is checked, its transport checksum is not (RFC 5508 REQ-3). It may be
/// truncated behind the first 8 bytes of its transport header (RFC 792). An IPv4-mapped IPv6 address
/// is rejected, so that it cannot match an IPv4 flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quoted {
    /// Offset of its IP header.
    pub l3: usize,
    /// Offset of its transport header.
    pub l4: usize,
    /// Offset of the end of the quote: of the message, or of the part before the extensions of RFC
    /// 4884. At most the end of the first frame.
    pub end: usize,
    /// Length that the packet had, of which the quote may be the begin.
    pub ip_len: u32,
    pub protocol: Protocol,
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub source_port: u16,
    pub destination_port: u16,
    pub kind: ErrorClass,
}

/// The kind of an error, as far as it matters to a balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorClass {
    Unreachable,
    /// Fragmentation Needed (RFC 1191) or Packet Too Big; the MTU of the next hop in bytes, 0 if
    /// the router did not report it.
    TooBig {
        mtu: u32,
    },
    TimeExceeded,
    /// Parameter Problem.
    Other,
}

/// Bytes of the quoted transport header that must be there (RFC 792).
const QUOTED_TRANSPORT_LEN: usize = 8;

/// Reads an ICMP or ICMPv6 error about a TCP, UDP or SCTP packet, whose first frame is `head`.
///
/// Errors: `Malformed`, `BadChecksum`, `UnsupportedProtocol` (all but errors about these),
/// `IcmpUnmatched` (about a fragment that has no ports), `Internal` if `parsed` is no ICMP message.
pub(crate) fn parse_quote(head: &[u8], parsed: &Parsed) -> Result<Quoted, DropReason> {
    if parsed.transport != Transport::Icmp {
        return Err(DropReason::Internal);
    }
    let (l4, end, family) = (parsed.l4(), parsed.end(), parsed.family);
    if end - l4 < icmp::HEADER_LEN {
        return Err(DropReason::Malformed);
    }
    let header: &[u8; icmp::HEADER_LEN] = header_at(head, l4)?;
    let kind = error_class(header, family).ok_or(DropReason::UnsupportedProtocol)?;
    // Of a message in several frames only the first is here: see `check_long_icmp`.
    if let Some(message) = head.get(l4..end)
        && !Sum::of(message).plus(pseudo_header(parsed)).verifies()
    {
        return Err(DropReason::BadChecksum);
    }
    let l3 = l4 + icmp::HEADER_LEN;
    let end = quote_end(header, family, l3, end.min(head.len()));
    let quote = head.get(..end).ok_or(DropReason::Malformed)?;
    match family {
        Family::V4 => parse_ipv4_quote(quote, l3, kind),
        Family::V6 => parse_ipv6_quote(quote, l3, kind),
    }
}

/// Checks the checksum of an ICMP or ICMPv6 message in several frames; [`parse_quote`] does so for one.
///
/// # Errors
/// `BadChecksum`.
pub(crate) fn check_long_icmp<F: Frame>(packet: &[F], parsed: &Parsed) -> Result<(), DropReason> {
    let length = parsed.end() - parsed.l4();
    let sum = match packet.split_first() {
        Some((head, rest)) => {
            let covered = head.bytes().get(parsed.l4()..).unwrap_or_default();
            sum_of_first(covered, rest, length)
        }
        None => Sum::default(),
    };
    if sum.plus(pseudo_header(parsed)).verifies() {
        Ok(())
    } else {
        Err(DropReason::BadChecksum)
    }
}

/// Over IPv4 ICMP has none.
fn pseudo_header(parsed: &Parsed) -> Sum {
    match parsed.family {
        Family::V4 => Sum::default(),
        Family::V6 => {
            let addresses = Sum::of_addresses(parsed.family, &parsed.source, &parsed.destination);
            Sum::pseudo_header(addresses, icmp::PROTOCOL_V6, parsed.end() - parsed.l4())
        }
    }
}

/// The errors of RFC 792 and RFC 4443 except Source Quench (deprecated by RFC 6633) and Redirect
/// (between a router and its neighbour).
fn error_class(header: &[u8; icmp::HEADER_LEN], family: Family) -> Option<ErrorClass> {
    match (family, header[icmp::TYPE], header[icmp::CODE]) {
        (Family::V4, 3, 4) => Some(ErrorClass::TooBig {
            mtu: u32::from(be16(header, icmp::V4_MTU)),
        }),
        (Family::V6, 2, _) => Some(ErrorClass::TooBig {
            mtu: be32(header, icmp::V6_MTU),
        }),
        (Family::V4, 3, _) | (Family::V6, 1, _) => Some(ErrorClass::Unreachable),
        (Family::V4, 11, _) | (Family::V6, 3, _) => Some(ErrorClass::TimeExceeded),
        (Family::V4, 12, _) | (Family::V6, 4, _) => Some(ErrorClass::Other),
        _ => None,
    }
}

/// Where the quote ends and extensions (RFC 4884) may begin. Only the kinds of error that the RFC
/// extends have the length field; in others the byte is part of an MTU or pointer.
fn quote_end(header: &[u8; icmp::HEADER_LEN], family: Family, start: usize, end: usize) -> usize {
    let stated = match (family, header[icmp::TYPE]) {
        (Family::V4, _) => usize::from(header[icmp::V4_QUOTE_WORDS]) * 4,
        (Family::V6, 1 | 3) => usize::from(header[icmp::V6_QUOTE_WORDS]) * 8,
        (Family::V6, _) => 0,
    };
    match stated {
        0 => end,
        stated => end.min(start + stated),
    }
}

fn parse_ipv4_quote(quote: &[u8], l3: usize, kind: ErrorClass) -> Result<Quoted, DropReason> {
    let header = header_at(quote, l3)?;
    let l4 = l3 + checked_ipv4_header_len(quote, l3, header)?;
    if ipv4_fragment(header).is_some_and(|fragment| fragment.offset != 0) {
        return Err(DropReason::IcmpUnmatched);
    }
    let addresses = ipv4_addresses(header);
    let ip_len = be16(header, ipv4::TOTAL_LENGTH).into();
    parse_quoted_transport(quote, (l3, l4, ip_len), header[ipv4::PROTOCOL], addresses, kind)
}

fn parse_ipv6_quote(quote: &[u8], l3: usize, kind: ErrorClass) -> Result<Quoted, DropReason> {
    let header: &[u8; ipv6::HEADER_LEN] = header_at(quote, l3)?;
    let addresses = ipv6_addresses(header);
    if header[ipv6::VERSION_CLASS] >> 4 != 6 || is_mapped(&addresses.0) || is_mapped(&addresses.1) {
        return Err(DropReason::Malformed);
    }
    const { assert!(ipv6::HEADER_LEN == 40) };
    let chain = extension::walk(
        quote,
        l3 + ipv6::HEADER_LEN,
        quote.len(),
        header[ipv6::NEXT_HEADER],
    )?;
    if chain.fragment.is_some_and(|fragment| fragment.offset != 0) {
        return Err(DropReason::IcmpUnmatched);
    }
    let ip_len = 40 + u32::from(be16(header, ipv6::PAYLOAD_LENGTH));
    parse_quoted_transport(quote, (l3, chain.at, ip_len), chain.protocol, addresses, kind)
}

fn parse_quoted_transport(
    quote: &[u8],
    (l3, l4, ip_len): (usize, usize, u32),
    protocol: u8,
    (source, destination): ([u8; 16], [u8; 16]),
    kind: ErrorClass,
) -> Result<Quoted, DropReason> {
    let protocol = Protocol::from_number(protocol).ok_or(DropReason::UnsupportedProtocol)?;
    let header: &[u8; QUOTED_TRANSPORT_LEN] = header_at(quote, l4)?;
    Ok(Quoted {
        l3,
        l4,
        end: quote.len(),
        ip_len,
        protocol,
        source,
        destination,
        source_port: be16(header, ports::SOURCE),
        destination_port: be16(header, ports::DESTINATION),
        kind,
    })
}

/// Sends an ICMP error through the NAT (RFC 5508 REQ-4 and REQ-5): the message gets the addresses
/// `source` and `destination` and one hop less, the quote becomes the packet `inner`, with its own
/// checksums updated as far as they lie within it, and the message's checksum follows. A quoted SCTP checksum stays as it
/// is: of a truncated packet there is none, and receivers go by ports and tag (RFC 9260 section 10).
///
/// Type, code, lengths and extensions stay. O(quoted headers). `Internal` if `parsed` and `quoted`
/// are not of this packet.
pub(crate) fn translate_error(
    head: &mut [u8],
    parsed: &Parsed,
    quoted: &Quoted,
    source: [u8; 16],
    destination: [u8; 16],
    inner: &Translation,
) -> Result<(), DropReason> {
    // The part of the quote that changes: from its IP header to its transport checksum, if it is that
    // long. It begins at an even offset of the message, so that the words summed are the message's
    // own.
    let changed = quoted.l3..quoted.end.min(quoted.l4 + checksum_offset(quoted.protocol) + 2);
    let before = Sum::of(head.get(changed.clone()).ok_or(DropReason::Internal)?);
    rewrite_quote(head, parsed.family, quoted, inner)?;
    let after = Sum::of(head.get(changed).ok_or(DropReason::Internal)?);

    let old = Sum::of_addresses(parsed.family, &parsed.source, &parsed.destination);
    let addresses = rewrite_ip_header(head, parsed, old, &source, &destination)?;
    let delta = match parsed.family {
        // ICMP over IPv4 has no pseudo-header.
        Family::V4 => Delta::default(),
        Family::V6 => addresses,
    };
    let header: &mut [u8; icmp::HEADER_LEN] = header_at_mut(head, parsed.l4())?;
    let checksum = delta.sums(before, after).apply(word(header, icmp::CHECKSUM));
    put(header, icmp::CHECKSUM, checksum.to_ne_bytes());
    Ok(())
}

/// Takes `by` bytes, which its receiver does not know of, off the MTU that a Fragmentation Needed or Packet Too Big error
/// reports. Nothing happens to one that reports none.
///
/// # Errors
/// `Internal` if `parsed` is not of this packet.
pub(crate) fn reduce_mtu(head: &mut [u8], parsed: &Parsed, by: u16) -> Result<(), DropReason> {
    let header: &mut [u8; icmp::HEADER_LEN] = header_at_mut(head, parsed.l4())?;
    let before = Sum::of_header(header);
    match parsed.family {
        Family::V4 => {
            let mtu = be16(header, icmp::V4_MTU).saturating_sub(by);
            put(header, icmp::V4_MTU, mtu.to_be_bytes());
        }
        Family::V6 => {
            let mtu = be32(header, icmp::V6_MTU).saturating_sub(by.into());
            put(header, icmp::V6_MTU, mtu.to_be_bytes());
        }
    }
    let delta = Delta::default().sums(before, Sum::of_header(header));
    let checksum = delta.apply(word(header, icmp::CHECKSUM));
    put(header, icmp::CHECKSUM, checksum.to_ne_bytes());
    Ok(())
}

fn rewrite_quote(
    head: &mut [u8],
    family: Family,
    quoted: &Quoted,
    inner: &Translation,
) -> Result<(), DropReason> {
    let delta = Delta::default().addresses(
        Sum::of_addresses(family, &quoted.source, &quoted.destination),
        Sum::of_addresses(family, &inner.source, &inner.destination),
    );
    match family {
        Family::V4 => {
            let header: &mut [u8; ipv4::HEADER_LEN] = header_at_mut(head, quoted.l3)?;
            put(header, ipv4::SOURCE, unmapped(inner.source));
            put(header, ipv4::DESTINATION, unmapped(inner.destination));
            let checksum = delta.apply(word(header, ipv4::CHECKSUM));
            put(header, ipv4::CHECKSUM, checksum.to_ne_bytes());
        }
        Family::V6 => {
            let header: &mut [u8; ipv6::HEADER_LEN] = header_at_mut(head, quoted.l3)?;
            put(header, ipv6::SOURCE, inner.source);
            put(header, ipv6::DESTINATION, inner.destination);
        }
    }
    let delta = rewrite_ports::<{ ports::LEN }>(header_at_mut(head, quoted.l4)?, inner, delta);
    let at = quoted.l4 + checksum_offset(quoted.protocol);
    if quoted.protocol != Protocol::Sctp && at + 2 <= quoted.end {
        let field: &mut [u8; 2] = header_at_mut(head, at)?;
        *field = updated_transport_checksum(word(field, 0), quoted.protocol, delta).to_ne_bytes();
    }
    Ok(())
}
