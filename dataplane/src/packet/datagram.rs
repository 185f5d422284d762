//! A UDP datagram with bytes before its payload.

use vl3lb_common::{DropReason, Protocol};

use super::checksum::{Delta, Sum, transport_field};
use super::field::{be16, header_at, header_at_mut, put, udp, word};
use super::parse::{Parsed, Transport};
use super::payload::Payload;
use super::segment::write_lengths;
use crate::port::Frame;

/// Makes `frame` the datagram of a translated packet of any number of frames, with `front`, an even number of bytes, before
/// its payload. Headers are copied; lengths and checksums follow, and a checksum of 0 stays. O(payload).
///
/// # Errors
/// `MtuExceeded` if a frame does not hold it, `Internal` if `parsed` is no UDP packet, or not this one.
pub(crate) fn datagram_behind<F: Frame>(
    frame: &mut F,
    front: &[u8],
    packet: &[F],
    parsed: &Parsed,
) -> Result<(), DropReason> {
    let Transport::Udp { .. } = parsed.transport else {
        return Err(DropReason::Internal);
    };
    let (first, rest) = packet.split_first().ok_or(DropReason::Internal)?;
    let (headers, payload) = first
        .bytes()
        .split_at_checked(parsed.l4() + udp::HEADER_LEN)
        .ok_or(DropReason::Internal)?;
    let header: &[u8; udp::HEADER_LEN] = header_at(headers, parsed.l4())?;
    let before = be16(header, udp::LENGTH);
    let after = u16::try_from(usize::from(before) + front.len()).map_err(|_| DropReason::MtuExceeded)?;
    let total = parsed.l4() + usize::from(after);
    if total > frame.capacity() {
        return Err(DropReason::MtuExceeded);
    }
    frame.set_len(total);
    frame.set_continues(false);
    let bytes = frame.bytes_mut();
    let (front_of_frame, body) = bytes
        .split_at_mut_checked(headers.len())
        .ok_or(DropReason::Internal)?;
    front_of_frame.copy_from_slice(headers);
    Payload::behind(front, payload, rest).read(body)?;
    write_lengths(bytes, parsed, total - parsed.l3(), 0)?;
    let header: &mut [u8; udp::HEADER_LEN] = header_at_mut(bytes, parsed.l4())?;
    put(header, udp::LENGTH, after.to_be_bytes());
    let field = word(header, udp::CHECKSUM);
    if field != 0 {
        // The length is covered twice: in the header, and in the pseudo-header.
        let (before, after) = (before.to_be(), after.to_be());
        let delta = Delta::default()
            .word(before, after)
            .word(before, after)
            .word(0, Sum::of(front).folded());
        let field = transport_field(Protocol::Udp, delta.apply(field));
        put(header, udp::CHECKSUM, field.to_ne_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Framing, parse};
    use crate::port::packet_len;
    use crate::testing::builder::{Addresses, udp as datagram};
    use crate::testing::{frame, frames_of};

    const BOTH: [(&str, &str); 2] = [
        ("172.16.1.100:40000", "172.16.1.2:8081"),
        ("[2001:db8::64]:40000", "[2001:db8::2]:8081"),
    ];

    #[test]
    fn the_datagram_is_the_one_with_these_bytes() {
        for (from, to) in BOTH {
            for addresses in [Addresses::raw(from, to), Addresses::ethernet(from, to)] {
                for payload in [&b""[..], b"odd", b"even"] {
                    let framing = match addresses.macs {
                        Some(_) => Framing::Ethernet,
                        None => Framing::RawIp,
                    };
                    let mut before = datagram(addresses, payload);
                    let expected = datagram(addresses, &[&b"front!"[..], payload].concat());
                    for chunk in [usize::MAX, framing.header_len() + 48] {
                        let frames = frames_of(&before, chunk.min(before.len()));
                        let head = frames[0].bytes().to_vec();
                        let parsed = parse(&head, packet_len(&frames), framing).unwrap();
                        let mut made = frame(b"");
                        datagram_behind(&mut made, b"front!", &frames, &parsed).unwrap();
                        // The IPv4 identification stays.
                        assert_eq!(made.bytes(), expected, "{payload:?}");
                    }
                    if from.starts_with('1') {
                        // Without a checksum.
                        let at = framing.header_len() + 26;
                        before[at..at + 2].fill(0);
                        let frames = [frame(&before)];
                        let parsed = parse(&before, before.len(), framing).unwrap();
                        let mut made = frame(b"");
                        datagram_behind(&mut made, b"front!", &frames, &parsed).unwrap();
                        assert_eq!(made.bytes()[at..at + 2], [0, 0]);
                    }
                }
            }
        }
    }

    #[test]
    fn what_no_frame_holds_is_refused() {
        let packet = datagram(Addresses::raw(BOTH[0].0, BOTH[0].1), &[7; 3_800]);
        let frames = frames_of(&packet, 3_840);
        let parsed = parse(frames[0].bytes(), packet.len(), Framing::RawIp).unwrap();
        let mut made = frame(b"");
        assert_eq!(
            datagram_behind(&mut made, &[7; 28], &frames, &parsed),
            Err(DropReason::MtuExceeded)
        );
    }
}
