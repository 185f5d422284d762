//! Checks of whole packets with etherparse, which the packet path itself does not use.

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    Ethernet2Header, Icmpv4Type, Icmpv6Type, IpNumber, Ipv6Header, NetSlice, SlicedPacket, TransportSlice,
    UdpHeader, err,
};
use thiserror::Error;

use super::sctp::crc32c;

/// The first fault of a packet.
#[derive(Debug, Error, PartialEq)]
pub enum PacketFault {
    #[error("the headers cannot be parsed")]
    Headers(#[from] err::packet::SliceError),
    #[error("the packet is not IP")]
    NotIp,
    #[error("the transport protocol is none that the balancer handles")]
    Transport,
    #[error("the {header} length is {found} in the header and {actual} in the packet")]
    Length {
        header: &'static str,
        found: usize,
        actual: usize,
    },
    #[error("the {header} checksum is {found:#06x} instead of {expected:#06x}")]
    Checksum {
        header: &'static str,
        found: u16,
        expected: u16,
    },
    #[error("the SCTP checksum is {found:#010x} instead of {expected:#010x}")]
    Crc { found: u32, expected: u32 },
    #[error("the payload is too long for a checksum")]
    TooLong(#[from] err::ValueTooBigError<usize>),
}

/// Panics with the reason unless [`validate`] accepts the packet.
pub fn assert_valid(packet: &[u8], ethernet: bool) {
    if let Err(fault) = validate(packet, ethernet) {
        panic!("{fault:?}: {packet:02x?}");
    }
}

/// Checks all lengths and checksums. A UDP checksum of 0 over IPv4 is correct (RFC 768).
pub fn validate(packet: &[u8], ethernet: bool) -> Result<(), PacketFault> {
    let sliced = if ethernet {
        SlicedPacket::from_ethernet(packet)
    } else {
        SlicedPacket::from_ip(packet)
    }?;
    let link = if ethernet { Ethernet2Header::LEN } else { 0 };
    let (pair, length) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            checksum("IPv4", header.header_checksum(), ipv4_checksum(header.slice()))?;
            (
                IpPair::V4(header.source(), header.destination()),
                usize::from(header.total_len()),
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (
                IpPair::V6(header.source(), header.destination()),
                Ipv6Header::LEN + usize::from(header.payload_length()),
            )
        }
        _ => return Err(PacketFault::NotIp),
    };
    same_length("IP", length, packet.len() - link)?;
    if let Some(payload) = sliced.ip_payload()
        && payload.ip_number == IpNumber::SCTP
        && !payload.fragmented
    {
        return check_sctp(payload.payload);
    }
    sliced
        .transport
        .map_or(Ok(()), |transport| check_transport(&transport, pair))
}

/// Over the header's bytes: etherparse's own does not see the reserved bit beside DF.
fn ipv4_checksum(header: &[u8]) -> u16 {
    let sum = Sum16BitWords::new()
        .add_slice(&header[..10])
        .add_slice(&header[12..]);
    u16::from_be(sum.ones_complement())
}

/// Source and destination of one family.
#[derive(Clone, Copy)]
enum IpPair {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}

fn check_transport(transport: &TransportSlice<'_>, pair: IpPair) -> Result<(), PacketFault> {
    match (transport, pair) {
        (TransportSlice::Tcp(tcp), IpPair::V4(source, destination)) => checksum(
            "TCP",
            tcp.checksum(),
            tcp.calc_checksum_ipv4(source, destination)?,
        ),
        (TransportSlice::Tcp(tcp), IpPair::V6(source, destination)) => checksum(
            "TCP",
            tcp.checksum(),
            tcp.calc_checksum_ipv6(source, destination)?,
        ),
        (TransportSlice::Udp(udp), pair) => {
            let length = UdpHeader::LEN + udp.payload().len();
            same_length("UDP", usize::from(udp.length()), length)?;
            let header = udp.to_header();
            let expected = match pair {
                IpPair::V4(..) if header.checksum == 0 => return Ok(()),
                IpPair::V4(source, destination) => {
                    header.calc_checksum_ipv4_raw(source, destination, udp.payload())?
                }
                IpPair::V6(source, destination) => {
                    header.calc_checksum_ipv6_raw(source, destination, udp.payload())?
                }
            };
            checksum("UDP", header.checksum, expected)
        }
        (TransportSlice::Icmpv4(icmp), _) => {
            // The typed header drops the length field of RFC 4884.
            let message = Icmpv4Type::Unknown {
                type_u8: icmp.type_u8(),
                code_u8: icmp.code_u8(),
                bytes5to8: icmp.bytes5to8(),
            };
            checksum("ICMP", icmp.checksum(), message.calc_checksum(icmp.payload()))
        }
        (TransportSlice::Icmpv6(icmp), IpPair::V6(source, destination)) => {
            let message = Icmpv6Type::Unknown {
                type_u8: icmp.type_u8(),
                code_u8: icmp.code_u8(),
                bytes5to8: icmp.bytes5to8(),
            };
            checksum(
                "ICMPv6",
                icmp.checksum(),
                message.calc_checksum(source, destination, icmp.payload())?,
            )
        }
        (TransportSlice::Icmpv6(_), IpPair::V4(..)) | (TransportSlice::Igmp(_), _) => {
            Err(PacketFault::Transport)
        }
    }
}

fn check_sctp(packet: &[u8]) -> Result<(), PacketFault> {
    let field = packet.get(8..).and_then(<[u8]>::first_chunk);
    let found = u32::from_le_bytes(*field.ok_or(PacketFault::Transport)?);
    let mut covered = packet.to_vec();
    covered[8..12].fill(0);
    let expected = crc32c(&covered);
    (found == expected)
        .then_some(())
        .ok_or(PacketFault::Crc { found, expected })
}

fn same_length(header: &'static str, found: usize, actual: usize) -> Result<(), PacketFault> {
    (found == actual).then_some(()).ok_or(PacketFault::Length {
        header,
        found,
        actual,
    })
}

fn checksum(header: &'static str, found: u16, expected: u16) -> Result<(), PacketFault> {
    (found == expected).then_some(()).ok_or(PacketFault::Checksum {
        header,
        found,
        expected,
    })
}
