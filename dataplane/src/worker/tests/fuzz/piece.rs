//! A fragment as etherparse decodes it.

use std::net::{IpAddr, SocketAddr};

use etherparse::IpHeaders;
use vl3lb_common::Protocol;

/// What the fragments of one datagram have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: Protocol,
    pub(super) identification: u32,
}

/// A fragment of a TCP or UDP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) name: Name,
    pub(super) ttl: u8,
    /// Its first byte in the datagram.
    pub(super) offset: usize,
    pub(super) more: bool,
    pub(super) payload: Vec<u8>,
}

impl Piece {
    /// `None` for whole packets.
    pub(super) fn of(packet: &[u8], ethernet: bool) -> Option<Self> {
        let ip = packet.get(if ethernet { 14 } else { 0 }..)?;
        let (headers, payload) = IpHeaders::from_slice(ip).ok()?;
        let protocol = Protocol::from_number(payload.ip_number.0)?;
        let (name, ttl, offset, more) = match headers {
            IpHeaders::Ipv4(ip, _) => (
                Name {
                    source: ip.source.into(),
                    destination: ip.destination.into(),
                    protocol,
                    identification: ip.identification.into(),
                },
                ip.time_to_live,
                ip.fragment_offset,
                ip.more_fragments,
            ),
            IpHeaders::Ipv6(ip, extensions) => {
                let fragment = extensions.fragment.as_ref()?;
                let name = Name {
                    source: ip.source.into(),
                    destination: ip.destination.into(),
                    protocol,
                    identification: fragment.identification,
                };
                (
                    name,
                    ip.hop_limit,
                    fragment.fragment_offset,
                    fragment.more_fragments,
                )
            }
        };
        let offset = usize::from(offset.value()) * 8;
        let is_fragment = more || offset > 0;
        is_fragment.then(|| Self {
            name,
            ttl,
            offset,
            more,
            payload: payload.payload.to_vec(),
        })
    }

    /// Source and destination, of the first fragment.
    pub(super) fn sockets(&self) -> Option<(SocketAddr, SocketAddr)> {
        let (0, &[a, b, c, d, ..]) = (self.offset, &self.payload[..]) else {
            return None;
        };
        Some((
            SocketAddr::new(self.name.source, u16::from_be_bytes([a, b])),
            SocketAddr::new(self.name.destination, u16::from_be_bytes([c, d])),
        ))
    }

    /// The TCP flags of the first fragment, if they are in it.
    pub(super) fn flags(&self) -> u8 {
        match self.name.protocol {
            Protocol::Tcp => self.payload.get(13).copied().unwrap_or(0),
            Protocol::Udp | Protocol::Sctp => 0,
        }
    }

    /// Whether `output` is this fragment, or a part of it, translated.
    pub(super) fn became(&self, output: &Self) -> bool {
        let Some(from) = output.offset.checked_sub(self.offset) else {
            return false;
        };
        let end = from + output.payload.len();
        let Some(bytes) = self.payload.get(from..end) else {
            return false;
        };
        let is_last = end == self.payload.len();
        // Ports and checksum of the first one.
        let checksum = match self.name.protocol {
            Protocol::Tcp => 16..18,
            Protocol::Udp => 6..8,
            // No fragment of it goes on.
            Protocol::Sctp => 0..0,
        };
        let is_same = |at: usize| {
            let translated = output.offset == 0 && (at < 4 || checksum.contains(&at));
            translated || bytes[at] == output.payload[at]
        };
        output.more == (self.more || !is_last)
            && output.name.protocol == self.name.protocol
            && output.ttl == self.ttl.wrapping_sub(1)
            && (0..bytes.len()).all(is_same)
    }
}
