//! Fragmentation of IPv4 packets (RFC 791 section 3.2, RFC 1812 section 4.2.2.7).

use vl3lb_common::DropReason;

use super::super::checksum::Sum;
use super::super::field::{be16, ethernet, header_at, header_at_mut, ipv4, put};
use super::super::parse::{Family, Parsed};
use super::{Headers, Place, divide};
use crate::port::{Frame, Port};

/// The flag of options that each fragment has (RFC 791 section 3.1).
const COPIED: u8 = 0x80;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;

/// Fragments an IPv4 packet of any number of frames into packets of at most `mtu` bytes of IP, one fresh frame each, and
/// appends them to `out` in order. A fragment becomes smaller ones. O(payload).
///
/// The packet may be fragmented, its checksums are complete and its identification is its own.
///
/// All or nothing: on an error no frame is kept. Errors: `UmemExhausted`; `Internal` for anything that is not this packet,
/// for IPv6, and for an `mtu` that holds no payload.
pub(crate) fn fragment<P: Port>(
    port: &mut P,
    packet: &[P::Frame],
    parsed: &Parsed,
    mtu: u16,
    out: &mut Vec<P::Frame>,
) -> Result<(), DropReason> {
    let first = packet.first().ok_or(DropReason::Internal)?;
    let headers = first
        .bytes()
        .get(..parsed.l4())
        .filter(|_| parsed.family == Family::V4)
        .ok_or(DropReason::Internal)?;
    let headers = FragmentHeaders::of(headers, parsed)?;
    divide(port, packet, parsed, mtu, &headers, out)
}

/// The headers of the fragments of a packet, which may be a fragment itself.
struct FragmentHeaders<'a> {
    first: &'a [u8],
    later: LaterHeaders,
    /// Where the IPv4 header is.
    l3: usize,
    /// The packet's own offset, in units of 8 bytes.
    offset: u16,
    /// What the last fragment has for [`ipv4::MORE_FRAGMENTS`].
    more: u16,
}

impl<'a> FragmentHeaders<'a> {
    fn of(first: &'a [u8], parsed: &Parsed) -> Result<Self, DropReason> {
        let fields = be16(
            header_at::<{ ipv4::HEADER_LEN }>(first, parsed.l3())?,
            ipv4::FLAGS_OFFSET,
        );
        Ok(Self {
            first,
            later: LaterHeaders::of(first, parsed)?,
            l3: parsed.l3(),
            offset: fields & ipv4::OFFSET_MASK,
            more: fields & ipv4::MORE_FRAGMENTS,
        })
    }

    fn bytes(&self, offset: usize) -> &[u8] {
        if offset == 0 {
            self.first
        } else {
            self.later.bytes()
        }
    }
}

impl Headers for FragmentHeaders<'_> {
    fn len(&self, offset: usize) -> usize {
        self.bytes(offset).len()
    }

    fn write(&self, front: &mut [u8], place: Place) -> Result<(), DropReason> {
        front.copy_from_slice(self.bytes(usize::from(place.offset)));
        let ip = front.get_mut(self.l3..).ok_or(DropReason::Internal)?;
        let length = u16::try_from(ip.len() + place.length).map_err(|_| DropReason::Internal)?;
        let flags = if place.last {
            self.more
        } else {
            ipv4::MORE_FRAGMENTS
        };
        let fields = (self.offset + place.offset / 8) | flags;
        let header: &mut [u8; ipv4::HEADER_LEN] = header_at_mut(ip, 0)?;
        put(header, ipv4::TOTAL_LENGTH, length.to_be_bytes());
        put(header, ipv4::FLAGS_OFFSET, fields.to_be_bytes());
        put(header, ipv4::CHECKSUM, [0; 2]);
        let checksum = Sum::of(ip).checksum();
        let header: &mut [u8; ipv4::HEADER_LEN] = header_at_mut(ip, 0)?;
        put(header, ipv4::CHECKSUM, checksum);
        Ok(())
    }
}

/// The headers of all fragments but the first one: without the options that only that has.
struct LaterHeaders {
    /// An Ethernet header and the longest IPv4 header.
    bytes: [u8; ethernet::HEADER_LEN + 60],
    len: usize,
}

impl LaterHeaders {
    fn of(headers: &[u8], parsed: &Parsed) -> Result<Self, DropReason> {
        let options_at = parsed.l3() + ipv4::HEADER_LEN;
        let (front, mut options) = headers.split_at_checked(options_at).ok_or(DropReason::Internal)?;
        let mut later = Self {
            bytes: [0; ethernet::HEADER_LEN + 60],
            len: options_at,
        };
        later
            .bytes
            .get_mut(..options_at)
            .ok_or(DropReason::Internal)?
            .copy_from_slice(front);
        while let [kind, rest @ ..] = options {
            let length = match (*kind, rest) {
                (END_OF_OPTIONS, _) => break,
                (NO_OPERATION, _) => 1,
                // A length below 2 would not lead on.
                (_, [length, ..]) if *length >= 2 => usize::from(*length),
                _ => break,
            };
            let Some((option, behind)) = options.split_at_checked(length) else {
                break;
            };
            if kind & COPIED != 0 {
                let place = later.bytes.get_mut(later.len..later.len + length);
                place.ok_or(DropReason::Internal)?.copy_from_slice(option);
                later.len += length;
            }
            options = behind;
        }
        // The rest of the last word is zero: end of options.
        let ip_len = (later.len - parsed.l3()).next_multiple_of(4);
        later.len = parsed.l3() + ip_len;
        let words = u8::try_from(ip_len / 4).map_err(|_| DropReason::Internal)?;
        *later.bytes.get_mut(parsed.l3()).ok_or(DropReason::Internal)? = 0x40 | words;
        Ok(later)
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
