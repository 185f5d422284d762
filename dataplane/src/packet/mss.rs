//! The maximum segment size that a TCP SYN announces.

use super::field::tcp;
use super::parse::{Family, Parsed, Transport};

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// The shortest path MTU that is believed: 1,280 bytes over IPv6 (RFC 8200 section 5), 552 over IPv4 (the least that Linux
/// takes from a router; RFC 791 would allow 68). Smaller sizes would make thousands of packets of each super-packet.
pub(crate) const fn least_path_mtu(family: Family) -> u16 {
    match family {
        Family::V4 => 552,
        Family::V6 => 1280,
    }
}

/// The MSS option of a SYN or SYN-ACK (RFC 9293 section 3.7.1), if the segment is one and has the
/// option; at least what [`least_path_mtu`] leaves. O(options), at most 40 bytes.
pub(crate) fn tcp_mss_option(head: &[u8], parsed: &Parsed) -> Option<u16> {
    let Transport::Tcp {
        flags, header_len, ..
    } = parsed.transport
    else {
        return None;
    };
    if !flags.syn() {
        return None;
    }
    let mut options = head.get(parsed.l4() + tcp::HEADER_LEN..parsed.l4() + header_len)?;
    loop {
        options = match *options {
            [] | [END_OF_OPTIONS, ..] => return None,
            [NO_OPERATION, ref rest @ ..] => rest,
            [MAXIMUM_SEGMENT_SIZE, 4, high, low, ..] => {
                let headers = match parsed.family {
                    Family::V4 => 40,
                    Family::V6 => 60,
                };
                let least = least_path_mtu(parsed.family) - headers;
                return Some(u16::from_be_bytes([high, low]).max(least));
            }
            // A length below 2 would not lead on.
            [_, length, ..] if length >= 2 => options.get(usize::from(length)..)?,
            _ => return None,
        };
    }
}
