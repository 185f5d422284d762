//! Fragmentation of IPv6 packets by their sender (RFC 8200 section 4.5).

use vl3lb_common::DropReason;

use super::super::extension::{FRAGMENT, FRAGMENT_LEN};
use super::super::field::{header_at_mut, ipv6, put};
use super::super::parse::{Family, Parsed};
use super::{Headers, Place, divide};
use crate::port::{Frame, Port};

/// In the offset field of a fragment header: another fragment follows.
const MORE: u16 = 1;

/// Fragments an IPv6 packet without extension headers, of any number of frames, into packets of at most `mtu` bytes of
/// IP, one fresh frame each, and appends them to `out` in order. O(payload).
///
/// All or nothing: on an error no frame is kept. Errors: `UmemExhausted`; `Internal` for anything that is not this packet,
/// for extension headers, and for an `mtu` that holds no payload.
pub(crate) fn fragment_v6<P: Port>(
    port: &mut P,
    packet: &[P::Frame],
    parsed: &Parsed,
    (mtu, identification): (u16, u32),
    out: &mut Vec<P::Frame>,
) -> Result<(), DropReason> {
    let first = packet.first().ok_or(DropReason::Internal)?;
    let headers = first
        .bytes()
        .get(..parsed.l4())
        .filter(|_| is_fragmentable_v6(parsed))
        .ok_or(DropReason::Internal)?;
    let headers = FragmentHeaders {
        packet: headers,
        l3: parsed.l3(),
        protocol: parsed.protocol(),
        identification,
    };
    divide(port, packet, parsed, mtu, &headers, out)
}

/// Whether [`fragment_v6`] takes a packet.
pub(crate) const fn is_fragmentable_v6(parsed: &Parsed) -> bool {
    matches!(parsed.family, Family::V6) && parsed.l4() == parsed.l3() + ipv6::HEADER_LEN
}

/// The headers of the fragments of a packet without any.
struct FragmentHeaders<'a> {
    packet: &'a [u8],
    /// Where the IPv6 header is.
    l3: usize,
    protocol: u8,
    identification: u32,
}

impl Headers for FragmentHeaders<'_> {
    fn len(&self, _offset: usize) -> usize {
        self.packet.len() + FRAGMENT_LEN
    }

    fn write(&self, front: &mut [u8], place: Place) -> Result<(), DropReason> {
        let (copied, _) = front
            .split_at_mut_checked(self.packet.len())
            .ok_or(DropReason::Internal)?;
        copied.copy_from_slice(self.packet);
        let offset = place.offset | if place.last { 0 } else { MORE };
        let header: &mut [u8; FRAGMENT_LEN] = header_at_mut(front, self.packet.len())?;
        *header = [0; FRAGMENT_LEN];
        put(header, 0, [self.protocol]);
        put(header, 2, offset.to_be_bytes());
        put(header, 4, self.identification.to_be_bytes());
        let length = u16::try_from(FRAGMENT_LEN + place.length).map_err(|_| DropReason::Internal)?;
        let header: &mut [u8; ipv6::HEADER_LEN] = header_at_mut(front, self.l3)?;
        put(header, ipv6::PAYLOAD_LENGTH, length.to_be_bytes());
        put(header, ipv6::NEXT_HEADER, [FRAGMENT]);
        Ok(())
    }
}
