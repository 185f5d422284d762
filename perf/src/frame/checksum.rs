//! The Internet checksum of TCP and UDP packets (RFC 1071).

use std::ops::Range;

use super::{Layout, TCP, be16, put};

/// The state of a transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checksum {
    Right,
    /// UDP over IPv4 without one (RFC 768).
    None,
    /// The sum of the pseudo-header only: the sender's kernel leaves the rest to its hardware.
    Partial,
    Wrong,
}

/// Checks the transport checksum. O(length).
#[inline]
pub(crate) fn look(frame: &[u8], layout: &Layout) -> Checksum {
    let field = be16(frame, layout.checksum());
    if field == 0 && layout.protocol != TCP && layout.address_len == 4 {
        return Checksum::None;
    }
    let pseudo_header = pseudo_header(frame, layout);
    if fold(pseudo_header + sum(&frame[layout.transport..layout.end])) == 0xffff {
        Checksum::Right
    } else if field == fold(pseudo_header) {
        Checksum::Partial
    } else {
        Checksum::Wrong
    }
}

/// Whether the sender's kernel left only the pseudo-header's sum. Does not read the payload.
#[inline]
pub(crate) fn is_partial(frame: &[u8], layout: &Layout) -> bool {
    be16(frame, layout.checksum()) == fold(pseudo_header(frame, layout))
}

/// Writes the transport checksum. O(length).
#[inline]
pub(crate) fn write(frame: &mut [u8], layout: &Layout) {
    put(frame, layout.checksum(), [0; 2]);
    let sum = fold(pseudo_header(frame, layout) + sum(&frame[layout.transport..layout.end]));
    // UDP spells a computed 0 as ffff; for TCP both are the same in ones' complement.
    let value = match !sum {
        0 => 0xffff,
        value => value,
    };
    put(frame, layout.checksum(), value.to_be_bytes());
}

/// Writes the checksum of the IPv4 header at `header`.
#[inline]
pub(crate) fn write_ipv4_header(frame: &mut [u8], header: Range<usize>) {
    let field = header.start + 10;
    put(frame, field, [0; 2]);
    let sum = !fold(sum(&frame[header]));
    put(frame, field, sum.to_be_bytes());
}

/// The sum of addresses, protocol and length, not folded.
#[inline]
fn pseudo_header(frame: &[u8], layout: &Layout) -> u64 {
    let addresses = &frame[layout.addresses..][..2 * layout.address_len];
    let length = (layout.end - layout.transport) as u64;
    sum(addresses) + u64::from(layout.protocol) + length
}

/// The sum of 16-bit words, an odd last byte padded with 0, not folded.
#[inline]
fn sum(bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<4>();
    // 2^16 is 1 in ones' complement, so that 32-bit words may be added as they are.
    let whole: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_be_bytes(*word)))
        .sum();
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    whole + u64::from(u32::from_be_bytes(last))
}

#[inline]
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "not above ffff")]
    let folded = sum as u16;
    folded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vl3lb_dataplane::Framing;
    use vl3lb_dataplane::testing::builder::{Addresses, Tcp, flags, make_checksum_partial, tcp, udp};
    use vl3lb_dataplane::testing::validate::assert_valid;

    use super::*;

    fn packets(payload: &[u8]) -> Vec<(Vec<u8>, Framing)> {
        let ethernet = Addresses::ethernet("172.16.1.1:1", "172.16.1.2:2");
        let raw = Addresses::raw("[2001:db8::1]:1", "[2001:db8::2]:2");
        [(ethernet, Framing::Ethernet), (raw, Framing::RawIp)]
            .into_iter()
            .flat_map(|(addresses, framing)| {
                let segment = tcp(addresses, &Tcp::flags(flags::ACK), payload);
                [(udp(addresses, payload), framing), (segment, framing)]
            })
            .collect()
    }

    proptest! {
        #[test]
        fn another_implementation_agrees(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (packet, framing) in packets(&payload) {
                let layout = Layout::of(&packet, framing).unwrap();
                prop_assert_eq!(look(&packet, &layout), Checksum::Right);
                let mut rewritten = packet.clone();
                put(&mut rewritten, layout.checksum(), [0xab, 0xcd]);
                write(&mut rewritten, &layout);
                assert_valid(&rewritten, framing == Framing::Ethernet);
            }
        }
    }

    #[test]
    fn partial_missing_and_wrong_checksums_are_distinguished() {
        for (packet, framing) in packets(b"some payload") {
            let layout = Layout::of(&packet, framing).unwrap();
            let mut partial = packet.clone();
            make_checksum_partial(&mut partial, framing == Framing::Ethernet);
            assert_eq!(look(&partial, &layout), Checksum::Partial);
            assert!(is_partial(&partial, &layout) && !is_partial(&packet, &layout));
            let mut wrong = packet.clone();
            *wrong.last_mut().unwrap() ^= 1;
            assert_eq!(look(&wrong, &layout), Checksum::Wrong);
            let mut none = packet.clone();
            put(&mut none, layout.checksum(), [0; 2]);
            let may_be_missing = layout.protocol == super::super::UDP && layout.address_len == 4;
            assert_eq!(
                look(&none, &layout),
                if may_be_missing {
                    Checksum::None
                } else {
                    Checksum::Wrong
                }
            );
        }
    }
}
