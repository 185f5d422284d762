//! A shorter way through [`parse`](super::parse()) for the packets that nearly all are: IPv4 without options, no
//! fragment, with a TCP or UDP header. Its headers are at constant offsets and are read with one bounds check.
//!
//! Whatever is not plain, or defective, is left to the long way, which names the defect.

use vl3lb_common::Protocol;

use super::checksum::Sum;
use super::field::{be16, ethernet, ipv4, mapped, ports, tcp, udp};
use super::parse::{Family, Framing, Parsed, TcpFlags, Transport, is_ipv4_martian};

/// IP header and ports, with the UDP header or the part of the TCP header that is as long.
const LEN: usize = ipv4::HEADER_LEN + udp::HEADER_LEN;
const ETHERNET_LEN: usize = ethernet::HEADER_LEN + LEN;
/// Version 4, and a header of five words.
const VERSION_IHL: u8 = 0x45;

/// Parses a plain packet as [`parse_into`](super::parse_into) does. `None` for all others.
#[inline(always)]
pub(super) fn parse(parsed: &mut Parsed, head: &[u8], packet_len: usize, framing: Framing) -> Option<()> {
    match framing {
        Framing::Ethernet => {
            let frame: &[u8; ETHERNET_LEN] = head.first_chunk()?;
            if be16(frame, ethernet::ETHERTYPE) != ethernet::ETHERTYPE_IPV4 {
                return None;
            }
            let headers = frame.last_chunk()?;
            parse_at::<{ ethernet::HEADER_LEN }>(parsed, head, headers, packet_len)
        }
        Framing::RawIp => parse_at::<0>(parsed, head, head.first_chunk()?, packet_len),
    }
}

/// `headers` are the bytes of `head` from `L3` on.
#[inline(always)]
fn parse_at<const L3: usize>(
    parsed: &mut Parsed,
    head: &[u8],
    headers: &[u8; LEN],
    packet_len: usize,
) -> Option<()> {
    let l4 = L3 + ipv4::HEADER_LEN;
    let end = L3 + usize::from(be16(headers, ipv4::TOTAL_LENGTH));
    let fragmenting = be16(headers, ipv4::FLAGS_OFFSET);
    if headers[ipv4::VERSION_IHL] != VERSION_IHL
        || fragmenting & (ipv4::OFFSET_MASK | ipv4::MORE_FRAGMENTS) != 0
        || end > packet_len
        || is_ipv4_martian(headers[ipv4::SOURCE])
        || !Sum::of_header::<{ ipv4::HEADER_LEN }>(headers.first_chunk()?).verifies()
    {
        return None;
    }
    let source_port = be16(headers, ipv4::HEADER_LEN + ports::SOURCE);
    let destination_port = be16(headers, ipv4::HEADER_LEN + ports::DESTINATION);
    if headers[ipv4::PROTOCOL] == Protocol::Udp.number() {
        let length = usize::from(be16(headers, ipv4::HEADER_LEN + udp::LENGTH));
        if length < udp::HEADER_LEN || l4 + length > end {
            return None;
        }
        parsed.transport = Transport::Udp {
            source_port,
            destination_port,
        };
    } else if headers[ipv4::PROTOCOL] == Protocol::Tcp.number() {
        let header: &[u8; tcp::HEADER_LEN] = head.get(l4..l4 + tcp::HEADER_LEN)?.first_chunk()?;
        let header_len = usize::from(header[tcp::DATA_OFFSET] >> 4) * 4;
        let payload = l4 + header_len;
        if header_len < tcp::HEADER_LEN || payload > end || payload > head.len() {
            return None;
        }
        parsed.transport = Transport::Tcp {
            source_port,
            destination_port,
            flags: TcpFlags(header[tcp::FLAGS]),
            header_len,
        };
    } else {
        return None;
    }
    parsed.set_offsets(L3, l4, end).ok()?;
    parsed.family = Family::V4;
    parsed.hop_limit = headers[ipv4::TTL];
    parsed.dont_fragment = fragmenting & ipv4::DONT_FRAGMENT != 0;
    parsed.plain = parsed.dont_fragment && headers[ipv4::TTL] > 1;
    let address = |at: usize| mapped([headers[at], headers[at + 1], headers[at + 2], headers[at + 3]]);
    parsed.source = address(ipv4::SOURCE);
    parsed.destination = address(ipv4::DESTINATION);
    Some(())
}
