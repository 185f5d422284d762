//! A packet as etherparse decodes it.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use vl3lb_common::Protocol;

/// A whole TCP or UDP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) protocol: Protocol,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) ttl: u8,
    pub(super) content: Content,
}

/// What a translation leaves as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// 0 in UDP, like the numbers.
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    /// Of TCP.
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Content {
    /// With no-operations in the place of the TCP timestamps.
    pub(super) fn without_timestamps(&self) -> Self {
        let mut content = self.clone();
        let options = &mut content.options;
        let mut at = 0;
        while let Some(&kind) = options.get(at) {
            let length = match (kind, options.get(at + 1)) {
                (0, _) => break,
                (1, _) => 1,
                (_, Some(&length)) if length >= 2 => usize::from(length),
                _ => break,
            };
            if kind == 8 && at + length <= options.len() {
                options[at..at + length].fill(1);
                break;
            }
            at += length;
        }
        content
    }
}

impl Seen {
    /// `None` for what is neither TCP nor UDP, and for fragments.
    pub(super) fn of(packet: &[u8], ethernet: bool) -> Option<Self> {
        let sliced = slice(packet, ethernet)?;
        let (source, destination) = addresses(&sliced)?;
        let (ttl, is_fragment) = match sliced.net.as_ref()? {
            NetSlice::Ipv4(ip) => (ip.header().ttl(), ip.payload().fragmented),
            NetSlice::Ipv6(ip) => (ip.header().hop_limit(), ip.payload().fragmented),
            NetSlice::Arp(_) => return None,
        };
        if is_fragment {
            return None;
        }
        let (protocol, ports, content) = match sliced.transport.as_ref()? {
            TransportSlice::Tcp(tcp) => {
                let content = Content {
                    flags: tcp.slice()[13],
                    sequence: tcp.sequence_number(),
                    acknowledgment: tcp.acknowledgment_number(),
                    options: tcp.options().to_vec(),
                    payload: tcp.payload().to_vec(),
                };
                (
                    Protocol::Tcp,
                    (tcp.source_port(), tcp.destination_port()),
                    content,
                )
            }
            TransportSlice::Udp(udp) => {
                let content = Content {
                    flags: 0,
                    sequence: 0,
                    acknowledgment: 0,
                    options: Vec::new(),
                    payload: udp.payload().to_vec(),
                };
                (
                    Protocol::Udp,
                    (udp.source_port(), udp.destination_port()),
                    content,
                )
            }
            _ => return None,
        };
        Some(Self {
            protocol,
            source: SocketAddr::new(source, ports.0),
            destination: SocketAddr::new(destination, ports.1),
            ttl,
            content,
        })
    }
}

/// Protocol, source and destination of a TCP or UDP packet or of the first fragment of one, without other extension headers.
/// Nothing else is looked at.
pub(super) fn tuple_of(packet: &[u8], ethernet: bool) -> Option<(Protocol, SocketAddr, SocketAddr)> {
    let (source, destination) = addresses_of(packet, ethernet)?;
    let ip = packet.get(if ethernet { 14 } else { 0 }..)?;
    let word = |at: usize| Some(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?]));
    let (protocol, offset, ports) = if source.is_ipv4() {
        (ip[9], word(6)? & 0x1fff, usize::from(ip[0] & 0xf) * 4)
    } else if ip[6] == 44 {
        (*ip.get(40)?, word(42)? >> 3, 48)
    } else {
        (ip[6], 0, 40)
    };
    let protocol = Protocol::from_number(protocol)?;
    let socket = |address, at| Some(SocketAddr::new(address, word(at)?));
    let is_first = offset == 0;
    is_first.then_some((protocol, socket(source, ports)?, socket(destination, ports + 2)?))
}

/// Source and destination of any IP packet.
pub(super) fn addresses_of(packet: &[u8], ethernet: bool) -> Option<(IpAddr, IpAddr)> {
    let ip = packet.get(if ethernet { 14 } else { 0 }..)?;
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?));
    match ip.first()? >> 4 {
        4 => Some((v4(12)?, v4(16)?)),
        6 => Some((v6(8)?, v6(24)?)),
        _ => None,
    }
}

fn slice(packet: &[u8], ethernet: bool) -> Option<SlicedPacket<'_>> {
    if ethernet {
        SlicedPacket::from_ethernet(packet)
    } else {
        SlicedPacket::from_ip(packet)
    }
    .ok()
}

fn addresses(sliced: &SlicedPacket<'_>) -> Option<(IpAddr, IpAddr)> {
    Some(match sliced.net.as_ref()? {
        NetSlice::Ipv4(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        NetSlice::Ipv6(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        NetSlice::Arp(_) => return None,
    })
}
