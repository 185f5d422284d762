//! Where the header fields are, counted from the start of their header, and the access to them.
//!
//! A header is first taken out of the packet as an array ([`header_at`], one bounds check); its
//! fields are then at constant offsets, which need none.

use vl3lb_common::{DropReason, Protocol};

/// Ethernet II, IEEE 802.3 section 3.
pub(super) mod ethernet {
    pub(crate) const DESTINATION: usize = 0;
    pub(crate) const SOURCE: usize = 6;
    pub(crate) const ETHERTYPE: usize = 12;
    pub(crate) const HEADER_LEN: usize = 14;
    pub(crate) const MAC_LEN: usize = 6;

    pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
    pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
    /// The bit of a MAC address' first byte that marks multicast and broadcast.
    pub(crate) const GROUP_BIT: u8 = 1;
}

/// RFC 791 section 3.1.
pub(super) mod ipv4 {
    pub(crate) const VERSION_IHL: usize = 0;
    pub(crate) const TOS: usize = 1;
    pub(crate) const TOTAL_LENGTH: usize = 2;
    pub(crate) const IDENTIFICATION: usize = 4;
    pub(crate) const FLAGS_OFFSET: usize = 6;
    /// TTL and protocol, one word of the checksum.
    pub(crate) const TTL: usize = 8;
    pub(crate) const PROTOCOL: usize = 9;
    pub(crate) const CHECKSUM: usize = 10;
    pub(crate) const SOURCE: usize = 12;
    pub(crate) const DESTINATION: usize = 16;
    /// Without options.
    pub(crate) const HEADER_LEN: usize = 20;

    pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
    pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
    /// In units of 8 bytes.
    pub(crate) const OFFSET_MASK: u16 = 0x1fff;
}

/// RFC 8200 section 3.
pub(super) mod ipv6 {
    pub(crate) const VERSION_CLASS: usize = 0;
    pub(crate) const PAYLOAD_LENGTH: usize = 4;
    pub(crate) const NEXT_HEADER: usize = 6;
    pub(crate) const HOP_LIMIT: usize = 7;
    pub(crate) const SOURCE: usize = 8;
    pub(crate) const DESTINATION: usize = 24;
    pub(crate) const HEADER_LEN: usize = 40;
}

/// RFC 9293 section 3.1.
pub(super) mod tcp {
    pub(crate) const SEQUENCE: usize = 4;
    pub(crate) const ACKNOWLEDGMENT: usize = 8;
    pub(crate) const DATA_OFFSET: usize = 12;
    pub(crate) const FLAGS: usize = 13;
    pub(crate) const WINDOW: usize = 14;
    pub(crate) const CHECKSUM: usize = 16;
    pub(crate) const URGENT: usize = 18;
    /// Without options.
    pub(crate) const HEADER_LEN: usize = 20;
}

/// RFC 768.
pub(super) mod udp {
    pub(crate) const LENGTH: usize = 4;
    pub(crate) const CHECKSUM: usize = 6;
    pub(crate) const HEADER_LEN: usize = 8;
}

/// RFC 9260 section 3.1: the common header.
pub(super) mod sctp {
    pub(crate) const TAG: usize = 4;
    /// Of four bytes, the lowest one first.
    pub(crate) const CHECKSUM: usize = 8;
    pub(crate) const HEADER_LEN: usize = 12;
}

/// The ports, at the same place in TCP, UDP and SCTP.
pub(super) mod ports {
    pub(crate) const SOURCE: usize = 0;
    pub(crate) const DESTINATION: usize = 2;
    pub(crate) const LEN: usize = 4;
}

/// RFC 792 and RFC 4443 section 2.1: the part that all messages share.
pub(super) mod icmp {
    pub(crate) const TYPE: usize = 0;
    pub(crate) const CODE: usize = 1;
    pub(crate) const CHECKSUM: usize = 2;
    /// RFC 4884 section 4.1: length of the quote in 4-byte words, 0 if not stated.
    pub(crate) const V4_QUOTE_WORDS: usize = 5;
    /// RFC 4884 section 4.4: length of the quote in 8-byte words, 0 if not stated.
    pub(crate) const V6_QUOTE_WORDS: usize = 4;
    /// RFC 1191 section 4.
    pub(crate) const V4_MTU: usize = 6;
    /// RFC 4443 section 3.2.
    pub(crate) const V6_MTU: usize = 4;
    pub(crate) const HEADER_LEN: usize = 8;

    pub(crate) const PROTOCOL_V4: u8 = 1;
    pub(crate) const PROTOCOL_V6: u8 = 58;
}

/// The header of `N` bytes at `at`; a packet that ends before it is malformed.
#[inline]
pub(super) fn header_at<const N: usize>(bytes: &[u8], at: usize) -> Result<&[u8; N], DropReason> {
    // One comparison where `at` is known to be small; wraps to a range that is never there.
    bytes
        .get(at..at.wrapping_add(N))
        .and_then(<[u8]>::first_chunk)
        .ok_or(DropReason::Malformed)
}

/// The header of `N` bytes at `at`, mutable. It was there when the packet was parsed; if it is not, the
/// caller has a defect.
#[inline]
pub(super) fn header_at_mut<const N: usize>(bytes: &mut [u8], at: usize) -> Result<&mut [u8; N], DropReason> {
    bytes
        .get_mut(at..at.wrapping_add(N))
        .and_then(<[u8]>::first_chunk_mut)
        .ok_or(DropReason::Internal)
}

/// The 16-bit field at the constant offset `at`.
#[inline]
pub(super) fn be16<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// The 16-bit field at the constant offset `at` as a word of the Internet checksum: in the order that
/// it has in memory.
#[inline(always)]
pub(super) fn word<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_ne_bytes([header[at], header[at + 1]])
}

/// The 32-bit field at the constant offset `at`.
#[inline]
pub(super) fn be32<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// Writes a field at the constant offset `at`.
#[inline]
pub(super) fn put<const N: usize, const M: usize>(header: &mut [u8; N], at: usize, value: [u8; M]) {
    header[at..at + M].copy_from_slice(&value);
}

/// Where the checksum is in the transport header; that of SCTP is of another kind.
#[inline]
pub(super) const fn checksum_offset(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => tcp::CHECKSUM,
        Protocol::Udp => udp::CHECKSUM,
        Protocol::Sctp => sctp::CHECKSUM,
    }
}

/// An IPv4 address as IPv4-mapped, the way `common::addr::to_octets` spells it.
#[inline]
pub(super) const fn mapped(address: [u8; 4]) -> [u8; 16] {
    // As one number in registers: bytes written to memory one after the other cannot be read back as a
    // whole until they have left the store buffer.
    (0xffff << 32 | u32::from_be_bytes(address) as u128).to_be_bytes()
}

/// The inverse of [`mapped`].
#[inline]
pub(super) const fn unmapped(octets: [u8; 16]) -> [u8; 4] {
    [octets[12], octets[13], octets[14], octets[15]]
}

/// Whether the octets are an IPv4-mapped address.
#[inline]
pub(super) fn is_mapped(octets: &[u8; 16]) -> bool {
    octets[..12] == mapped([0; 4])[..12]
}
