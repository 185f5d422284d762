//! IPv6 extension headers (RFC 8200 section 4), as far as a NAT must see through them.

use vl3lb_common::DropReason;

use super::field::{be16, be32, header_at};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Extension headers that are walked before the packet is refused. Real ones have one or two.
const LIMIT: usize = 8;

const NEXT_HEADER: usize = 0;
const LENGTH: usize = 1;
const SEGMENTS_LEFT: usize = 3;
const FRAGMENT_OFFSET: usize = 2;
pub(super) const FRAGMENT_ID: usize = 4;
/// Their lengths are multiples of 8 bytes; the parser needs the first 8 bytes.
const UNIT: usize = 8;
/// Length of the header of a fragment.
pub(super) const FRAGMENT_LEN: usize = UNIT;

/// The content after the extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    /// The first header that is not an extension header.
    pub(super) protocol: u8,
    /// Its offset; at most the `end` that was given.
    pub(super) at: usize,
    /// If the packet is a fragment. An atomic fragment (RFC 6946) is not one.
    pub(super) fragment: Option<FragmentHeader>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FragmentHeader {
    pub(super) id: u32,
    /// In bytes.
    pub(super) offset: u16,
    pub(super) more: bool,
}

/// Walks the headers from `at`, whose kind is `protocol`, to the transport header, or up to and
/// including the header of a fragment.
///
/// Malformed: a header behind `end` or outside of `head`, one out of place, or too many.
/// Unsupported: whatever a NAT cannot see through (encryption, authentication) or that makes the
/// address in the IPv6 header not the final one (a routing header with segments left).
#[inline]
pub(super) fn walk(head: &[u8], at: usize, end: usize, protocol: u8) -> Result<Chain, DropReason> {
    if is_extension(protocol) {
        return walk_extensions(head, at, end, protocol);
    }
    Ok(Chain {
        protocol,
        at,
        fragment: None,
    })
}

#[cold]
fn walk_extensions(head: &[u8], start: usize, end: usize, first: u8) -> Result<Chain, DropReason> {
    let (mut at, mut protocol) = (start, first);
    // Once more than the limit, for what comes behind the last one.
    for _ in 0..=LIMIT {
        if !is_extension(protocol) {
            return Ok(Chain {
                protocol,
                at,
                fragment: None,
            });
        }
        let header: &[u8; UNIT] = header_at(head, at)?;
        let fragment = match protocol {
            // Only directly behind the IPv6 header (RFC 8200 section 4.1).
            HOP_BY_HOP if at != start => return Err(DropReason::Malformed),
            ROUTING if header[SEGMENTS_LEFT] != 0 => return Err(DropReason::UnsupportedProtocol),
            FRAGMENT => FragmentHeader::of_fragment(header),
            _ => None,
        };
        at += match protocol {
            FRAGMENT => UNIT,
            _ => (usize::from(header[LENGTH]) + 1) * UNIT,
        };
        protocol = header[NEXT_HEADER];
        if at > end {
            return Err(DropReason::Malformed);
        }
        if fragment.is_some() {
            return Ok(Chain {
                protocol,
                at,
                fragment,
            });
        }
    }
    Err(DropReason::Malformed)
}

const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

impl FragmentHeader {
    /// Reads the header, unless it is that of an atomic fragment.
    fn of_fragment(header: &[u8; UNIT]) -> Option<Self> {
        let field = be16(header, FRAGMENT_OFFSET);
        // The offset in units of 8 bytes is above three flag bits.
        let (offset, more) = (field & 0xfff8, field & 1 == 1);
        (offset != 0 || more).then(|| Self {
            id: be32(header, FRAGMENT_ID),
            offset,
            more,
        })
    }
}
