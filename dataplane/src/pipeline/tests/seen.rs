//! A packet as its receiver sees it, decoded by etherparse.

use std::net::{IpAddr, SocketAddr};

use vl3lb_common::MacAddr;

/// A TCP, UDP or SCTP packet as its receiver sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) macs: Option<(MacAddr, MacAddr)>,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) ttl: u8,
    pub(super) tcp_flags: u8,
    /// Of SCTP all behind the ports.
    pub(super) payload: Vec<u8>,
}

impl Seen {
    pub(super) fn of(packet: &[u8], ethernet: bool) -> Self {
        use etherparse::{NetSlice, SlicedPacket, TransportSlice};
        let sliced = if ethernet {
            SlicedPacket::from_ethernet(packet)
        } else {
            SlicedPacket::from_ip(packet)
        }
        .unwrap();
        let (source, destination, ttl): (IpAddr, IpAddr, u8) = match sliced.net.as_ref().unwrap() {
            NetSlice::Ipv4(v4) => (
                v4.header().source_addr().into(),
                v4.header().destination_addr().into(),
                v4.header().ttl(),
            ),
            NetSlice::Ipv6(v6) => (
                v6.header().source_addr().into(),
                v6.header().destination_addr().into(),
                v6.header().hop_limit(),
            ),
            NetSlice::Arp(_) => panic!("ARP"),
        };
        let (ports, tcp_flags, payload) = match sliced.transport.as_ref() {
            None => {
                let payload = sliced.ip_payload().unwrap();
                assert_eq!(payload.ip_number, etherparse::IpNumber::SCTP);
                let port = |at: usize| u16::from_be_bytes([payload.payload[at], payload.payload[at + 1]]);
                ((port(0), port(2)), 0, payload.payload[4..].to_vec())
            }
            Some(TransportSlice::Tcp(tcp)) => (
                (tcp.source_port(), tcp.destination_port()),
                tcp.slice()[13],
                tcp.payload().to_vec(),
            ),
            Some(TransportSlice::Udp(udp)) => (
                (udp.source_port(), udp.destination_port()),
                0,
                udp.payload().to_vec(),
            ),
            Some(other) => panic!("{other:?} is neither TCP nor UDP"),
        };
        let mac = |at: usize| MacAddr(packet[at..at + 6].try_into().unwrap());
        Self {
            macs: ethernet.then(|| (mac(6), mac(0))),
            source: SocketAddr::new(source, ports.0),
            destination: SocketAddr::new(destination, ports.1),
            ttl,
            tcp_flags,
            payload,
        }
    }
}
