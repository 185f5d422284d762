//! Frames of one load, which differ in port, stamp and sequence numbers only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::PacketBuilder;
use vl3lb_common::MacAddr;
use vl3lb_dataplane::Framing;

use super::{Layout, TCP, checksum, put};
use crate::load::payload::filler;

/// The hop limit of these frames.
const HOPS: u8 = 64;
/// A receive window that no load fills.
const WINDOW: u16 = u16::MAX;

/// A frame from one source address to the target.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    layout: Layout,
}

/// The TCP fields that change from segment to segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Of [`flags`].
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
}

impl Template {
    /// A frame of `protocol` (UDP or TCP) with a payload of `payload` bytes. `macs` are source and destination;
    /// `None` without Ethernet.
    ///
    /// # Panics
    ///
    /// The addresses are of two families.
    pub(crate) fn new(
        macs: Option<(MacAddr, MacAddr)>,
        source: IpAddr,
        target: SocketAddr,
        protocol: u8,
        payload: usize,
    ) -> Self {
        let mut bytes = Vec::new();
        let payload = filler(payload);
        let fits = "a Vec takes all bytes, and they fit into a packet";
        macro_rules! write {
            ($builder:expr) => {
                if protocol == TCP {
                    let tcp = $builder.tcp(0, target.port(), 0, WINDOW);
                    tcp.write(&mut bytes, &payload).expect(fits);
                } else {
                    $builder
                        .udp(0, target.port())
                        .write(&mut bytes, &payload)
                        .expect(fits);
                }
            };
        }
        match (macs, source, target.ip()) {
            (Some((from, to)), IpAddr::V4(source), IpAddr::V4(target)) => {
                write!(PacketBuilder::ethernet2(from.0, to.0).ipv4(source.octets(), target.octets(), HOPS))
            }
            (Some((from, to)), IpAddr::V6(source), IpAddr::V6(target)) => {
                write!(PacketBuilder::ethernet2(from.0, to.0).ipv6(source.octets(), target.octets(), HOPS))
            }
            (None, IpAddr::V4(source), IpAddr::V4(target)) => {
                write!(PacketBuilder::ipv4(source.octets(), target.octets(), HOPS));
            }
            (None, IpAddr::V6(source), IpAddr::V6(target)) => {
                write!(PacketBuilder::ipv6(source.octets(), target.octets(), HOPS));
            }
            (_, source, target) => panic!("{source} and {target} are of two families"),
        }
        let framing = if macs.is_some() {
            Framing::Ethernet
        } else {
            Framing::RawIp
        };
        let layout = Layout::of(&bytes, framing).expect("just made");
        Self { bytes, layout }
    }

    /// Makes frames come from this address.
    ///
    /// # Panics
    ///
    /// The frames are IPv6.
    pub(crate) fn set_source(&mut self, source: Ipv4Addr) {
        assert_eq!(self.layout.address_len, 4, "an IPv4 source of IPv6 frames");
        put(&mut self.bytes, self.layout.addresses, source.octets());
        checksum::write_ipv4_header(&mut self.bytes, self.layout.addresses - 12..self.layout.transport);
    }

    /// Length of a frame.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Length of its payload.
    pub(crate) fn payload_len(&self) -> u32 {
        u32::try_from(self.layout.end - self.layout.payload).expect("at most 64 KiB")
    }

    /// Makes `frame`, of this length, a packet from `port`. `fill` writes the payload.
    #[inline]
    pub(crate) fn write(
        &self,
        frame: &mut [u8],
        port: u16,
        segment: Option<Segment>,
        fill: impl FnOnce(&mut [u8]),
    ) {
        frame.copy_from_slice(&self.bytes);
        let at = self.layout.transport;
        put(frame, at, port.to_be_bytes());
        if let Some(segment) = segment {
            put(frame, at + 4, segment.sequence.to_be_bytes());
            put(frame, at + 8, segment.acknowledgment.to_be_bytes());
            frame[at + 13] = segment.flags;
        }
        fill(&mut frame[self.layout.payload..self.layout.end]);
        checksum::write(frame, &self.layout);
    }
}

#[cfg(test)]
mod tests {
    use vl3lb_dataplane::testing::validate::assert_valid;

    use super::*;
    use crate::frame::{UDP, be16, be32, flags};

    const SEGMENT: Segment = Segment {
        flags: flags::PSH | flags::ACK,
        sequence: 7,
        acknowledgment: 9,
    };

    #[test]
    fn frames_are_valid_and_have_the_requested_size() {
        let macs = Some((MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])));
        for (macs, source, target) in [
            (macs, "172.16.1.1", "172.16.1.2:5000"),
            (macs, "2001:db8::1", "[2001:db8::2]:5000"),
            (None, "172.16.1.1", "172.16.1.2:5000"),
            (None, "2001:db8::1", "[2001:db8::2]:5000"),
        ] {
            let target: SocketAddr = target.parse().unwrap();
            for (protocol, segment) in [(UDP, None), (TCP, Some(SEGMENT))] {
                let template = Template::new(macs, source.parse().unwrap(), target, protocol, 33);
                let mut frame = vec![0; template.len()];
                template.write(&mut frame, 10_001, segment, |payload| {
                    assert_eq!(payload.len(), 33);
                    payload[0] = 0xaa;
                });
                assert_valid(&frame, macs.is_some());
                let layout = template.layout;
                assert_eq!(be16(&frame, layout.transport), 10_001);
                assert_eq!(be16(&frame, layout.transport + 2), 5000);
                assert_eq!(frame[layout.payload], 0xaa);
                if segment.is_some() {
                    assert_eq!(be32(&frame, layout.transport + 4), 7);
                    assert_eq!(be32(&frame, layout.transport + 8), 9);
                }
            }
        }
    }
}
