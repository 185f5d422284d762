//! The headers of a captured packet in words.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, TransportSlice};

use crate::api::{PacketData, PacketImage};

/// What all images of a packet share.
pub(super) struct Context<'a> {
    pub(super) worker: u16,
    pub(super) time: SystemTime,
    /// Whether there is no Ethernet header.
    pub(super) raw_ip: bool,
    pub(super) service: Option<&'a String>,
}

/// A packet of `length` bytes that begins with `bytes`.
pub(super) fn shown(bytes: &[u8], length: usize, raw_ip: bool) -> PacketImage {
    let sliced = if raw_ip {
        LaxSlicedPacket::from_ip(bytes).ok()
    } else {
        LaxSlicedPacket::from_ethernet(bytes).ok()
    };
    let mut image = PacketImage {
        protocol: None,
        source: None,
        destination: None,
        tcp_flags: None,
        length: length as u64,
        data: PacketData(bytes.to_vec()),
    };
    let Some(sliced) = sliced else { return image };
    let (source, destination, protocol): (IpAddr, IpAddr, _) = match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
            ip.payload_ip_number(),
        ),
        Some(LaxNetSlice::Ipv6(ip)) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
            ip.payload().ip_number,
        ),
        Some(LaxNetSlice::Arp(_)) | None => return image,
    };
    image.protocol = Some(match protocol {
        IpNumber::IPV6_ICMP => "ICMPv6".to_owned(),
        IpNumber(number) => protocol
            .keyword_str()
            .map_or_else(|| number.to_string(), str::to_owned),
    });
    let ports = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags = [
                (tcp.syn(), 'S'),
                (tcp.fin(), 'F'),
                (tcp.rst(), 'R'),
                (tcp.psh(), 'P'),
                (tcp.urg(), 'U'),
                (tcp.ece(), 'E'),
                (tcp.cwr(), 'W'),
                (tcp.ack(), '.'),
            ];
            image.tcp_flags = Some(
                flags
                    .iter()
                    .filter(|(set, _)| *set)
                    .map(|(_, name)| name)
                    .collect(),
            );
            Some((tcp.source_port(), tcp.destination_port()))
        }
        Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
        // etherparse does not know it; its ports are where those of the others are (RFC 9260 section 3.1).
        None if protocol == IpNumber::SCTP => sliced
            .net
            .as_ref()
            .and_then(LaxNetSlice::ip_payload_ref)
            .filter(|payload| !payload.fragmented)
            .and_then(|payload| ports(payload.payload)),
        _ => None,
    };
    let (source, destination) = match ports {
        Some((from, to)) => (
            SocketAddr::new(source, from).to_string(),
            SocketAddr::new(destination, to).to_string(),
        ),
        None => (source.to_string(), destination.to_string()),
    };
    (image.source, image.destination) = (Some(source), Some(destination));
    image
}

/// The first four bytes as two ports.
fn ports(bytes: &[u8]) -> Option<(u16, u16)> {
    let (from, rest) = bytes.split_first_chunk()?;
    let (to, _) = rest.split_first_chunk()?;
    Some((u16::from_be_bytes(*from), u16::from_be_bytes(*to)))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn headers_are_shown_though_the_payload_is_missing() {
        let mut bytes = Vec::new();
        let payload = [7; 100];
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(40_000, 80, 1, 100)
            .syn()
            .ack(2)
            .write(&mut bytes, &payload)
            .unwrap();
        let image = shown(&bytes[..54], bytes.len(), false);
        assert_eq!(image.protocol.as_deref(), Some("TCP"));
        assert_eq!(image.source.as_deref(), Some("10.0.0.1:40000"));
        assert_eq!(image.destination.as_deref(), Some("10.0.0.2:80"));
        assert_eq!(image.tcp_flags.as_deref(), Some("S."));
        assert_eq!((image.length, image.data.0.len()), (154, 54));

        let mut bytes = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 64)
            .icmpv6_echo_request(1, 2)
            .write(&mut bytes, &payload)
            .unwrap();
        let image = shown(&bytes[..48], bytes.len(), true);
        assert_eq!(image.protocol.as_deref(), Some("ICMPv6"));
        assert_eq!(
            image.destination.as_deref(),
            Some("202:202:202:202:202:202:202:202")
        );
    }

    #[test]
    fn ports_of_sctp_are_shown() {
        let mut bytes = Vec::new();
        // A common header without tag and checksum, and no chunk.
        let sctp = [0x9c, 0x40, 0x0b, 0x59, 0, 0, 0, 0, 0, 0, 0, 0];
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .write(&mut bytes, IpNumber::SCTP, &sctp)
            .unwrap();
        let image = shown(&bytes, bytes.len(), false);
        assert_eq!(image.protocol.as_deref(), Some("SCTP"));
        assert_eq!(image.source.as_deref(), Some("10.0.0.1:40000"));
        assert_eq!(image.destination.as_deref(), Some("10.0.0.2:2905"));
    }

    #[test]
    fn any_bytes_are_shown() {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1, 2)
            .write(&mut bytes, &[0; 10])
            .unwrap();
        for raw_ip in [false, true] {
            for length in 0..bytes.len() {
                let image = shown(&bytes[..length], bytes.len(), raw_ip);
                assert_eq!(image.data.0.len(), length);
            }
        }
    }
}
