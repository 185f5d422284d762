//! Packets written in place into existing frames.

use std::net::SocketAddrV4;

use etherparse::{Ethernet2Header, IpNumber, Ipv4Header, TcpHeader, TcpOptionElement, UdpHeader, ether_type};
use vl3lb_dataplane::Frame;

use super::world::{OWN_MAC, ROUTER_MAC};

/// Bytes of each frame, without the FCS that no AF_XDP frame has.
pub(super) const FRAME_LEN: usize = 64;
const UDP_PAYLOAD: [u8; FRAME_LEN - 14 - 20 - 8] = [0x5a; FRAME_LEN - 14 - 20 - 8];
const HOP_LIMIT: u8 = 63;

/// A UDP datagram of [`FRAME_LEN`] bytes with complete checksums.
pub(super) fn write_udp<F: Frame>(frame: &mut F, source: SocketAddrV4, destination: SocketAddrV4) {
    let length = UdpHeader::LEN + UDP_PAYLOAD.len();
    let ip = ip_header(source, destination, IpNumber::UDP, length);
    let udp = UdpHeader::with_ipv4_checksum(source.port(), destination.port(), &ip, &UDP_PAYLOAD)
        .expect("a short payload");
    write(frame, &ip, &[&udp.to_bytes(), &UDP_PAYLOAD]);
}

/// A SYN with an MSS option and complete checksums, padded to [`FRAME_LEN`] bytes.
pub(super) fn write_syn<F: Frame>(frame: &mut F, source: SocketAddrV4, destination: SocketAddrV4) {
    let mut tcp = TcpHeader::new(source.port(), destination.port(), 1, 0xffff);
    tcp.syn = true;
    tcp.set_options(&[TcpOptionElement::MaximumSegmentSize(1460)])
        .expect("one option");
    let ip = ip_header(source, destination, IpNumber::TCP, tcp.header_len());
    tcp.checksum = tcp.calc_checksum_ipv4(&ip, &[]).expect("no payload");
    write(frame, &ip, &[&tcp.to_bytes()]);
}

fn ip_header(
    source: SocketAddrV4,
    destination: SocketAddrV4,
    protocol: IpNumber,
    length: usize,
) -> Ipv4Header {
    let length = u16::try_from(length).expect("a short packet");
    let mut ip = Ipv4Header::new(
        length,
        HOP_LIMIT,
        protocol,
        source.ip().octets(),
        destination.ip().octets(),
    )
    .expect("a short packet");
    ip.header_checksum = ip.calc_header_checksum();
    ip
}

fn write<F: Frame>(frame: &mut F, ip: &Ipv4Header, rest: &[&[u8]]) {
    let ethernet = Ethernet2Header {
        source: ROUTER_MAC.0,
        destination: OWN_MAC.0,
        ether_type: ether_type::IPV4,
    };
    frame.set_len(FRAME_LEN);
    let mut left = frame.bytes_mut();
    for part in [&ethernet.to_bytes()[..], &ip.to_bytes()[..]].iter().chain(rest) {
        let (here, behind) = left.split_at_mut(part.len());
        here.copy_from_slice(part);
        left = behind;
    }
    left.fill(0);
}
