//! The maximum segment size that a TCP SYN announces.

use super::field::tcp;
use super::parse::{Parsed, Transport};

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// The MSS option of a SYN or SYN-ACK (RFC 9293 section 3.7.1), if the segment is one and has the
/// option. O(options), at most 40 bytes.
pub fn tcp_mss_option(head: &[u8], parsed: &Parsed) -> Option<u16> {
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
            [MAXIMUM_SEGMENT_SIZE, 4, high, low, ..] => return Some(u16::from_be_bytes([high, low])),
            // A length below 2 would not lead on.
            [_, length, ..] if length >= 2 => options.get(usize::from(length)..)?,
            _ => return None,
        };
    }
}
