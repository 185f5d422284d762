//! Packets made by etherparse.

use std::net::{IpAddr, SocketAddr};

pub use etherparse::TcpOptionElement;
use etherparse::{
    Ethernet2Header, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpFragOffset, IpHeaders, IpNumber,
    Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header, TcpHeader, UdpHeader,
    ether_type,
};
use vl3lb_common::MacAddr;

/// TCP flag bits, as in byte 13 of the header (RFC 9293 section 3.1).
pub mod flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

/// Source and destination MAC address of all Ethernet packets made here.
pub const MACS: (MacAddr, MacAddr) = (MacAddr([2, 0, 0, 0, 0, 0xc1]), MacAddr([2, 0, 0, 0, 0, 0x1b]));

/// From where to where, and how the packet gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Source and destination; `None` for raw IP.
    pub macs: Option<(MacAddr, MacAddr)>,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
}

impl Addresses {
    /// Raw IP, TTL 64. Panics unless both parse as `SocketAddr` of one family.
    pub fn raw(source: &str, destination: &str) -> Self {
        let parse = |text: &str| -> SocketAddr {
            text.parse()
                .unwrap_or_else(|error| panic!("{text:?} as a socket address: {error}"))
        };
        Self {
            macs: None,
            source: parse(source),
            destination: parse(destination),
            ttl: 64,
        }
    }

    /// The same with an Ethernet header from and to [`MACS`].
    pub fn ethernet(source: &str, destination: &str) -> Self {
        Self {
            macs: Some(MACS),
            ..Self::raw(source, destination)
        }
    }

    /// The way back.
    pub fn reversed(self) -> Self {
        Self {
            macs: self.macs.map(|(source, destination)| (destination, source)),
            source: self.destination,
            destination: self.source,
            ttl: self.ttl,
        }
    }
}

/// The TCP fields that tests care about.
#[derive(Debug, Clone, Default)]
pub struct Tcp<'a> {
    /// Of [`flags`].
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub options: &'a [TcpOptionElement],
}

impl Tcp<'_> {
    /// Just these flags.
    pub fn flags(flags: u8) -> Self {
        Self {
            flags,
            ..Self::default()
        }
    }
}

/// A TCP packet with complete checksums.
pub fn tcp(addresses: Addresses, tcp: &Tcp<'_>, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(
        addresses.source.port(),
        addresses.destination.port(),
        tcp.sequence,
        0xffff,
    );
    header.acknowledgment_number = tcp.acknowledgment;
    let flag = |bit| tcp.flags & bit != 0;
    header.fin = flag(flags::FIN);
    header.syn = flag(flags::SYN);
    header.rst = flag(flags::RST);
    header.psh = flag(flags::PSH);
    header.ack = flag(flags::ACK);
    header.urg = flag(flags::URG);
    header.ece = flag(flags::ECE);
    header.cwr = flag(flags::CWR);
    header
        .set_options(tcp.options)
        .expect("options of at most 40 bytes");
    header.checksum = match ip_of(addresses) {
        IpPair::V4(source, destination) => header.calc_checksum_ipv4_raw(source, destination, payload),
        IpPair::V6(source, destination) => header.calc_checksum_ipv6_raw(source, destination, payload),
    }
    .expect("a payload that fits into a packet");
    ip(
        addresses,
        IpNumber::TCP,
        &[header.to_bytes().as_slice(), payload].concat(),
    )
}

/// A UDP packet with complete checksums.
pub fn udp(addresses: Addresses, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(UdpHeader::LEN + payload.len()).expect("a payload that fits into a packet");
    let mut header = UdpHeader {
        source_port: addresses.source.port(),
        destination_port: addresses.destination.port(),
        length,
        checksum: 0,
    };
    header.checksum = match ip_of(addresses) {
        IpPair::V4(source, destination) => header.calc_checksum_ipv4_raw(source, destination, payload),
        IpPair::V6(source, destination) => header.calc_checksum_ipv6_raw(source, destination, payload),
    }
    .expect("a payload that fits into a packet");
    ip(
        addresses,
        IpNumber::UDP,
        &[header.to_bytes().as_slice(), payload].concat(),
    )
}

/// An ICMP or ICMPv6 error of `kind` and `code` about `original`, an IP packet without Ethernet
/// header; `info` is the second word of the header (the MTU of Too Big). Ports are not used.
pub fn icmp_error(addresses: Addresses, kind: u8, code: u8, info: u32, original: &[u8]) -> Vec<u8> {
    match ip_of(addresses) {
        IpPair::V4(..) => {
            let message = Icmpv4Type::Unknown {
                type_u8: kind,
                code_u8: code,
                bytes5to8: info.to_be_bytes(),
            };
            let header = Icmpv4Header::with_checksum(message, original);
            ip(
                addresses,
                IpNumber::ICMP,
                &[header.to_bytes().as_slice(), original].concat(),
            )
        }
        IpPair::V6(source, destination) => {
            let message = Icmpv6Type::Unknown {
                type_u8: kind,
                code_u8: code,
                bytes5to8: info.to_be_bytes(),
            };
            let header = Icmpv6Header::with_checksum(message, source, destination, original)
                .expect("an original that fits into a packet");
            ip(
                addresses,
                IpNumber::IPV6_ICMP,
                &[header.to_bytes().as_slice(), original].concat(),
            )
        }
    }
}

/// An IP packet with any payload after its header. Ports are not used.
pub fn ip(addresses: Addresses, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
    let headers = match ip_of(addresses) {
        IpPair::V4(source, destination) => {
            let length = u16::try_from(payload.len()).expect("a payload that fits into a packet");
            let mut header = Ipv4Header::new(length, addresses.ttl, protocol, source, destination)
                .expect("a payload that fits into a packet");
            header.identification = 0x1234;
            header.dont_fragment = true;
            header.header_checksum = header.calc_header_checksum();
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        }
        IpPair::V6(source, destination) => IpHeaders::Ipv6(
            Ipv6Header {
                payload_length: u16::try_from(payload.len()).expect("a payload that fits into a packet"),
                next_header: protocol,
                hop_limit: addresses.ttl,
                source,
                destination,
                ..Ipv6Header::default()
            },
            Ipv6Extensions::default(),
        ),
    };
    assemble(addresses, &headers, payload)
}

/// The IP payload of `packet` cut into fragments of `size` bytes, a multiple of 8. `packet` is one
/// made here.
pub fn fragments(packet: &[u8], ethernet: bool, size: usize, identification: u16) -> Vec<Vec<u8>> {
    assert_eq!(size % 8, 0, "fragments end at multiples of 8 bytes");
    let link = if ethernet { Ethernet2Header::LEN } else { 0 };
    let (headers, payload) = IpHeaders::from_slice(&packet[link..]).expect("a packet made here");
    let pieces: Vec<_> = payload.payload.chunks(size).collect();
    let mut fragments = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let more = index + 1 < pieces.len();
        let offset = u16::try_from(index * size / 8)
            .ok()
            .and_then(|units| IpFragOffset::try_new(units).ok())
            .expect("a packet of at most 64 KiB");
        let mut headers = headers.clone();
        match &mut headers {
            IpHeaders::Ipv4(header, _) => {
                header.identification = identification;
                header.dont_fragment = false;
                header.more_fragments = more;
                header.fragment_offset = offset;
                header.set_payload_len(piece.len()).expect("a smaller payload");
                header.header_checksum = header.calc_header_checksum();
            }
            IpHeaders::Ipv6(header, extensions) => {
                extensions.fragment = Some(Ipv6FragmentHeader::new(
                    header.next_header,
                    offset,
                    more,
                    identification.into(),
                ));
                header.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
                header
                    .set_payload_length(piece.len() + Ipv6FragmentHeader::LEN)
                    .expect("a smaller payload");
            }
        }
        let mut bytes = packet[..link].to_vec();
        headers.write(&mut bytes).expect("a Vec takes all bytes");
        bytes.extend_from_slice(piece);
        fragments.push(bytes);
    }
    fragments
}

/// Leaves only the sum of the pseudo-header in the TCP or UDP checksum, not inverted, as a sender's
/// kernel does that expects its device to complete it (CHECKSUM_PARTIAL). Packets without
/// extension headers or IPv4 options only.
pub fn make_checksum_partial(packet: &mut [u8], ethernet: bool) {
    let link = if ethernet { Ethernet2Header::LEN } else { 0 };
    let ip = &mut packet[link..];
    let (addresses, header, protocol) = match ip[0] >> 4 {
        4 => (12..20, 20, ip[9]),
        _ => (8..40, 40, ip[6]),
    };
    let field = header
        + match protocol {
            6 => 16,
            17 => 6,
            other => panic!("protocol {other} has no partial checksum"),
        };
    let words = ip[addresses]
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let length = u32::try_from(ip.len() - header).expect("at most 64 KiB");
    let mut sum = words.sum::<u32>() + u32::from(protocol) + length;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = sum.to_be_bytes();
    ip[field] = high;
    ip[field + 1] = low;
}

fn assemble(addresses: Addresses, headers: &IpHeaders, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some((source, destination)) = addresses.macs {
        let link = Ethernet2Header {
            source: source.0,
            destination: destination.0,
            ether_type: match headers {
                IpHeaders::Ipv4(..) => ether_type::IPV4,
                IpHeaders::Ipv6(..) => ether_type::IPV6,
            },
        };
        bytes.extend_from_slice(&link.to_bytes());
    }
    headers.write(&mut bytes).expect("a Vec takes all bytes");
    bytes.extend_from_slice(payload);
    bytes
}

/// Source and destination of one family.
enum IpPair {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}

fn ip_of(addresses: Addresses) -> IpPair {
    match (addresses.source.ip(), addresses.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => IpPair::V4(source.octets(), destination.octets()),
        (IpAddr::V6(source), IpAddr::V6(destination)) => IpPair::V6(source.octets(), destination.octets()),
        (source, destination) => panic!("{source} and {destination} are of two families"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::validate::{assert_valid, validate};

    fn both_families() -> [Addresses; 2] {
        [
            Addresses::ethernet("172.16.1.100:40000", "172.16.1.103:8080"),
            Addresses::raw("[2001:db8::64]:40000", "[2001:db8::67]:8080"),
        ]
    }

    #[test]
    fn packets_made_here_are_valid_and_a_changed_bit_is_seen() {
        for addresses in both_families() {
            let ethernet = addresses.macs.is_some();
            let segment = Tcp {
                flags: flags::SYN,
                sequence: 7,
                acknowledgment: 0,
                options: &[TcpOptionElement::MaximumSegmentSize(1460)],
            };
            let tcp = tcp(addresses, &segment, b"odd");
            let udp = udp(addresses, b"payload");
            let icmp = icmp_error(addresses.reversed(), 3, 4, 1400, &udp[14..]);
            for packet in [tcp, udp, icmp] {
                assert_valid(&packet, ethernet);
                let mut changed = packet.clone();
                *changed.last_mut().unwrap() ^= 1;
                assert!(validate(&changed, ethernet).is_err());
                let cut = &packet[..packet.len() - 1];
                assert!(validate(cut, ethernet).is_err());
            }
        }
    }

    #[test]
    fn fragments_hold_the_payload_in_order() {
        for addresses in both_families() {
            let ethernet = addresses.macs.is_some();
            let packet = udp(addresses, &[0x5a; 100]);
            let fragments = fragments(&packet, ethernet, 48, 9);
            assert_eq!(fragments.len(), 3);
            for fragment in &fragments {
                assert_valid(fragment, ethernet);
            }
        }
    }

    #[test]
    fn a_partial_checksum_is_completed_by_summing_the_packet() {
        for addresses in both_families() {
            let ethernet = addresses.macs.is_some();
            let complete = tcp(addresses, &Tcp::flags(flags::ACK), b"data");
            let mut partial = complete.clone();
            make_checksum_partial(&mut partial, ethernet);
            assert!(validate(&partial, ethernet).is_err());
            let transport = if ethernet { 34 } else { 40 };
            let mut sum: u32 = partial[transport..]
                .chunks(2)
                .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low)))
                .sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            let field = transport + 16;
            let expected = u16::from_be_bytes([complete[field], complete[field + 1]]);
            assert_eq!(!sum & 0xffff, u32::from(expected));
        }
    }
}
