//! SCTP packets that the balancer itself sends: ABORT, and the answers of a host that knows no association.

use vl3lb_common::{DropReason, Protocol};

use super::header::{
    RejectHeader, check_one_receiver, family_of, ip_header_len, swap_macs, write_ethertype, write_ip_header,
};
use crate::packet::field::header_at_mut;
use crate::packet::parse::{Family, Framing, Parsed};
use crate::packet::sctp::{LAST_LEN, LastChunk, ports_of, sctp_packet};
use crate::port::Frame;

/// Turns the first frame of `packet` into the answer of a host that knows no association (RFC 9260 section 8.4): ABORT, or
/// SHUTDOWN COMPLETE to a SHUTDOWN ACK. Its tag is the packet's own, so that only the end that has sent it minds. Further
/// frames are not part of the answer.
///
/// Errors: `NotInit` for a packet that gets no answer; `Martian` for one not sent to one receiver; `Malformed` for one that is
/// no SCTP packet; `Internal` if the frame is too small. The packet is unchanged then.
pub(crate) fn reject_with_sctp_abort<F: Frame>(packet: &mut [F], parsed: &Parsed) -> Result<(), DropReason> {
    let (source_port, destination_port) = ports_of(parsed).ok_or(DropReason::Internal)?;
    let read = sctp_packet(packet, parsed)?;
    let answer = LastChunk::answer(&read).ok_or(DropReason::NotInit)?;
    let first = packet.first_mut().ok_or(DropReason::Internal)?;
    check_one_receiver(first.bytes(), parsed)?;
    let bytes = answer.packet(destination_port, source_port);
    let addresses = (parsed.destination, parsed.source);
    write(first, parsed.l3(), parsed.family, addresses, bytes)?;
    swap_macs(first.bytes_mut(), parsed);
    Ok(())
}

/// An ABORT in the name of the other end of an association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SctpAbort {
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub source_port: u16,
    pub destination_port: u16,
    /// The verification tag that the receiver has chosen.
    pub tag: u32,
}

/// Makes an ABORT of an empty frame. The MAC addresses are the caller's to write.
///
/// Errors: `Internal` if the frame is too small.
pub(crate) fn write_sctp_abort<F: Frame>(
    frame: &mut F,
    framing: Framing,
    fields: &SctpAbort,
) -> Result<(), DropReason> {
    let family = family_of(&fields.destination);
    let bytes = LastChunk::abort(fields.tag).packet(fields.source_port, fields.destination_port);
    let addresses = (fields.source, fields.destination);
    write(frame, framing.header_len(), family, addresses, bytes)?;
    write_ethertype(frame.bytes_mut(), framing, family)
}

/// Writes an SCTP packet behind an IP header at `l3`.
fn write<F: Frame>(
    frame: &mut F,
    l3: usize,
    family: Family,
    (source, destination): ([u8; 16], [u8; 16]),
    bytes: [u8; LAST_LEN],
) -> Result<(), DropReason> {
    let l4 = l3 + ip_header_len(family);
    let end = l4 + LAST_LEN;
    if frame.capacity() < end {
        return Err(DropReason::Internal);
    }
    frame.set_len(end);
    frame.set_continues(false);
    let head = frame.bytes_mut();
    *header_at_mut(head, l4)? = bytes;
    let header = RejectHeader {
        protocol: Protocol::Sctp.number(),
        traffic_class: 0,
        source,
        destination,
        payload_len: LAST_LEN,
    };
    write_ip_header(head.get_mut(l3..).ok_or(DropReason::Internal)?, family, &header)
}
