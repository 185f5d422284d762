//! The Internet checksum (RFC 1071): full sums, and incremental updates by RFC 1624.

use vl3lb_common::Protocol;

use super::field::ports;

/// A sum of 16-bit words in ones' complement, not yet folded. Adding up 64 KiB cannot overflow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// The sum of `bytes`, an odd last byte padded with zero. O(length).
    #[inline]
    pub(super) fn of(bytes: &[u8]) -> Self {
        let (words, tail) = bytes.as_chunks::<4>();
        let sum: u64 = words
            .iter()
            .map(|word| u64::from(u32::from_be_bytes(*word)))
            .sum();
        // 2^16 is 1 in ones' complement, so that 32-bit words may be added as they are.
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        Self(sum + u64::from(u32::from_be_bytes(last)))
    }

    /// Goes on with the bytes at `offset` of the same data. Behind an odd number of bytes the two
    /// halves of each word change places (RFC 1071 section 2 (B)).
    pub(super) fn append(self, offset: usize, bytes: &[u8]) -> Self {
        let next = Self::of(bytes);
        if offset.is_multiple_of(2) {
            self.plus(next)
        } else {
            Self(self.0 + u64::from(next.fold().swap_bytes()))
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
        Self::of(source)
            .plus(Self::of(destination))
            .plus(Self(u64::from(protocol) + length as u64))
    }

    #[inline]
    pub(super) fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum as 16 bits. Not 0 unless all words are.
    #[inline]
    pub(super) fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (sum & 0xffff) as u16
    }

    /// The value for the checksum field, that field summed as 0.
    #[inline]
    pub(super) fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Whether data that include their checksum are whole.
    #[inline]
    pub(super) fn verifies(self) -> bool {
        self.fold() == 0xffff
    }
}

/// A change of summed bytes: the sum of what is there now and of the complements of what was
/// (RFC 1624 equation 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Delta(u64);

impl Delta {
    #[inline]
    pub(super) fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + u64::from(!old) + u64::from(new))
    }

    #[inline]
    pub(super) fn address(self, old: &[u8; 16], new: &[u8; 16]) -> Self {
        // The complements of four words are four times all ones less the words: no fold needed.
        let complement = 4 * u64::from(u32::MAX) - Sum::of(old).0;
        Self(self.0 + complement + Sum::of(new).0)
    }

    #[inline]
    pub(super) fn sums(self, old: Sum, new: Sum) -> Self {
        self.word(old.fold(), new.fold())
    }

    #[inline]
    pub(super) fn ports(self, old: &[u8; ports::LEN], new: &[u8; ports::LEN]) -> Self {
        Self(self.0 + u64::from(!u32::from_be_bytes(*old)) + u64::from(u32::from_be_bytes(*new)))
    }

    /// The checksum after the change.
    #[inline]
    pub(super) fn apply(self, checksum: u16) -> u16 {
        !Sum(self.0 + u64::from(!checksum)).fold()
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
