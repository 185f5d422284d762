//! Parsing: the checks that RFC 1812 section 5.2.2 requires of a router, and the fields that NAT needs.

use vl3lb_common::{DropReason, Protocol};

use super::checksum::Sum;
use super::extension::{self, FragmentHeader};
use super::field::{be16, ethernet, header_at, icmp, ipv4, ipv6, is_mapped, mapped, ports, sctp, tcp, udp};
use super::{option, plain};

/// The header in front of the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Ethernet,
    /// No link header (TUN).
    RawIp,
}

impl Framing {
    /// Bytes in front of the IP header.
    #[inline]
    pub const fn header_len(self) -> usize {
        match self {
            Self::Ethernet => ethernet::HEADER_LEN,
            Self::RawIp => 0,
        }
    }
}

/// IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The flags of a TCP header, the low byte (RFC 9293 section 3.1, RFC 3168 section 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TcpFlags(pub u8);

impl TcpFlags {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
    pub(crate) const CWR: u8 = 0x80;

    pub(crate) const fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    pub(crate) const fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }

    pub(crate) const fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    pub(crate) const fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }
}

/// A packet that passed all checks. All offsets lie in the first frame, except `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// As `common::addr::to_octets`, like all addresses here.
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub transport: Transport,
    end: u32,
    l3: u16,
    l4: u16,
    pub family: Family,
    pub hop_limit: u8,
    /// Routers may not fragment it: the flag of IPv4, always over IPv6.
    pub dont_fragment: bool,
    /// IPv4 without options, no fragment, TCP or UDP; it may not be fragmented, and has a hop left.
    pub plain: bool,
}

impl Parsed {
    /// The value for [`parse_into`] to fill.
    pub(crate) const EMPTY: Self = Self {
        source: [0; 16],
        destination: [0; 16],
        transport: Transport::Icmp,
        end: 0,
        l3: 0,
        l4: 0,
        family: Family::V4,
        hop_limit: 0,
        dont_fragment: true,
        plain: false,
    };

    /// Offset of the IP header.
    #[inline(always)]
    pub(crate) const fn l3(&self) -> usize {
        self.l3 as usize
    }

    /// Offset of the transport header, behind IPv4 options or IPv6 extension headers.
    #[inline(always)]
    pub(crate) const fn l4(&self) -> usize {
        self.l4 as usize
    }

    /// Offset of the end of the IP packet, counted over all frames. Padding may follow.
    #[inline(always)]
    pub(crate) const fn end(&self) -> usize {
        self.end as usize
    }

    /// IP protocol number of what it carries; a fragment's is that of its datagram.
    pub(crate) const fn protocol(&self) -> u8 {
        match (self.transport, self.family) {
            (Transport::Tcp { .. }, _) => Protocol::Tcp.number(),
            (Transport::Udp { .. }, _) => Protocol::Udp.number(),
            (Transport::Sctp { .. }, _) => Protocol::Sctp.number(),
            (Transport::Fragment { protocol, .. }, _) => protocol,
            (Transport::Icmp, Family::V4) => icmp::PROTOCOL_V4,
            (Transport::Icmp, Family::V6) => icmp::PROTOCOL_V6,
        }
    }

    /// Length of the IP packet in bytes, to be compared with an MTU.
    #[inline(always)]
    pub(crate) const fn ip_len(&self) -> u32 {
        self.end - self.l3 as u32
    }

    /// Offsets are kept small so that a bounds check behind them is one comparison.
    #[inline(always)]
    pub(super) fn set_offsets(&mut self, l3: usize, l4: usize, end: usize) -> Result<(), DropReason> {
        let too_long = |_| DropReason::Malformed;
        self.l3 = u16::try_from(l3).map_err(too_long)?;
        self.l4 = u16::try_from(l4).map_err(too_long)?;
        self.end = u32::try_from(end).map_err(too_long)?;
        Ok(())
    }
}

/// The payload of the IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp {
        source_port: u16,
        destination_port: u16,
        flags: TcpFlags,
        /// With options, in bytes.
        header_len: usize,
    },
    Udp {
        source_port: u16,
        destination_port: u16,
    },
    /// Its chunks and checksum are not looked at: see [`sctp_packet`](super::sctp_packet).
    Sctp {
        source_port: u16,
        destination_port: u16,
    },
    /// An ICMP or ICMPv6 message. [`parse_quote`](super::parse_quote) reads it: few packets are one, and
    /// its fields would make this type four times as large.
    Icmp,
    /// A fragment of a TCP or UDP packet.
    Fragment {
        protocol: u8,
        id: u32,
        /// In bytes.
        offset: u16,
        more: bool,
        /// Source and destination port; the first fragment has them.
        ports: Option<(u16, u16)>,
        /// Of the first fragment of a TCP segment, else none.
        flags: TcpFlags,
    },
}

/// Parses a packet whose first frame is `head` and whose frames hold `packet_len` bytes in all.
///
/// Checked: lengths against each other and the frames (padding behind the packet is allowed), the
/// IPv4 header checksum, source addresses that cannot be (RFC 1812 section 5.3.7, RFC 4291 section
/// 2.5), the TCP data offset, the UDP length and that UDP over IPv6 has a checksum (RFC 8200
/// section 8.1), fragments that could overwrite a transport header (RFC 1858) or a reassembly
/// buffer. ICMP messages are only recognised. TCP and UDP checksums are the receiver's to check.
///
/// Errors: `Malformed`, `BadChecksum`, `Martian`, `UnsupportedProtocol` (all but TCP, UDP, SCTP and ICMP), `SctpFragment`.
pub(crate) fn parse(head: &[u8], packet_len: usize, framing: Framing) -> Result<Parsed, DropReason> {
    let mut parsed = Parsed::EMPTY;
    parse_into(&mut parsed, head, packet_len, framing)?;
    Ok(parsed)
}

/// [`parse`] for the packet path: writes the result in place. Returned by value it would be copied, at a
/// tenth of a packet's instructions. After an error the record is meaningless.
#[inline(always)]
pub(crate) fn parse_into(
    parsed: &mut Parsed,
    head: &[u8],
    packet_len: usize,
    framing: Framing,
) -> Result<(), DropReason> {
    if plain::parse(parsed, head, packet_len, framing).is_some() {
        return Ok(());
    }
    parse_any(parsed, head, packet_len, framing)
}

/// All packets, among them the plain ones.
#[inline(never)]
pub(super) fn parse_any(
    parsed: &mut Parsed,
    head: &[u8],
    packet_len: usize,
    framing: Framing,
) -> Result<(), DropReason> {
    let l3 = framing.header_len();
    match family(head, framing)? {
        Family::V4 => parse_ipv4(parsed, head, l3, packet_len),
        Family::V6 => parse_ipv6(parsed, head, l3, packet_len),
    }
}

#[inline]
fn family(head: &[u8], framing: Framing) -> Result<Family, DropReason> {
    match framing {
        Framing::Ethernet => {
            let header: &[u8; ethernet::HEADER_LEN] = header_at(head, 0)?;
            match be16(header, ethernet::ETHERTYPE) {
                ethernet::ETHERTYPE_IPV4 => Ok(Family::V4),
                ethernet::ETHERTYPE_IPV6 => Ok(Family::V6),
                _ => Err(DropReason::UnsupportedProtocol),
            }
        }
        Framing::RawIp => match head.first().map(|first| first >> 4) {
            Some(4) => Ok(Family::V4),
            Some(6) => Ok(Family::V6),
            _ => Err(DropReason::Malformed),
        },
    }
}

#[inline]
fn parse_ipv4(parsed: &mut Parsed, head: &[u8], l3: usize, packet_len: usize) -> Result<(), DropReason> {
    let header = header_at(head, l3)?;
    let l4 = l3 + checked_ipv4_header_len(head, l3, header)?;
    let end = l3 + usize::from(be16(header, ipv4::TOTAL_LENGTH));
    if end < l4 || end > packet_len {
        return Err(DropReason::Malformed);
    }
    if l4 > l3 + ipv4::HEADER_LEN {
        option::check(head.get(l3 + ipv4::HEADER_LEN..l4).ok_or(DropReason::Malformed)?)?;
    }
    if is_ipv4_martian(header[ipv4::SOURCE]) {
        return Err(DropReason::Martian);
    }
    parsed.set_offsets(l3, l4, end)?;
    parsed.family = Family::V4;
    parsed.hop_limit = header[ipv4::TTL];
    parsed.dont_fragment = be16(header, ipv4::FLAGS_OFFSET) & ipv4::DONT_FRAGMENT != 0;
    (parsed.source, parsed.destination) = ipv4_addresses(header);
    let protocol = header[ipv4::PROTOCOL];
    let packet = Packet { head, l4, end };
    match ipv4_fragment(header) {
        None => packet.transport(Family::V4, protocol, &mut parsed.transport)?,
        Some(fragment) => packet.fragment(Family::V4, protocol, fragment, &mut parsed.transport)?,
    }
    let has_ports = matches!(parsed.transport, Transport::Tcp { .. } | Transport::Udp { .. });
    let has_options = l4 > l3 + ipv4::HEADER_LEN;
    parsed.plain = has_ports && !has_options && parsed.dont_fragment && parsed.hop_limit > 1;
    Ok(())
}

/// Whether addresses with this first byte cannot be a source: "this network", loopback, multicast, reserved and broadcast.
#[inline(always)]
pub(super) const fn is_ipv4_martian(first: u8) -> bool {
    matches!(first, 0 | 127 | 224..)
}

/// Length of an IPv4 header with a valid version, length and checksum.
#[inline]
pub(super) fn checked_ipv4_header_len(
    head: &[u8],
    l3: usize,
    header: &[u8; ipv4::HEADER_LEN],
) -> Result<usize, DropReason> {
    let first = header[ipv4::VERSION_IHL];
    let sum = if first == 0x45 {
        Sum::of_header(header)
    } else {
        let len = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || len < ipv4::HEADER_LEN {
            return Err(DropReason::Malformed);
        }
        Sum::of(head.get(l3..l3 + len).ok_or(DropReason::Malformed)?)
    };
    if !sum.verifies() {
        return Err(DropReason::BadChecksum);
    }
    Ok(usize::from(first & 0xf) * 4)
}

/// Source and destination.
#[inline]
pub(super) fn ipv4_addresses(header: &[u8; ipv4::HEADER_LEN]) -> ([u8; 16], [u8; 16]) {
    let address = |at: usize| mapped([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    (address(ipv4::SOURCE), address(ipv4::DESTINATION))
}

/// The fragment fields, if the packet is a fragment.
#[inline]
pub(super) fn ipv4_fragment(header: &[u8; ipv4::HEADER_LEN]) -> Option<FragmentHeader> {
    let field = be16(header, ipv4::FLAGS_OFFSET);
    (field & (ipv4::OFFSET_MASK | ipv4::MORE_FRAGMENTS) != 0).then(|| FragmentHeader {
        id: u32::from(be16(header, ipv4::IDENTIFICATION)),
        offset: (field & ipv4::OFFSET_MASK) << 3,
        more: field & ipv4::MORE_FRAGMENTS != 0,
    })
}

#[inline]
fn parse_ipv6(parsed: &mut Parsed, head: &[u8], l3: usize, packet_len: usize) -> Result<(), DropReason> {
    let header: &[u8; ipv6::HEADER_LEN] = header_at(head, l3)?;
    let end = l3 + ipv6::HEADER_LEN + usize::from(be16(header, ipv6::PAYLOAD_LENGTH));
    if header[ipv6::VERSION_CLASS] >> 4 != 6 || end > packet_len {
        return Err(DropReason::Malformed);
    }
    let (source, destination) = ipv6_addresses(header);
    if is_ipv6_martian(&source) || is_mapped(&destination) {
        return Err(DropReason::Martian);
    }
    let chain = extension::walk(head, l3 + ipv6::HEADER_LEN, end, header[ipv6::NEXT_HEADER])?;
    parsed.set_offsets(l3, chain.at, end)?;
    parsed.family = Family::V6;
    parsed.plain = false;
    parsed.hop_limit = header[ipv6::HOP_LIMIT];
    parsed.dont_fragment = true;
    (parsed.source, parsed.destination) = (source, destination);
    let packet = Packet {
        head,
        l4: chain.at,
        end,
    };
    match chain.fragment {
        None => packet.transport(Family::V6, chain.protocol, &mut parsed.transport),
        Some(fragment) => packet.fragment(Family::V6, chain.protocol, fragment, &mut parsed.transport),
    }
}

/// Source and destination.
#[inline]
pub(super) fn ipv6_addresses(header: &[u8; ipv6::HEADER_LEN]) -> ([u8; 16], [u8; 16]) {
    let (mut source, mut destination) = ([0; 16], [0; 16]);
    source.copy_from_slice(&header[ipv6::SOURCE..ipv6::DESTINATION]);
    destination.copy_from_slice(&header[ipv6::DESTINATION..]);
    (source, destination)
}

/// Multicast, unspecified, loopback and IPv4-mapped sources. The last would match an IPv4 flow here, and
/// never appear on a wire (RFC 4942 section 2.2).
#[inline]
fn is_ipv6_martian(source: &[u8; 16]) -> bool {
    const LOOPBACK: u128 = 1;
    source[0] == 0xff || u128::from_be_bytes(*source) <= LOOPBACK || is_mapped(source)
}

/// A packet with a valid IP header.
struct Packet<'a> {
    head: &'a [u8],
    l4: usize,
    end: usize,
}

impl Packet<'_> {
    #[inline(always)]
    fn transport(&self, family: Family, protocol: u8, transport: &mut Transport) -> Result<(), DropReason> {
        *transport = match (family, Protocol::from_number(protocol)) {
            (_, Some(Protocol::Udp)) => self.udp(family)?,
            (_, Some(Protocol::Tcp)) => self.tcp()?,
            (_, Some(Protocol::Sctp)) => self.sctp()?,
            (Family::V4, None) if protocol == icmp::PROTOCOL_V4 => Transport::Icmp,
            (Family::V6, None) if protocol == icmp::PROTOCOL_V6 => Transport::Icmp,
            _ => return Err(DropReason::UnsupportedProtocol),
        };
        Ok(())
    }

    #[inline(always)]
    fn tcp(&self) -> Result<Transport, DropReason> {
        let header: &[u8; tcp::HEADER_LEN] = header_at(self.head, self.l4)?;
        let header_len = usize::from(header[tcp::DATA_OFFSET] >> 4) * 4;
        let payload = self.l4 + header_len;
        if header_len < tcp::HEADER_LEN || payload > self.end || payload > self.head.len() {
            return Err(DropReason::Malformed);
        }
        Ok(Transport::Tcp {
            source_port: be16(header, ports::SOURCE),
            destination_port: be16(header, ports::DESTINATION),
            flags: TcpFlags(header[tcp::FLAGS]),
            header_len,
        })
    }

    /// A UDP length below that of the IP payload is allowed (RFC 9868 puts options behind it).
    #[inline(always)]
    fn udp(&self, family: Family) -> Result<Transport, DropReason> {
        let header: &[u8; udp::HEADER_LEN] = header_at(self.head, self.l4)?;
        let length = usize::from(be16(header, udp::LENGTH));
        if length < udp::HEADER_LEN || self.l4 + length > self.end || lacks_checksum(header, family) {
            return Err(DropReason::Malformed);
        }
        Ok(Transport::Udp {
            source_port: be16(header, ports::SOURCE),
            destination_port: be16(header, ports::DESTINATION),
        })
    }

    #[cold]
    fn sctp(&self) -> Result<Transport, DropReason> {
        let header: &[u8; sctp::HEADER_LEN] = header_at(self.head, self.l4)?;
        if self.l4 + sctp::HEADER_LEN > self.end {
            return Err(DropReason::Malformed);
        }
        Ok(Transport::Sctp {
            source_port: be16(header, ports::SOURCE),
            destination_port: be16(header, ports::DESTINATION),
        })
    }

    #[cold]
    fn fragment(
        &self,
        family: Family,
        protocol: u8,
        fragment: FragmentHeader,
        transport: &mut Transport,
    ) -> Result<(), DropReason> {
        let protocol = Protocol::from_number(protocol).ok_or(DropReason::UnsupportedProtocol)?;
        let length = self.end - self.l4;
        let reassembled = usize::from(fragment.offset) + length;
        // An empty fragment, one that the next cannot adjoin, and the ping of death.
        if length == 0 || (fragment.more && !length.is_multiple_of(8)) || reassembled > usize::from(u16::MAX)
        {
            return Err(DropReason::Malformed);
        }
        let header_len = match protocol {
            Protocol::Tcp => tcp::HEADER_LEN,
            Protocol::Udp => udp::HEADER_LEN,
            // Its checksum, which other ports change, covers all fragments.
            Protocol::Sctp => return Err(DropReason::SctpFragment),
        };
        let (ports, flags) = match usize::from(fragment.offset) {
            0 if length < header_len => return Err(DropReason::Malformed),
            0 => {
                let (ports, flags) = self.first_fragment(family, protocol)?;
                (Some(ports), flags)
            }
            // The first fragment has the whole header, which this one would overwrite.
            offset if offset < header_len => return Err(DropReason::Malformed),
            _ => (None, TcpFlags(0)),
        };
        *transport = Transport::Fragment {
            protocol: protocol.number(),
            id: fragment.id,
            offset: fragment.offset,
            more: fragment.more,
            ports,
            flags,
        };
        Ok(())
    }

    /// Ports and TCP flags of a first fragment.
    fn first_fragment(
        &self,
        family: Family,
        protocol: Protocol,
    ) -> Result<((u16, u16), TcpFlags), DropReason> {
        let header: &[u8; udp::HEADER_LEN] = header_at(self.head, self.l4)?;
        let flags = match protocol {
            Protocol::Tcp => {
                let header: &[u8; tcp::HEADER_LEN] = header_at(self.head, self.l4)?;
                TcpFlags(header[tcp::FLAGS])
            }
            Protocol::Udp if lacks_checksum(header, family) => return Err(DropReason::Malformed),
            Protocol::Udp | Protocol::Sctp => TcpFlags(0),
        };
        Ok((
            (be16(header, ports::SOURCE), be16(header, ports::DESTINATION)),
            flags,
        ))
    }
}

#[inline]
fn lacks_checksum(header: &[u8; udp::HEADER_LEN], family: Family) -> bool {
    family == Family::V6 && be16(header, udp::CHECKSUM) == 0
}
