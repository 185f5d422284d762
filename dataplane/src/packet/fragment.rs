//! Fragmentation of IPv4 packets (RFC 791 section 3.2, RFC 1812 section 4.2.2.7).

use vl3lb_common::DropReason;

use super::checksum::Sum;
use super::field::{be16, ethernet, header_at, header_at_mut, ipv4, put};
use super::parse::{Family, Parsed};
use super::payload::Payload;
use crate::port::{Frame, Port};

/// The flag of options that each fragment has (RFC 791 section 3.1).
const COPIED: u8 = 0x80;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;

/// Fragments an IPv4 packet of any number of frames into packets of at most `mtu` bytes of IP, one fresh frame each, and
/// appends them to `out` in order. Returns how many. A fragment becomes smaller ones. O(payload).
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
) -> Result<usize, DropReason> {
    let kept = out.len();
    match try_fragment(port, packet, parsed, mtu, out) {
        Ok(()) => Ok(out.len() - kept),
        Err(reason) => {
            for frame in out.drain(kept..) {
                port.release(frame);
            }
            Err(reason)
        }
    }
}

fn try_fragment<P: Port>(
    port: &mut P,
    packet: &[P::Frame],
    parsed: &Parsed,
    mtu: u16,
    out: &mut Vec<P::Frame>,
) -> Result<(), DropReason> {
    let (first, rest) = packet.split_first().ok_or(DropReason::Internal)?;
    let (headers, payload) = first
        .bytes()
        .split_at_checked(parsed.l4())
        .filter(|_| parsed.family == Family::V4)
        .ok_or(DropReason::Internal)?;
    let fields = be16(
        header_at::<{ ipv4::HEADER_LEN }>(headers, parsed.l3())?,
        ipv4::FLAGS_OFFSET,
    );
    let (offset, more) = (fields & ipv4::OFFSET_MASK, fields & ipv4::MORE_FRAGMENTS);
    let later = LaterHeaders::of(headers, parsed)?;
    let mut payload = Payload::new(payload, rest);
    let total = parsed.end() - parsed.l4();
    let mut done = 0;
    while done < total {
        let headers = if done == 0 { headers } else { later.bytes() };
        let mut frame = port.allocate().ok_or(DropReason::UmemExhausted)?;
        let longest = usize::from(mtu).min(frame.capacity().saturating_sub(parsed.l3()));
        let room = longest.saturating_sub(headers.len() - parsed.l3());
        let left = total - done;
        let length = if left <= room { left } else { room & !7 };
        let units = u16::try_from(done / 8).map_err(|_| DropReason::Internal);
        let flags = if length == left {
            more
        } else {
            ipv4::MORE_FRAGMENTS
        };
        let built = units.and_then(|units| {
            build(
                &mut frame,
                headers,
                &mut payload,
                length,
                parsed,
                (offset + units) | flags,
            )
        });
        out.push(frame);
        built?;
        done += length;
    }
    Ok(())
}

/// Makes `frame` the fragment with the next `length` bytes of `payload` and these flags and offset.
fn build<F: Frame>(
    frame: &mut F,
    headers: &[u8],
    payload: &mut Payload<'_, F>,
    length: usize,
    parsed: &Parsed,
    fields: u16,
) -> Result<(), DropReason> {
    let total = headers.len() + length;
    if frame.capacity() < total || length == 0 {
        return Err(DropReason::Internal);
    }
    frame.set_len(total);
    frame.set_continues(false);
    let (front, body) = frame
        .bytes_mut()
        .split_at_mut_checked(headers.len())
        .ok_or(DropReason::Internal)?;
    front.copy_from_slice(headers);
    payload.read(body)?;
    let ip = front.get_mut(parsed.l3()..).ok_or(DropReason::Internal)?;
    let ip_len = u16::try_from(total - parsed.l3()).map_err(|_| DropReason::Internal)?;
    let header: &mut [u8; ipv4::HEADER_LEN] = header_at_mut(ip, 0)?;
    put(header, ipv4::TOTAL_LENGTH, ip_len.to_be_bytes());
    put(header, ipv4::FLAGS_OFFSET, fields.to_be_bytes());
    put(header, ipv4::CHECKSUM, [0; 2]);
    let checksum = Sum::of(ip).checksum();
    let header: &mut [u8; ipv4::HEADER_LEN] = header_at_mut(ip, 0)?;
    put(header, ipv4::CHECKSUM, checksum);
    Ok(())
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
