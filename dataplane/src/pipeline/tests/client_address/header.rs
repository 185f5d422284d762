//! TCP segments with any options.

use etherparse::{PacketBuilder, TcpOptionElement};

use super::*;

/// The TCP header of a segment that an end sends.
pub(super) struct Header {
    pub(super) bits: u8,
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    pub(super) window: u16,
    pub(super) options: Vec<TcpOptionElement>,
}

impl Header {
    pub(super) fn packet(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        ethernet: bool,
        payload: &[u8],
    ) -> Vec<u8> {
        let ip = match (source.ip(), destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip = etherparse::Ipv4Header::new(
                    0,
                    64,
                    etherparse::IpNumber::TCP,
                    source.octets(),
                    destination.octets(),
                )
                .unwrap();
                ip.dont_fragment = true;
                etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => etherparse::IpHeaders::Ipv6(
                etherparse::Ipv6Header {
                    source: source.octets(),
                    destination: destination.octets(),
                    hop_limit: 64,
                    next_header: etherparse::IpNumber::TCP,
                    ..etherparse::Ipv6Header::default()
                },
                etherparse::Ipv6Extensions::default(),
            ),
            _ => panic!("two families"),
        };
        let (from, to) = builder::MACS;
        let mut builder = if ethernet {
            PacketBuilder::ethernet2(from.0, to.0).ip(ip)
        } else {
            PacketBuilder::ip(ip)
        }
        .tcp(source.port(), destination.port(), self.sequence, self.window)
        .options(&self.options)
        .unwrap();
        if self.bits & flags::SYN != 0 {
            builder = builder.syn();
        }
        if self.bits & flags::ACK != 0 {
            builder = builder.ack(self.acknowledgment);
        }
        let mut packet = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut packet, payload).unwrap();
        packet
    }
}
