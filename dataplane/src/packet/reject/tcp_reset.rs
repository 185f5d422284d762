//! TCP resets that the balancer itself sends.

use vl3lb_common::{DropReason, Protocol};

use super::header::{
    RejectHeader, check_one_receiver, family_of, ip_header_len, swap_macs, write_ethertype, write_ip_header,
};
use crate::packet::checksum::Sum;
use crate::packet::field::{be32, header_at, header_at_mut, ports, put, tcp};
use crate::packet::parse::{Family, Framing, Parsed, TcpFlags, Transport};
use crate::port::Frame;

/// Turns the first frame of `packet` into the reset that its receiver would send for a closed port
/// (RFC 9293 section 3.10.7.1). Further frames are not part of the reset.
///
/// Errors: `NotSyn` for a reset, to which none is sent; `Martian` for a packet not sent to one
/// receiver; `Internal` if it is not a TCP segment or the frame is too small. The packet is
/// unchanged then.
pub(crate) fn reject_with_tcp_reset<F: Frame>(packet: &mut [F], parsed: &Parsed) -> Result<(), DropReason> {
    let Transport::Tcp {
        source_port,
        destination_port,
        flags,
        header_len,
    } = parsed.transport
    else {
        return Err(DropReason::Internal);
    };
    if flags.rst() {
        return Err(DropReason::NotSyn);
    }
    let first = packet.first_mut().ok_or(DropReason::Internal)?;
    check_one_receiver(first.bytes(), parsed)?;

    let segment: &[u8; tcp::HEADER_LEN] = header_at(first.bytes(), parsed.l4())?;
    let payload_len = parsed.end() - parsed.l4() - header_len;
    let mut reset = [0; tcp::HEADER_LEN];
    put(&mut reset, ports::SOURCE, destination_port.to_be_bytes());
    put(&mut reset, ports::DESTINATION, source_port.to_be_bytes());
    reset[tcp::DATA_OFFSET] = 0x50;
    if flags.ack() {
        let sequence = be32(segment, tcp::ACKNOWLEDGMENT);
        put(&mut reset, tcp::SEQUENCE, sequence.to_be_bytes());
        reset[tcp::FLAGS] = TcpFlags::RST;
    } else {
        let length = payload_len + usize::from(flags.syn()) + usize::from(flags.fin());
        let length = u32::try_from(length).map_err(|_| DropReason::Internal)?;
        let acknowledgment = be32(segment, tcp::SEQUENCE).wrapping_add(length);
        put(&mut reset, tcp::ACKNOWLEDGMENT, acknowledgment.to_be_bytes());
        reset[tcp::FLAGS] = TcpFlags::RST | TcpFlags::ACK;
    }
    let (source, destination) = (parsed.destination, parsed.source);
    write(first, parsed.l3(), parsed.family, (source, destination), reset)?;
    swap_macs(first.bytes_mut(), parsed);
    Ok(())
}

/// A reset in the name of the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpReset {
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub source_port: u16,
    pub destination_port: u16,
    pub sequence: u32,
    pub acknowledgment: u32,
}

/// Makes a reset of an empty frame. The MAC addresses are the caller's to write.
///
/// Errors: `Internal` if the frame is too small.
pub(crate) fn write_tcp_reset<F: Frame>(
    frame: &mut F,
    framing: Framing,
    fields: &TcpReset,
) -> Result<(), DropReason> {
    let mut reset = [0; tcp::HEADER_LEN];
    put(&mut reset, ports::SOURCE, fields.source_port.to_be_bytes());
    put(
        &mut reset,
        ports::DESTINATION,
        fields.destination_port.to_be_bytes(),
    );
    put(&mut reset, tcp::SEQUENCE, fields.sequence.to_be_bytes());
    put(
        &mut reset,
        tcp::ACKNOWLEDGMENT,
        fields.acknowledgment.to_be_bytes(),
    );
    reset[tcp::DATA_OFFSET] = 0x50;
    reset[tcp::FLAGS] = TcpFlags::RST | TcpFlags::ACK;
    let family = family_of(&fields.destination);
    let addresses = (fields.source, fields.destination);
    write(frame, framing.header_len(), family, addresses, reset)?;
    write_ethertype(frame.bytes_mut(), framing, family)
}

/// Writes a reset, which gets its checksum, with an IP header at `l3`.
fn write<F: Frame>(
    frame: &mut F,
    l3: usize,
    family: Family,
    (source, destination): ([u8; 16], [u8; 16]),
    mut reset: [u8; tcp::HEADER_LEN],
) -> Result<(), DropReason> {
    let header = RejectHeader {
        protocol: Protocol::Tcp.number(),
        traffic_class: 0,
        source,
        destination,
        payload_len: reset.len(),
    };
    let addresses = Sum::of_addresses(family, &header.source, &header.destination);
    let checksum = Sum::pseudo_header(addresses, header.protocol, reset.len())
        .plus(Sum::of(&reset))
        .checksum();
    put(&mut reset, tcp::CHECKSUM, checksum);
    let l4 = l3 + ip_header_len(family);
    let end = l4 + tcp::HEADER_LEN;
    if frame.capacity() < end {
        return Err(DropReason::Internal);
    }
    frame.set_len(end);
    frame.set_continues(false);
    let head = frame.bytes_mut();
    *header_at_mut(head, l4)? = reset;
    let packet = head.get_mut(l3..).ok_or(DropReason::Internal)?;
    write_ip_header(packet, family, &header)
}
