//! Frames in plain memory, and packets built and checked by etherparse.

use std::net::IpAddr;

use etherparse::{
    IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6Header, PacketBuilder,
    SlicedPacket, TcpHeader,
};
use vl3lb_common::Protocol;
use vl3lb_common::addr::to_octets;

use crate::packet::{Framing, Parsed, Translation, Transport, parse, parse_quote};
use crate::port::{Frame, Port, packet_len};
use crate::testing::sctp::{chunk, chunks, transport};
use crate::testing::validate;

pub(super) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const BALANCER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VecFrame {
    bytes: Vec<u8>,
    capacity: usize,
    continues: bool,
}

impl VecFrame {
    pub(super) fn new(bytes: &[u8], capacity: usize) -> Self {
        Self {
            bytes: bytes.to_vec(),
            capacity,
            continues: false,
        }
    }
}

impl Frame for VecFrame {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "{len} bytes in {}", self.capacity);
        self.bytes.resize(len, 0xa5);
    }

    fn continues(&self) -> bool {
        self.continues
    }

    fn set_continues(&mut self, continues: bool) {
        self.continues = continues;
    }
}

/// A port with `free` frames that neither receives nor sends.
pub(super) struct VecPort {
    pub(super) free: usize,
    pub(super) capacity: usize,
}

impl Port for VecPort {
    type Frame = VecFrame;

    fn receive(&mut self, _: &mut Vec<VecFrame>, _: usize) -> usize {
        0
    }

    fn transmit_room(&mut self) -> usize {
        0
    }

    fn transmit(&mut self, _: &mut Vec<VecFrame>) {}

    fn allocate(&mut self) -> Option<VecFrame> {
        self.free = self.free.checked_sub(1)?;
        Some(VecFrame::new(b"stale bytes of an earlier packet", self.capacity))
    }

    fn release(&mut self, _: VecFrame) {
        self.free += 1;
    }

    fn free_frames(&self) -> usize {
        self.free
    }

    fn outstanding<'a>(_: impl Iterator<Item = &'a Self> + Clone) -> usize {
        0
    }
}

/// The packet in frames of the lengths in `cuts`, the rest in a last one.
pub(super) fn frames(bytes: &[u8], cuts: &[usize]) -> Vec<VecFrame> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    for cut in cuts {
        let (frame, later) = rest.split_at((*cut).min(rest.len()));
        frames.push(VecFrame::new(frame, 4096));
        rest = later;
    }
    if !rest.is_empty() || frames.is_empty() {
        frames.push(VecFrame::new(rest, rest.len().max(4096)));
    }
    let last = frames.len() - 1;
    for frame in &mut frames[..last] {
        frame.set_continues(true);
    }
    frames
}

pub(super) fn joined(frames: &[VecFrame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.bytes().to_vec()).collect()
}

pub(super) fn parse_frames(
    frames: &[VecFrame],
    framing: Framing,
) -> Result<Parsed, vl3lb_common::DropReason> {
    parse(frames[0].bytes(), packet_len(frames), framing)
}

/// Parses a packet in one frame, and what it quotes if it is an ICMP message.
pub(super) fn parse_all(bytes: &[u8], framing: Framing) -> Result<Parsed, vl3lb_common::DropReason> {
    let parsed = parse(bytes, bytes.len(), framing)?;
    if parsed.transport == Transport::Icmp {
        parse_quote(bytes, &parsed)?;
    }
    Ok(parsed)
}

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn octets(text: &str) -> [u8; 16] {
    to_octets(address(text))
}

/// A TCP or UDP packet that etherparse can build.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) framing: Framing,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) hop_limit: u8,
    pub(super) protocol: Protocol,
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) ipv4_options: Vec<u8>,
    pub(super) ipv6_extensions: Ipv6Extensions,
    pub(super) tcp: TcpHeader,
    /// The type of the chunk that holds the payload.
    pub(super) sctp_chunk: u8,
    pub(super) payload: Vec<u8>,
}

impl Spec {
    /// The request of the design document, with a payload of an odd length.
    pub(super) fn request(protocol: Protocol) -> Self {
        let mut tcp = TcpHeader::new(0, 0, 0xfff0_1234, 4000);
        tcp.ack = true;
        tcp.acknowledgment_number = 0x0102_0304;
        Self {
            framing: Framing::Ethernet,
            source: address("172.16.1.100"),
            destination: address("172.16.1.103"),
            hop_limit: 64,
            protocol,
            source_port: 40000,
            destination_port: 8080,
            ipv4_options: Vec::new(),
            ipv6_extensions: Ipv6Extensions::default(),
            tcp,
            sctp_chunk: chunks::DATA,
            payload: b"GET / HTTP/1.1\r\n\r\n!".to_vec(),
        }
    }

    pub(super) fn request_v6(protocol: Protocol) -> Self {
        Self {
            source: address("2001:db8::100"),
            destination: address("2001:db8::103"),
            ..Self::request(protocol)
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let ip = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = Ipv4Header::new(
                    0,
                    self.hop_limit,
                    IpNumber(0),
                    source.octets(),
                    destination.octets(),
                )
                .unwrap();
                header.identification = 0xfffe;
                header.options = Ipv4Options::try_from(self.ipv4_options.as_slice()).unwrap();
                IpHeaders::Ipv4(header, Ipv4Extensions::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    hop_limit: self.hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, self.ipv6_extensions.clone())
            }
            _ => unreachable!("one family"),
        };
        let builder = match self.framing {
            Framing::Ethernet => PacketBuilder::ethernet2(CLIENT_MAC, BALANCER_MAC).ip(ip),
            Framing::RawIp => PacketBuilder::ip(ip),
        };
        let mut bytes = Vec::new();
        match self.protocol {
            Protocol::Tcp => {
                let mut tcp = self.tcp.clone();
                tcp.source_port = self.source_port;
                tcp.destination_port = self.destination_port;
                builder.tcp_header(tcp).write(&mut bytes, &self.payload)
            }
            Protocol::Udp => builder
                .udp(self.source_port, self.destination_port)
                .write(&mut bytes, &self.payload),
            Protocol::Sctp => {
                let ports = (self.source_port, self.destination_port);
                let chunk = chunk(self.sctp_chunk, 0, &self.payload);
                let tag = if self.sctp_chunk == chunks::INIT { 0 } else { 9 };
                builder.write(&mut bytes, IpNumber::SCTP, &transport(ports, tag, &chunk))
            }
        }
        .unwrap();
        bytes
    }

    /// The packet behind the NAT.
    pub(super) fn translated(&self, to: &Translation) -> Self {
        Self {
            source: vl3lb_common::addr::from_octets(to.source),
            destination: vl3lb_common::addr::from_octets(to.destination),
            source_port: to.source_port,
            destination_port: to.destination_port,
            hop_limit: self.hop_limit - 1,
            ..self.clone()
        }
    }

    /// The translation that leads back to this packet.
    pub(super) fn tuple(&self) -> Translation {
        Translation {
            source: to_octets(self.source),
            destination: to_octets(self.destination),
            source_port: self.source_port,
            destination_port: self.destination_port,
        }
    }
}

/// The translation of the design document.
pub(super) fn to_backend() -> Translation {
    Translation {
        source: octets("172.16.1.103"),
        destination: octets("172.16.1.102"),
        source_port: 53211,
        destination_port: 8081,
    }
}

pub(super) fn to_backend_v6() -> Translation {
    Translation {
        source: octets("2001:db8::103"),
        destination: octets("2001:db8:ffff::102"),
        ..to_backend()
    }
}

pub(super) fn sliced(bytes: &[u8], framing: Framing) -> SlicedPacket<'_> {
    match framing {
        Framing::Ethernet => SlicedPacket::from_ethernet(bytes),
        Framing::RawIp => SlicedPacket::from_ip(bytes),
    }
    .unwrap()
}

/// Checks all checksums and lengths of a packet with a transport header.
pub(super) fn assert_valid(bytes: &[u8], framing: Framing) {
    assert!(sliced(bytes, framing).transport.is_some(), "{bytes:02x?}");
    validate::assert_valid(bytes, framing == Framing::Ethernet);
}

/// The checksum of RFC 1071, word by word.
pub(super) fn plain_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

pub(super) fn fix_ipv4_checksum(bytes: &mut [u8], l3: usize) {
    let end = l3 + usize::from(bytes[l3] & 0xf) * 4;
    bytes[l3 + 10..l3 + 12].fill(0);
    let checksum = plain_checksum(&bytes[l3..end.min(bytes.len())]);
    bytes[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
}

/// Leaves in the transport checksum what a sender's kernel leaves there for its hardware.
pub(super) fn make_partial(bytes: &mut [u8], parsed: &Parsed, protocol: Protocol) {
    let length = u32::try_from(parsed.end() - parsed.l4()).unwrap();
    let mut pseudo_header = [parsed.source, parsed.destination].concat();
    pseudo_header.extend(length.to_be_bytes());
    pseudo_header.extend([0, 0, 0, protocol.number()]);
    // The ffff of mapped addresses would be zero in a sum, but must not be the only thing that
    // agrees.
    if parsed.family == crate::packet::Family::V4 {
        pseudo_header.drain(16..28);
        pseudo_header.drain(0..12);
    }
    let at = parsed.l4() + if protocol == Protocol::Tcp { 16 } else { 6 };
    bytes[at..at + 2].copy_from_slice(&(!plain_checksum(&pseudo_header)).to_be_bytes());
}

/// An ICMP error over IPv4 or IPv6 with `quote` in it, built by hand and checked by etherparse.
pub(super) fn icmp_error(
    framing: Framing,
    source: IpAddr,
    destination: IpAddr,
    header: [u8; 8],
    quote: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let [kind, code, _, _, rest @ ..] = header;
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let ip = Ipv4Header::new(0, 60, IpNumber(0), source.octets(), destination.octets()).unwrap();
            let ip = IpHeaders::Ipv4(ip, Ipv4Extensions::default());
            match framing {
                Framing::Ethernet => PacketBuilder::ethernet2(CLIENT_MAC, BALANCER_MAC).ip(ip),
                Framing::RawIp => PacketBuilder::ip(ip),
            }
            .icmpv4_raw(kind, code, rest)
            .write(&mut bytes, quote)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let ip = Ipv6Header {
                hop_limit: 60,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            let ip = IpHeaders::Ipv6(ip, Ipv6Extensions::default());
            match framing {
                Framing::Ethernet => PacketBuilder::ethernet2(CLIENT_MAC, BALANCER_MAC).ip(ip),
                Framing::RawIp => PacketBuilder::ip(ip),
            }
            .icmpv6_raw(kind, code, rest)
            .write(&mut bytes, quote)
        }
        _ => unreachable!("one family"),
    }
    .unwrap();
    bytes
}
