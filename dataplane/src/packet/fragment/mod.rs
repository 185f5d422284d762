//! Fragmentation of IP packets into fresh frames: the division of their payload. Headers are those of each version of IP.

mod ipv4;
mod ipv6;

use vl3lb_common::DropReason;

use super::parse::Parsed;
use super::payload::Payload;
use crate::port::{Frame, Port};

pub(crate) use ipv4::fragment;
pub(crate) use ipv6::{fragment_v6, is_fragmentable_v6};

/// A fragment's place in the payload of the packet.
#[derive(Clone, Copy)]
struct Place {
    /// Bytes in front of it, a multiple of 8.
    offset: u16,
    length: usize,
    /// Whether none follows it.
    last: bool,
}

/// The headers of a packet's fragments, link layer included.
trait Headers {
    /// How long they are in the fragment that this many bytes of payload are in front of.
    fn len(&self, offset: usize) -> usize;

    /// Writes them to `front`, which is that long. Errors: `Internal` if they are not those of a packet.
    fn write(&self, front: &mut [u8], place: Place) -> Result<(), DropReason>;
}

/// Divides the payload of `packet`, which lies behind its headers of the network layer, into packets of at most `mtu`
/// bytes of IP, one fresh frame each, and appends them to `out` in order. O(payload).
///
/// All or nothing: on an error no frame is kept. Errors: `UmemExhausted`; `Internal` for anything that is not this packet
/// and for an `mtu` that holds no payload.
fn divide<P: Port>(
    port: &mut P,
    packet: &[P::Frame],
    parsed: &Parsed,
    mtu: u16,
    headers: &impl Headers,
    out: &mut Vec<P::Frame>,
) -> Result<(), DropReason> {
    let kept = out.len();
    let divided = try_divide(port, packet, parsed, mtu, headers, out);
    if divided.is_err() {
        out.drain(kept..).for_each(|frame| port.release(frame));
    }
    divided
}

fn try_divide<P: Port>(
    port: &mut P,
    packet: &[P::Frame],
    parsed: &Parsed,
    mtu: u16,
    headers: &impl Headers,
    out: &mut Vec<P::Frame>,
) -> Result<(), DropReason> {
    let (first, rest) = packet.split_first().ok_or(DropReason::Internal)?;
    let payload = first.bytes().get(parsed.l4()..).ok_or(DropReason::Internal)?;
    let mut payload = Payload::new(payload, rest);
    let total = parsed.end() - parsed.l4();
    let mut done = 0;
    while done < total {
        let mut frame = port.allocate().ok_or(DropReason::UmemExhausted)?;
        let longest = usize::from(mtu).min(frame.capacity().saturating_sub(parsed.l3()));
        let room = (parsed.l3() + longest).saturating_sub(headers.len(done));
        let left = total - done;
        let length = if left <= room { left } else { room & !7 };
        let place = u16::try_from(done).map(|offset| Place {
            offset,
            length,
            last: length == left,
        });
        let built = place
            .map_err(|_| DropReason::Internal)
            .and_then(|place| build(&mut frame, headers, &mut payload, place));
        out.push(frame);
        built?;
        done += length;
    }
    Ok(())
}

/// Makes `frame` the fragment of this place, with the next bytes of `payload`.
fn build<F: Frame>(
    frame: &mut F,
    headers: &impl Headers,
    payload: &mut Payload<'_, F>,
    place: Place,
) -> Result<(), DropReason> {
    let body_at = headers.len(usize::from(place.offset));
    let total = body_at + place.length;
    if frame.capacity() < total || place.length == 0 {
        return Err(DropReason::Internal);
    }
    frame.set_len(total);
    frame.set_continues(false);
    let (front, body) = frame
        .bytes_mut()
        .split_at_mut_checked(body_at)
        .ok_or(DropReason::Internal)?;
    payload.read(body)?;
    headers.write(front, place)
}
