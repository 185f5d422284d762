//! Segmentation of TCP super-packets (GSO): a packet of up to 64 KB, which a sender's kernel leaves to
//! its hardware, becomes the segments that the hardware would have made (TSO).

use vl3lb_common::{DropReason, Protocol};

use super::checksum::Sum;
use super::field::{be16, be32, header_at_mut, ipv4, ipv6, put, tcp};
use super::parse::{Family, Parsed, TcpFlags, Transport, ipv4_addresses, ipv6_addresses};
use super::payload::Payload;
use crate::port::{Frame, Port};

/// Segments a translated TCP packet of any number of frames into packets of one fresh frame each, with
/// at most `mss` bytes of payload, or what a frame holds if that is less (at an MTU of 9000), and
/// appends them to `out`. Returns how many. O(payload).
///
/// Headers are copied with their options, the Ethernet header too if there is one. Each segment
/// gets its lengths, sequence number, IPv4 identification and full checksums; FIN and PSH only the
/// last, CWR only the first (RFC 3168 section 6.1.2). The packet's own checksum is not read.
///
/// All or nothing: on an error no frame is kept. Errors: `UmemExhausted`; `MtuExceeded` for a SYN
/// or RST, whose payload cannot be segmented; `Internal` for anything that is not this packet, an `mss`
/// of 0 or headers that fill a frame.
pub(crate) fn segment<P: Port>(
    port: &mut P,
    packet: &[P::Frame],
    parsed: &Parsed,
    mss: u16,
    out: &mut Vec<P::Frame>,
) -> Result<usize, DropReason> {
    if let Transport::Tcp { flags, .. } = parsed.transport
        && (flags.syn() || flags.rst())
    {
        return Err(DropReason::MtuExceeded);
    }
    segment_behind(port, &[], packet, parsed, mss, out)
}

/// The same for a packet that gets `front` before its payload, of any length. A SYN gets nothing and loses its payload:
/// that would come before `front`, and its sender sends it again when it is not acknowledged (RFC 7413 section 4.2.1).
pub(crate) fn segment_behind<P: Port>(
    port: &mut P,
    front: &[u8],
    packet: &[P::Frame],
    parsed: &Parsed,
    mss: u16,
    out: &mut Vec<P::Frame>,
) -> Result<usize, DropReason> {
    let kept = out.len();
    match try_segment(port, front, packet, parsed, mss, out) {
        Ok(()) => Ok(out.len() - kept),
        Err(reason) => {
            for frame in out.drain(kept..) {
                port.release(frame);
            }
            Err(reason)
        }
    }
}

fn try_segment<P: Port>(
    port: &mut P,
    front: &[u8],
    packet: &[P::Frame],
    parsed: &Parsed,
    mss: u16,
    out: &mut Vec<P::Frame>,
) -> Result<(), DropReason> {
    let Transport::Tcp {
        flags, header_len, ..
    } = parsed.transport
    else {
        return Err(DropReason::Internal);
    };
    let (first, rest) = packet.split_first().ok_or(DropReason::Internal)?;
    let (headers, payload) = first
        .bytes()
        .split_at_checked(parsed.l4() + header_len)
        .ok_or(DropReason::Internal)?;
    let payload_len = parsed
        .end()
        .checked_sub(headers.len())
        .filter(|_| mss > 0)
        .ok_or(DropReason::Internal)?;
    let payload_len = if flags.syn() { 0 } else { front.len() + payload_len };
    let mut payload = Payload::behind(front, payload, rest);
    let mut offset = 0;
    for index in 0..=u16::MAX {
        let mut frame = port.allocate().ok_or(DropReason::UmemExhausted)?;
        let room = frame.capacity().saturating_sub(headers.len());
        let len = usize::from(mss).min(room).min(payload_len - offset);
        let last = offset + len == payload_len;
        let part = Part { index, offset, last };
        let built = build(&mut frame, headers, &mut payload, len, parsed, part);
        out.push(frame);
        built?;
        if last {
            break;
        }
        offset += len;
    }
    Ok(())
}

/// The part of a packet that becomes one segment.
#[derive(Clone, Copy)]
struct Part {
    index: u16,
    /// Of its payload.
    offset: usize,
    last: bool,
}

/// Makes `frame` the segment with the next `len` bytes of `payload`.
fn build<F: Frame>(
    frame: &mut F,
    headers: &[u8],
    payload: &mut Payload<'_, F>,
    len: usize,
    parsed: &Parsed,
    part: Part,
) -> Result<(), DropReason> {
    let total = headers.len() + len;
    if frame.capacity() < total || len == 0 && !part.last {
        return Err(DropReason::Internal);
    }
    frame.set_len(total);
    frame.set_continues(false);
    let bytes = frame.bytes_mut();
    let (front, body) = bytes
        .split_at_mut_checked(headers.len())
        .ok_or(DropReason::Internal)?;
    front.copy_from_slice(headers);
    payload.read(body)?;

    write_lengths(bytes, parsed, total - parsed.l3(), part.index)?;
    write_tcp(bytes, parsed, part)
}

/// Writes the lengths of a packet, and counts its IPv4 identification up by `index`; the header's checksum follows.
pub(super) fn write_lengths(
    bytes: &mut [u8],
    parsed: &Parsed,
    ip_len: usize,
    index: u16,
) -> Result<(), DropReason> {
    let word = |length: usize| u16::try_from(length).map_err(|_| DropReason::Internal);
    match parsed.family {
        Family::V4 => {
            let header: &mut [u8; ipv4::HEADER_LEN] = header_at_mut(bytes, parsed.l3())?;
            put(header, ipv4::TOTAL_LENGTH, word(ip_len)?.to_be_bytes());
            let id = be16(header, ipv4::IDENTIFICATION).wrapping_add(index);
            put(header, ipv4::IDENTIFICATION, id.to_be_bytes());
            put(header, ipv4::CHECKSUM, [0; 2]);
            let options = bytes
                .get_mut(parsed.l3()..parsed.l4())
                .ok_or(DropReason::Internal)?;
            let checksum = Sum::of(options).checksum();
            let header: &mut [u8; ipv4::HEADER_LEN] = header_at_mut(options, 0)?;
            put(header, ipv4::CHECKSUM, checksum);
        }
        Family::V6 => {
            let header: &mut [u8; ipv6::HEADER_LEN] = header_at_mut(bytes, parsed.l3())?;
            let payload_length = word(ip_len - ipv6::HEADER_LEN)?;
            put(header, ipv6::PAYLOAD_LENGTH, payload_length.to_be_bytes());
        }
    }
    Ok(())
}

fn write_tcp(bytes: &mut [u8], parsed: &Parsed, part: Part) -> Result<(), DropReason> {
    let addresses = addresses(bytes, parsed)?;
    let segment = bytes.get_mut(parsed.l4()..).ok_or(DropReason::Internal)?;
    let header: &mut [u8; tcp::HEADER_LEN] = header_at_mut(segment, 0)?;
    let offset = u32::try_from(part.offset).map_err(|_| DropReason::Internal)?;
    let sequence = be32(header, tcp::SEQUENCE).wrapping_add(offset);
    put(header, tcp::SEQUENCE, sequence.to_be_bytes());
    if !part.last {
        header[tcp::FLAGS] &= !(TcpFlags::FIN | TcpFlags::PSH);
    }
    if part.index > 0 {
        header[tcp::FLAGS] &= !TcpFlags::CWR;
    }
    put(header, tcp::CHECKSUM, [0; 2]);
    let checksum = Sum::pseudo_header(addresses, Protocol::Tcp.number(), segment.len())
        .plus(Sum::of(segment))
        .checksum();
    let header: &mut [u8; tcp::HEADER_LEN] = header_at_mut(segment, 0)?;
    put(header, tcp::CHECKSUM, checksum);
    Ok(())
}

/// The sum of the addresses in the packet now; those in `parsed` are from before the translation.
fn addresses(bytes: &mut [u8], parsed: &Parsed) -> Result<Sum, DropReason> {
    let (source, destination) = match parsed.family {
        Family::V4 => ipv4_addresses(header_at_mut(bytes, parsed.l3())?),
        Family::V6 => ipv6_addresses(header_at_mut(bytes, parsed.l3())?),
    };
    Ok(Sum::of_addresses(parsed.family, &source, &destination))
}
