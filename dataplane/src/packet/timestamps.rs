//! Removes the timestamps option of a SYN: then its connection has none (RFC 7323 section 3.2).

use vl3lb_common::DropReason;

use super::checksum::{Delta, Sum};
use super::field::{header_at_mut, put, tcp, word};
use super::parse::{Parsed, Transport};
use super::tcp_segment::{NO_OPERATION, TIMESTAMPS};

/// Bytes of the option: kind, length, and two timestamps.
const LENGTH: usize = 10;

/// Overwrites the timestamps option of a TCP packet with complete checksum by no-operation options. Nothing happens to a
/// packet without it. O(options).
///
/// # Errors
/// `Internal` if `parsed` is not of this packet.
pub(crate) fn remove_timestamps(head: &mut [u8], parsed: &Parsed) -> Result<(), DropReason> {
    let Transport::Tcp { header_len, .. } = parsed.transport else {
        return Ok(());
    };
    let options = head
        .get_mut(parsed.l4() + tcp::HEADER_LEN..parsed.l4() + header_len)
        .ok_or(DropReason::Internal)?;
    let Some(at) = position(options) else {
        return Ok(());
    };
    let before = Sum::of(options);
    options[at..at + LENGTH].fill(NO_OPERATION);
    let delta = Delta::default().sums(before, Sum::of(options));
    let header: &mut [u8; tcp::HEADER_LEN] = header_at_mut(head, parsed.l4())?;
    let checksum = delta.apply(word(header, tcp::CHECKSUM));
    put(header, tcp::CHECKSUM, checksum.to_ne_bytes());
    Ok(())
}

/// Where the option is, if it is whole.
fn position(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += match *options.get(at..)? {
            [NO_OPERATION, ..] => 1,
            [TIMESTAMPS, length, ..] if usize::from(length) == LENGTH => {
                return (at + LENGTH <= options.len()).then_some(at);
            }
            [_, length, ..] if length >= 2 => usize::from(length),
            _ => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Framing, parse};
    use crate::testing::builder::{Addresses, Tcp, TcpOptionElement, flags, tcp};
    use TcpOptionElement::{
        MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
    };

    fn without(packet: &[u8]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        let parsed = parse(&packet, packet.len(), Framing::RawIp).unwrap();
        remove_timestamps(&mut packet, &parsed).unwrap();
        packet
    }

    fn syn(addresses: (&str, &str), options: &[TcpOptionElement], payload: &[u8]) -> Vec<u8> {
        let segment = Tcp {
            flags: flags::SYN,
            sequence: 7,
            acknowledgment: 0,
            options,
        };
        tcp(Addresses::raw(addresses.0, addresses.1), &segment, payload)
    }

    #[test]
    fn only_timestamps_leave_a_syn_and_its_checksum_stays_right() {
        let v4 = ("172.16.1.100:40000", "172.16.1.103:8080");
        let v6 = ("[2001:db8::64]:40000", "[2001:db8::67]:8080");
        for addresses in [v4, v6] {
            for payload in [&b""[..], b"fast", b"odd"] {
                // As Linux sends them, and at an odd place.
                for (before, behind) in [
                    (
                        vec![MaximumSegmentSize(1460), SelectiveAcknowledgementPermitted],
                        vec![Noop, WindowScale(7)],
                    ),
                    (vec![WindowScale(7)], vec![MaximumSegmentSize(1460)]),
                    (vec![], vec![]),
                ] {
                    let with = |middle: &[TcpOptionElement]| {
                        syn(addresses, &[&before[..], middle, &behind[..]].concat(), payload)
                    };
                    let timed = with(&[Timestamp(0x1234_5678, 0x9abc_def0)]);
                    let untimed = with(&vec![Noop; LENGTH]);
                    assert_eq!(without(&timed), untimed, "{before:?}");
                    assert_eq!(without(&untimed), untimed);
                }
            }
        }
    }

    #[test]
    fn broken_options_stay() {
        let mut packet = syn(("10.0.0.1:1", "10.0.0.2:2"), &[Timestamp(1, 2)], b"");
        for length in [0, 1, 2, 9, 11, 255] {
            packet[41] = length;
            assert_eq!(without(&packet), packet, "length {length}");
        }
    }
}
