//! The Internet checksum (RFC 1071): full sums, and incremental updates by RFC 1624.

use vl3lb_common::Protocol;

use super::field::ports;

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

    /// The sum of two addresses.
    #[inline]
    pub(super) fn of_addresses(source: &[u8; 16], destination: &[u8; 16]) -> Self {
        // By two words at a time: as bytes they make the compiler use slower vector instructions.
        let sum = |address: &[u8; 16]| {
            let (pairs, _) = address.as_chunks::<8>();
            let pairs = pairs.iter().map(|pair| u64::from_ne_bytes(*pair));
            pairs.map(|pair| (pair & 0xffff_ffff) + (pair >> 32)).sum::<u64>()
        };
        Self(sum(source) + sum(destination))
    }

    /// A number of the packet's header as it is written there.
    #[inline]
    fn of_word(word: u16) -> Self {
        Self(u64::from(word.to_be()))
    }

    /// Goes on with the bytes at `offset` of the same data. Behind an odd number of bytes the two
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
    /// It serves both families: the ffff in front of an IPv4-mapped address is zero in ones'
    /// complement, and the IPv4 pseudo-header has the same words otherwise.
    #[inline]
    pub(super) fn pseudo_header(
        source: &[u8; 16],
        destination: &[u8; 16],
        protocol: u8,
        length: usize,
    ) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "packets are far shorter")]
        let rest = u32::from(protocol) + length as u32;
        Self::of_addresses(source, destination).plus(Self(u64::from(rest.to_be())))
    }

    #[inline]
    pub(super) fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum as 16 bits, as it is in a packet. Not 0 unless all words are.
    #[inline]
    pub(super) fn fold(self) -> u16 {
        u16::from_be(self.folded())
    }

    /// The same in the processor's byte order. A half added to the other by a rotation leaves
    /// the sum with its end-around carry in the upper half.
    #[inline]
    fn folded(self) -> u16 {
        let sum = (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32;
        (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
    }

    /// The value for the checksum field, that field summed as 0.
    #[inline]
    pub(super) fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Whether data that include their checksum are whole.
    #[inline]
    pub(super) fn verifies(self) -> bool {
        self.folded() == 0xffff
    }
}

/// A change of summed bytes: the sum of what is there now and of the complements of what was
/// (RFC 1624 equation 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Delta(Sum);

impl Delta {
    #[inline]
    pub(super) fn word(self, old: u16, new: u16) -> Self {
        Self(self.0.plus(Sum::of_word(!old)).plus(Sum::of_word(new)))
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
        self.word(old.fold(), new.fold())
    }

    #[inline]
    pub(super) fn ports(self, old: [u8; ports::LEN], new: [u8; ports::LEN]) -> Self {
        let [old, new] = [!u32::from_ne_bytes(old), u32::from_ne_bytes(new)].map(u64::from);
        Self(self.0.plus(Sum(old)).plus(Sum(new)))
    }

    /// The checksum after the change.
    #[inline]
    pub(super) fn apply(self, checksum: u16) -> u16 {
        !self.0.plus(Sum::of_word(!checksum)).fold()
    }
}

/// The checksum as it is written into the transport header: UDP spells a computed 0 as ffff, since
/// 0 says that there is none (RFC 768).
#[inline]
pub(super) const fn transport_field(protocol: Protocol, checksum: u16) -> u16 {
    match (protocol, checksum) {
        (Protocol::Udp, 0) => 0xffff,
        _ => checksum,
    }
}
