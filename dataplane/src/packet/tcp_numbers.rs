//! Changes of the numbers in a TCP header that was translated: sequence number, acknowledgment, window and SACK blocks.

use vl3lb_common::DropReason;

use super::checksum::{Delta, Sum};
use super::field::{be16, be32, header_at, header_at_mut, put, tcp, word};
use super::icmp::Quoted;
use super::parse::{Parsed, Transport};
use super::tcp_segment::NO_OPERATION;

const END_OF_OPTIONS: u8 = 0;
/// Kind of the option of RFC 2018.
const SACK: u8 = 5;
/// The flag URG: the urgent pointer means something.
const URG: u8 = 0x20;

/// What the receiver of a segment is to read in place of what its sender wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub acknowledgment: u32,
    /// As in the header, without its scale.
    pub window: u16,
}

/// The window field of a TCP packet, or of the first fragment of one.
///
/// # Errors
/// `Internal` if `parsed` is not of this packet.
pub(crate) fn tcp_window(head: &[u8], parsed: &Parsed) -> Result<u16, DropReason> {
    let header: &[u8; tcp::HEADER_LEN] = header_at(head, parsed.l4()).map_err(|_| DropReason::Internal)?;
    Ok(be16(header, tcp::WINDOW))
}

/// Sets the sequence number of a translated TCP packet, or of the first fragment of one. The checksum follows.
///
/// # Errors
/// `Internal` if `parsed` is not of this packet.
pub(crate) fn set_sequence(head: &mut [u8], parsed: &Parsed, sequence: u32) -> Result<(), DropReason> {
    change(head, parsed, |header, _| {
        put(header, tcp::SEQUENCE, sequence.to_be_bytes())
    })
}

/// Moves the end of urgent data by `bytes` that are put before it, if there are any. The checksum follows.
///
/// # Errors
/// `Internal` if `parsed` is not of this packet.
pub(crate) fn delay_urgent(head: &mut [u8], parsed: &Parsed, bytes: usize) -> Result<(), DropReason> {
    change(head, parsed, |header, _| {
        if header[tcp::FLAGS] & URG != 0 {
            let end = usize::from(be16(header, tcp::URGENT)) + bytes;
            let end = u16::try_from(end).unwrap_or(u16::MAX);
            put(header, tcp::URGENT, end.to_be_bytes());
        }
    })
}

/// Sets acknowledgment and window of a translated TCP packet, or of the first fragment of one, and each edge of its SACK
/// blocks to what `edge` makes of it. The checksum follows. O(options).
///
/// # Errors
/// `Internal` if `parsed` is not of this packet.
pub(crate) fn set_acknowledged(
    head: &mut [u8],
    parsed: &Parsed,
    to: Acknowledged,
    edge: impl Fn(u32) -> u32,
) -> Result<(), DropReason> {
    change(head, parsed, |header, options| {
        put(header, tcp::ACKNOWLEDGMENT, to.acknowledgment.to_be_bytes());
        put(header, tcp::WINDOW, to.window.to_be_bytes());
        let (edges, _) = sack(options).as_chunks_mut::<4>();
        for bytes in edges {
            *bytes = edge(u32::from_be_bytes(*bytes)).to_be_bytes();
        }
    })
}

/// Sets the sequence number of the TCP packet that an ICMP error quotes to what `number` makes of it. The checksums follow.
///
/// # Errors
/// `Internal` if `parsed` and `quoted` are not of this packet.
pub(crate) fn set_quoted_sequence(
    head: &mut [u8],
    parsed: &Parsed,
    quoted: &Quoted,
    number: impl Fn(u32) -> u32,
) -> Result<(), DropReason> {
    const LEN: usize = 8;
    let ports_and_sequence: &mut [u8; LEN] = header_at_mut(head, quoted.l4)?;
    let before = Sum::of(ports_and_sequence);
    let sequence = number(be32(ports_and_sequence, tcp::SEQUENCE));
    put(ports_and_sequence, tcp::SEQUENCE, sequence.to_be_bytes());
    let delta = Delta::default().sums(before, Sum::of(ports_and_sequence));
    let at = quoted.l4 + tcp::CHECKSUM;
    // The quote's own checksum makes up for the change, if it is quoted.
    let field = if at + 2 <= quoted.end {
        at
    } else {
        parsed.l4() + super::field::icmp::CHECKSUM
    };
    let field: &mut [u8; 2] = header_at_mut(head, field)?;
    *field = delta.apply(word(field, 0)).to_ne_bytes();
    Ok(())
}

/// Lets `edit` change the fixed header and the options of a TCP packet, and updates its checksum.
fn change(
    head: &mut [u8],
    parsed: &Parsed,
    edit: impl FnOnce(&mut [u8; tcp::HEADER_LEN], &mut [u8]),
) -> Result<(), DropReason> {
    let segment = head.get_mut(parsed.l4()..).ok_or(DropReason::Internal)?;
    let (header, rest) = segment
        .split_first_chunk_mut::<{ tcp::HEADER_LEN }>()
        .ok_or(DropReason::Internal)?;
    let options = match parsed.transport {
        Transport::Tcp { header_len, .. } => header_len,
        // A first fragment may end within its header.
        _ => usize::from(header[tcp::DATA_OFFSET] >> 4) * 4,
    };
    let options = options.saturating_sub(tcp::HEADER_LEN).min(rest.len());
    let options = &mut rest[..options];
    let before = Sum::of(header).plus(Sum::of(options));
    edit(header, options);
    let after = Sum::of(header).plus(Sum::of(options));
    let field = Delta::default()
        .sums(before, after)
        .apply(word(header, tcp::CHECKSUM));
    put(header, tcp::CHECKSUM, field.to_ne_bytes());
    Ok(())
}

/// The edges of the SACK blocks among `options`; empty if there are none, or they are broken.
fn sack(options: &mut [u8]) -> &mut [u8] {
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        match kind {
            END_OF_OPTIONS => break,
            NO_OPERATION => at += 1,
            _ => {
                let length = options.get(at + 1).copied().map_or(0, usize::from);
                let end = at + length;
                // A length below 2 would not lead on.
                if length < 2 || end > options.len() {
                    break;
                }
                if kind == SACK {
                    return &mut options[at + 2..end];
                }
                at = end;
            }
        }
    }
    &mut []
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Framing, parse, parse_quote};
    use crate::testing::builder::{Addresses, Tcp, TcpOptionElement, flags, icmp_error, tcp};
    use crate::testing::validate::assert_valid;
    use TcpOptionElement::{Noop, SelectiveAcknowledgement, Timestamp};

    const BOTH: [(&str, &str); 2] = [
        ("172.16.1.2:8081", "172.16.1.103:20000"),
        ("[2001:db8::2]:8081", "[2001:db8::67]:20000"),
    ];

    fn packet(addresses: (&str, &str), numbers: (u32, u32), options: &[TcpOptionElement]) -> Vec<u8> {
        let header = Tcp {
            flags: flags::ACK,
            sequence: numbers.0,
            acknowledgment: numbers.1,
            options,
        };
        tcp(Addresses::raw(addresses.0, addresses.1), &header, b"odd")
    }

    #[test]
    fn changed_numbers_make_the_packet_that_has_them() {
        let shift = |number: u32| number.wrapping_sub(28);
        for addresses in BOTH {
            for sack in [
                None,
                Some(SelectiveAcknowledgement((100, 200), [None; 3])),
                Some(SelectiveAcknowledgement((3, 90), [Some((200, 300)), None, None])),
            ] {
                let options = |edge: &dyn Fn(u32) -> u32| -> Vec<TcpOptionElement> {
                    let moved = |(from, to)| (edge(from), edge(to));
                    let sack = sack.clone().map(|sack| match sack {
                        SelectiveAcknowledgement(first, rest) => {
                            SelectiveAcknowledgement(moved(first), rest.map(|block| block.map(moved)))
                        }
                        other => other,
                    });
                    // At an odd place.
                    let first = if sack.is_some() {
                        vec![Noop]
                    } else {
                        vec![Timestamp(1, 2)]
                    };
                    first.into_iter().chain(sack).collect()
                };
                let mut changed = packet(addresses, (7, 50), &options(&|edge| edge));
                let parsed = parse(&changed, changed.len(), Framing::RawIp).unwrap();
                assert_eq!(tcp_window(&changed, &parsed), Ok(0xffff));
                let to = Acknowledged {
                    acknowledgment: 22,
                    window: 0xffff,
                };
                set_acknowledged(&mut changed, &parsed, to, shift).unwrap();
                set_sequence(&mut changed, &parsed, u32::MAX).unwrap();
                assert_eq!(changed, packet(addresses, (u32::MAX, 22), &options(&shift)));
                let to = Acknowledged { window: 5, ..to };
                set_acknowledged(&mut changed, &parsed, to, |edge| edge).unwrap();
                assert_eq!(tcp_window(&changed, &parsed), Ok(5));
                assert_valid(&changed, false);
            }
        }
    }

    #[test]
    fn broken_options_stay() {
        for addresses in BOTH {
            let mut broken = packet(addresses, (1, 2), &[Timestamp(1, 2)]);
            let parsed = parse(&broken, broken.len(), Framing::RawIp).unwrap();
            let options = parsed.l4() + tcp::HEADER_LEN;
            for (kind, length) in [(SACK, 0), (SACK, 1), (SACK, 255), (SACK, 2), (9, 11), (0, 9)] {
                (broken[options], broken[options + 1]) = (kind, length);
                let before = broken.clone();
                let to = Acknowledged {
                    acknowledgment: 2,
                    window: 0xffff,
                };
                set_acknowledged(&mut broken, &parsed, to, |_| 0xdead_beef).unwrap();
                assert_eq!(broken, before, "option {kind} of length {length}");
            }
        }
    }

    #[test]
    fn urgent_data_end_later_and_others_nowhere() {
        for addresses in BOTH {
            for (bits, expected) in [(flags::ACK, 9), (flags::ACK | flags::URG, 37)] {
                let header = Tcp {
                    flags: bits,
                    ..Tcp::default()
                };
                let mut urgent = tcp(Addresses::raw(addresses.0, addresses.1), &header, b"odd");
                let parsed = parse(&urgent, urgent.len(), Framing::RawIp).unwrap();
                change(&mut urgent, &parsed, |header, _| put(header, tcp::URGENT, [0, 9])).unwrap();
                delay_urgent(&mut urgent, &parsed, 28).unwrap();
                assert_eq!(urgent[parsed.l4() + tcp::URGENT + 1], expected);
                assert_valid(&urgent, false);
            }
        }
    }

    #[test]
    fn a_quoted_sequence_number_changes_with_its_checksums() {
        for (addresses, kind, code) in [(BOTH[0], 3, 4), (BOTH[1], 2, 0)] {
            let original = packet(addresses, (1_000, 2), &[]);
            let header = if addresses.0.starts_with('[') { 40 } else { 20 };
            // With its checksum, and with the eight bytes that RFC 792 asks for.
            for quote in [original.len(), header + 8] {
                let router = Addresses::raw(addresses.0, addresses.1).reversed();
                let error = |original: &[u8]| icmp_error(router, kind, code, 1_400, &original[..quote]);
                let mut changed = error(&original);
                let parsed = parse(&changed, changed.len(), Framing::RawIp).unwrap();
                let quoted = parse_quote(&changed, &parsed).unwrap();
                set_quoted_sequence(&mut changed, &parsed, &quoted, |number| number - 28).unwrap();
                assert_eq!(changed, error(&packet(addresses, (972, 2), &[])), "{quote} bytes");
            }
        }
    }
}
