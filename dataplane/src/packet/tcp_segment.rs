//! The fields of a TCP segment that a connection's state depends on.

use vl3lb_common::Protocol;

use super::field::{be32, header_at, tcp};
use super::parse::{Parsed, TcpFlags, Transport};

/// The options that sequence numbers are judged with (RFC 7323 sections 2.2 and 3.2).
const END_OF_OPTIONS: u8 = 0;
pub(super) const NO_OPERATION: u8 = 1;
const WINDOW_SCALE: u8 = 3;
pub(super) const TIMESTAMPS: u8 = 8;

/// What a TCP segment does to its connection. Sequence numbers are modulo 2^32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpSegment {
    pub flags: TcpFlags,
    /// SEG.SEQ of RFC 9293.
    pub sequence: u32,
    /// SEG.ACK; means nothing without the flag ACK.
    pub acknowledgment: u32,
    /// Bytes of data. SYN and FIN are not counted.
    pub payload: u32,
}

impl TcpSegment {
    /// The sequence number behind the segment: SYN and FIN take one each (RFC 9293 section 3.4).
    #[inline(always)]
    pub(crate) const fn end(&self) -> u32 {
        let flags = self.flags.syn() as u32 + self.flags.fin() as u32;
        self.sequence.wrapping_add(self.payload).wrapping_add(flags)
    }
}

/// The segment in a parsed packet that starts with `head`; `None` if it is no TCP segment, or a fragment other than the
/// first one. A first fragment shows its own bytes only.
#[inline(always)]
pub(crate) fn tcp_segment(head: &[u8], parsed: &Parsed) -> Option<TcpSegment> {
    match parsed.transport {
        Transport::Tcp {
            flags, header_len, ..
        } => {
            let header = header_at(head, parsed.l4()).ok()?;
            // Parsing has checked that the header ends within the packet.
            Some(segment(header, flags, payload_len(parsed) - header_len))
        }
        Transport::Udp { .. } | Transport::Sctp { .. } | Transport::Icmp => None,
        Transport::Fragment { protocol, ports, .. } => {
            ports.filter(|_| protocol == Protocol::Tcp.number())?;
            first_fragment(head, parsed)
        }
    }
}

#[cold]
fn first_fragment(head: &[u8], parsed: &Parsed) -> Option<TcpSegment> {
    let header: &[u8; tcp::HEADER_LEN] = header_at(head, parsed.l4()).ok()?;
    let header_len = usize::from(header[tcp::DATA_OFFSET] >> 4) * 4;
    let payload = payload_len(parsed).saturating_sub(header_len);
    Some(segment(header, TcpFlags(header[tcp::FLAGS]), payload))
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the length of one packet")]
fn segment(header: &[u8; tcp::HEADER_LEN], flags: TcpFlags, payload: usize) -> TcpSegment {
    TcpSegment {
        flags,
        sequence: be32(header, tcp::SEQUENCE),
        acknowledgment: be32(header, tcp::ACKNOWLEDGMENT),
        payload: payload as u32,
    }
}

/// Bytes behind the IP header.
#[inline(always)]
const fn payload_len(parsed: &Parsed) -> usize {
    parsed.end() - parsed.l4()
}

/// The shift of the window scale option of a SYN (RFC 7323 section 2.2), at most 14. O(options).
pub(crate) fn tcp_window_scale(head: &[u8], parsed: &Parsed) -> Option<u8> {
    match option(head, parsed, WINDOW_SCALE)? {
        &[shift] => Some(shift.min(14)),
        _ => None,
    }
}

/// TSval and TSecr of the timestamps option (RFC 7323 section 3.2). O(options).
pub(crate) fn tcp_timestamps(head: &[u8], parsed: &Parsed) -> Option<(u32, u32)> {
    let value = option(head, parsed, TIMESTAMPS)?;
    let (value, echo) = (value.get(..4)?, value.get(4..8)?);
    let number = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
    Some((number(value)?, number(echo)?))
}

/// The value of the first option of this kind, behind kind and length.
fn option<'a>(head: &'a [u8], parsed: &Parsed, kind: u8) -> Option<&'a [u8]> {
    let Transport::Tcp { header_len, .. } = parsed.transport else {
        return None;
    };
    let mut options = head.get(parsed.l4() + tcp::HEADER_LEN..parsed.l4() + header_len)?;
    loop {
        options = match *options {
            [] | [END_OF_OPTIONS, ..] => return None,
            [NO_OPERATION, ref rest @ ..] => rest,
            // A length below 2 would not lead on.
            [found, length, ref rest @ ..] if length >= 2 => {
                let (value, rest) = rest.split_at_checked(usize::from(length) - 2)?;
                if found == kind {
                    return Some(value);
                }
                rest
            }
            _ => return None,
        };
    }
}
