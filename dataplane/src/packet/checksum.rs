//! The Internet checksum (RFC 1071): full sums, and incremental updates by RFC 1624.

use vl3lb_common::Protocol;

use super::field::ports;
use super::parse::Family;

/// A sum of 16-bit words in ones' complement, not yet folded. Adding up 64 KiB cannot overflow it.
///
/// The words are those in memory, read in the processor's own byte order: the sum in the other
/// order is the same with its bytes swapped (RFC 1071 section 2 (B)), so one swap at the end does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// The sum of `bytes`, an odd last byte padded with zero. O(length).
    #[inline]
    pub(super) fn of(bytes: &[u8]) -> Self {
        let (words, tail) = bytes.as_chunks::<4>();
        let sum: u64 = words
            .iter()
            .map(|word| u64::from(u32::from_ne_bytes(*word)))
            .sum();
        // 2^16 is 1 in ones' complement, so that 32-bit words may be added as they are.
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        Self(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// The sum of a header of `N` bytes, a multiple of 4.
    #[inline(always)]
    pub(super) fn of_header<const N: usize>(header: &[u8; N]) -> Self {
        const { assert!(N.is_multiple_of(4)) };
        // By two words at a time: word by word the compiler uses vector instructions, which have
        // more to do than they save.
        let (pairs, rest) = header.as_chunks::<8>();
        let mut sum = 0;
        for pair in pairs {
            let pair = u64::from_ne_bytes(*pair);
            sum += (pair & 0xffff_ffff) + (pair >> 32);
        }
        if let Some(word) = rest.first_chunk::<4>() {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        Self(sum)
    }

    /// The sum of two words as they are in memory.
    #[inline(always)]
    pub(super) const fn of_words(first: u16, second: u16) -> Self {
        Self(first as u64 + second as u64)
    }

    /// The sum of two addresses of `family`. Of an IPv4-mapped one the last word is enough: the
    /// rest is zero in ones' complement.
    #[inline(always)]
    pub(super) fn of_addresses(family: Family, source: &[u8; 16], destination: &[u8; 16]) -> Self {
        match family {
            Family::V4 => {
                let word = |[.., a, b, c, d]: [u8; 16]| u64::from(u32::from_ne_bytes([a, b, c, d]));
                Self(word(*source) + word(*destination))
            }
            Family::V6 => Self::of_header(source).plus(Self::of_header(destination)),
        }
    }

    /// Continues with the bytes at `offset` of the same data. After an odd number of bytes the two
    /// halves of each word change places (RFC 1071 section 2 (B)).
    pub(super) fn append(self, offset: usize, bytes: &[u8]) -> Self {
        let next = Self::of(bytes);
        if offset.is_multiple_of(2) {
            self.plus(next)
        } else {
            Self(self.0 + u64::from(next.folded().swap_bytes()))
        }
    }

    /// The pseudo-header of TCP, UDP and ICMPv6 (RFC 9293 section 3.1, RFC 8200 section 8.1).
    ///
    /// It has the same words in both families, but for the addresses, whose sum is given.
    #[inline(always)]
    pub(super) fn pseudo_header(addresses: Self, protocol: u8, length: usize) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "packets are far shorter")]
        let rest = u32::from(protocol) + length as u32;
        addresses.plus(Self(u64::from(rest.to_be())))
    }

    #[inline]
    pub(super) fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum as 16 bits that are in memory as they are in a packet. Not 0 unless all words are.
    ///
    /// A half added to the other by a rotation leaves the sum with its end-around carry in the upper
    /// half.
    #[inline(always)]
    pub(super) fn folded(self) -> u16 {
        let sum = (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32;
        (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
    }

    /// The value for the checksum field, that field summed as 0.
    #[inline]
    pub(super) fn checksum(self) -> [u8; 2] {
        (!self.folded()).to_ne_bytes()
    }

    /// Whether data that include their checksum are whole.
    #[inline]
    pub(super) fn verifies(self) -> bool {
        self.folded() == 0xffff
    }
}

/// A change of summed bytes: the sum of the new bytes and of the complements of the old ones
/// (RFC 1624 equation 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Delta(Sum);

impl Delta {
    #[inline(always)]
    pub(super) fn word(self, old: u16, new: u16) -> Self {
        let [old, new] = [!old, new].map(u64::from);
        Self(self.0.plus(Sum(old)).plus(Sum(new)))
    }

    /// Two addresses became two others; `old` is the sum of those that were.
    #[inline]
    pub(super) fn addresses(self, old: Sum, new: Sum) -> Self {
        // The complements of eight words are eight times all ones less the words: no fold needed.
        let complement = Sum(8 * u64::from(u32::MAX) - old.0);
        Self(self.0.plus(complement).plus(new))
    }

    #[inline]
    pub(super) fn sums(self, old: Sum, new: Sum) -> Self {
        self.word(old.folded(), new.folded())
    }

    #[inline]
    pub(super) fn ports(self, old: [u8; ports::LEN], new: [u8; ports::LEN]) -> Self {
        let [old, new] = [!u32::from_ne_bytes(old), u32::from_ne_bytes(new)].map(u64::from);
        Self(self.0.plus(Sum(old)).plus(Sum(new)))
    }

    /// The checksum field after the change, `field` being what it was. Both as they are in the
    /// packet, so that no bytes need to be swapped.
    #[inline(always)]
    pub(super) fn apply(self, field: u16) -> u16 {
        !self.0.plus(Sum(u64::from(!field))).folded()
    }
}

/// The checksum as it is written into the transport header: UDP spells a computed 0 as ffff, since
/// 0 means "no checksum" (RFC 768).
#[inline(always)]
pub(super) const fn transport_field(protocol: Protocol, checksum: u16) -> u16 {
    match (protocol, checksum) {
        (Protocol::Udp, 0) => 0xffff,
        _ => checksum,
    }
}
