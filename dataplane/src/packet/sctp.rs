//! SCTP packets (RFC 9260 section 3): what their chunks say about an association, and what a NAT changes in them.
//!
//! The checksum is a CRC32c of the whole packet, without a pseudo-header (RFC 9260 section 6.8). Other ports make a new
//! one, so the old one is checked first: else a corrupt packet would become a valid one. A field of 0 is no checksum, and
//! is filled in: veth and TUN pass on what the sender's kernel leaves to its hardware, and ends that have agreed on other
//! means send none (RFC 9653).

use vl3lb_common::DropReason;

use super::field::{be16, be32, header_at, header_at_mut, ports, put, sctp};
use super::parse::{Parsed, Transport};
use crate::port::Frame;

/// What a packet says about its association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SctpPacket {
    /// The verification tag; 0 for INIT only.
    pub tag: u32,
    pub chunks: SctpChunks,
    /// The tag that packets to the sender are to have: of INIT and INIT ACK, else 0.
    pub initiate_tag: u32,
    /// ABORT or SHUTDOWN COMPLETE has the tag of the receiver's packets: the sender knows no other one (the T bit).
    pub is_reflected: bool,
}

/// The kinds of chunks that a packet has, one bit each. All that change nothing about an association are [`OTHER`](Self::OTHER).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SctpChunks(pub u16);

impl SctpChunks {
    pub(crate) const INIT: u16 = 1 << chunk::INIT;
    pub(crate) const INIT_ACK: u16 = 1 << chunk::INIT_ACK;
    pub(crate) const ABORT: u16 = 1 << chunk::ABORT;
    pub(crate) const SHUTDOWN: u16 = 1 << chunk::SHUTDOWN;
    pub(crate) const SHUTDOWN_ACK: u16 = 1 << chunk::SHUTDOWN_ACK;
    pub(crate) const ERROR: u16 = 1 << chunk::ERROR;
    pub(crate) const COOKIE_ECHO: u16 = 1 << chunk::COOKIE_ECHO;
    pub(crate) const COOKIE_ACK: u16 = 1 << chunk::COOKIE_ACK;
    pub(crate) const SHUTDOWN_COMPLETE: u16 = 1 << chunk::SHUTDOWN_COMPLETE;
    /// DATA, HEARTBEAT and the like.
    pub(crate) const OTHER: u16 = 1;

    /// Whether one of `kinds` is there.
    pub(crate) const fn has(self, kinds: u16) -> bool {
        self.0 & kinds != 0
    }
}

/// Types of chunks (RFC 9260 section 3.2).
mod chunk {
    pub(super) const INIT: u8 = 1;
    pub(super) const INIT_ACK: u8 = 2;
    pub(super) const ABORT: u8 = 6;
    pub(super) const SHUTDOWN: u8 = 7;
    pub(super) const SHUTDOWN_ACK: u8 = 8;
    pub(super) const ERROR: u8 = 9;
    pub(super) const COOKIE_ECHO: u8 = 10;
    pub(super) const COOKIE_ACK: u8 = 11;
    pub(super) const SHUTDOWN_COMPLETE: u8 = 14;

    /// In the flags of ABORT and SHUTDOWN COMPLETE.
    pub(super) const T_BIT: u8 = 1;
    pub(super) const HEADER_LEN: usize = 4;
    /// Of INIT and INIT ACK, without parameters.
    pub(super) const INIT_LEN: usize = 20;
}

/// Types of parameters of INIT and INIT ACK.
mod parameter {
    pub(super) const IPV4_ADDRESS: u16 = 5;
    pub(super) const IPV6_ADDRESS: u16 = 6;
    /// RFC 4820: skipped by all, also by those that do not know it.
    pub(super) const PADDING: u16 = 0x8005;
    pub(super) const HEADER_LEN: usize = 4;
}

/// The one chunk of a packet that the balancer sends, without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastChunk {
    kind: u8,
    tag: u32,
    is_reflected: bool,
}

impl LastChunk {
    /// Ends an association of which the receiver's tag is known.
    pub(super) const fn abort(tag: u32) -> Self {
        Self {
            kind: chunk::ABORT,
            tag,
            is_reflected: false,
        }
    }

    /// What a host that knows no association answers to a packet (RFC 9260 section 8.4); `None`: nothing.
    pub(super) const fn answer(packet: &SctpPacket) -> Option<Self> {
        let silent =
            SctpChunks::ABORT | SctpChunks::SHUTDOWN_COMPLETE | SctpChunks::COOKIE_ACK | SctpChunks::ERROR;
        if packet.chunks.has(silent) {
            return None;
        }
        if packet.chunks.has(SctpChunks::INIT) {
            return Some(Self::abort(packet.initiate_tag));
        }
        let kind = if packet.chunks.has(SctpChunks::SHUTDOWN_ACK) {
            chunk::SHUTDOWN_COMPLETE
        } else {
            chunk::ABORT
        };
        Some(Self {
            kind,
            tag: packet.tag,
            is_reflected: true,
        })
    }

    /// The packet, with its checksum.
    pub(super) fn packet(self, source_port: u16, destination_port: u16) -> [u8; LAST_LEN] {
        let mut packet = [0; LAST_LEN];
        put(&mut packet, ports::SOURCE, source_port.to_be_bytes());
        put(&mut packet, ports::DESTINATION, destination_port.to_be_bytes());
        put(&mut packet, sctp::TAG, self.tag.to_be_bytes());
        packet[sctp::HEADER_LEN] = self.kind;
        packet[sctp::HEADER_LEN + 1] = if self.is_reflected { chunk::T_BIT } else { 0 };
        const { assert!(chunk::HEADER_LEN == 4) };
        put(&mut packet, sctp::HEADER_LEN + 2, 4_u16.to_be_bytes());
        let checksum = crc32c::crc32c(&packet);
        put(&mut packet, sctp::CHECKSUM, checksum.to_le_bytes());
        packet
    }
}

/// Length of a packet with a [`LastChunk`].
pub(super) const LAST_LEN: usize = sctp::HEADER_LEN + chunk::HEADER_LEN;

/// Reads an SCTP packet, which may continue in further frames. O(chunks).
///
/// # Errors
/// `Malformed`: no chunk, one that ends behind the packet, an INIT, INIT ACK or SHUTDOWN COMPLETE with others (RFC 9260
/// section 6.10), an INIT or INIT ACK that the first frame does not hold or whose parameters are none, a tag of 0 without
/// INIT or another one with it (section 8.5.1).
pub(crate) fn sctp_packet<F: Frame>(packet: &[F], parsed: &Parsed) -> Result<SctpPacket, DropReason> {
    let malformed = DropReason::Malformed;
    let head = packet.first().ok_or(malformed)?.bytes();
    let header: &[u8; sctp::HEADER_LEN] = header_at(head, parsed.l4())?;
    let mut read = SctpPacket {
        tag: be32(header, sctp::TAG),
        chunks: SctpChunks::default(),
        initiate_tag: 0,
        is_reflected: false,
    };
    let mut at = parsed.l4() + sctp::HEADER_LEN;
    let mut count = 0_u32;
    while at < parsed.end() {
        let [kind, flags, high, low] = bytes_at(packet, at).ok_or(malformed)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < chunk::HEADER_LEN || at + length > parsed.end() {
            return Err(malformed);
        }
        let is_last_word = matches!(kind, chunk::ABORT | chunk::SHUTDOWN_COMPLETE);
        read.is_reflected |= is_last_word && flags & chunk::T_BIT != 0;
        if matches!(kind, chunk::INIT | chunk::INIT_ACK) {
            let init = head.get(at..at + length).ok_or(malformed)?;
            check_parameters(init)?;
            let tag = init.get(chunk::HEADER_LEN..).and_then(<[u8]>::first_chunk);
            read.initiate_tag = u32::from_be_bytes(*tag.ok_or(malformed)?);
        }
        read.chunks.0 |= match kind {
            1..=2 | 6..=11 | 14 => 1 << kind,
            _ => SctpChunks::OTHER,
        };
        count += 1;
        at += length.next_multiple_of(4);
    }
    let alone = SctpChunks::INIT | SctpChunks::INIT_ACK | SctpChunks::SHUTDOWN_COMPLETE;
    let is_init = read.chunks.has(SctpChunks::INIT);
    let lacks_tag = read.chunks.has(SctpChunks::INIT | SctpChunks::INIT_ACK) && read.initiate_tag == 0;
    if count == 0 || count > 1 && read.chunks.has(alone) || is_init != (read.tag == 0) || lacks_tag {
        return Err(malformed);
    }
    Ok(read)
}

/// Checks that the parameters of an INIT or INIT ACK end within it.
fn check_parameters(init: &[u8]) -> Result<(), DropReason> {
    let mut rest = init.get(chunk::INIT_LEN..).ok_or(DropReason::Malformed)?;
    while let Some(header) = rest.first_chunk::<{ parameter::HEADER_LEN }>() {
        let length = usize::from(be16(header, 2));
        if length < parameter::HEADER_LEN || length > rest.len() {
            return Err(DropReason::Malformed);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// Checks the checksum of an SCTP packet, unless it has none. O(payload).
///
/// # Errors
/// `BadChecksum`.
pub(crate) fn check_sctp<F: Frame>(packet: &[F], parsed: &Parsed) -> Result<(), DropReason> {
    let head = packet.first().ok_or(DropReason::Internal)?.bytes();
    let header: &[u8; sctp::HEADER_LEN] = header_at(head, parsed.l4())?;
    let field = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    const { assert!(sctp::CHECKSUM == 8) };
    if field == 0 || field == checksum(packet, parsed)? {
        Ok(())
    } else {
        Err(DropReason::BadChecksum)
    }
}

/// Completes a translated packet: the addresses that an INIT or INIT ACK lists become padding, since they mean nothing on
/// the other side of a NAT and both ends then know one address only; and the checksum is made anew. O(payload).
///
/// # Errors
/// `Internal` if `parsed` is not of this packet.
pub(crate) fn seal_sctp<F: Frame>(
    packet: &mut [F],
    parsed: &Parsed,
    read: &SctpPacket,
) -> Result<(), DropReason> {
    if read.chunks.has(SctpChunks::INIT | SctpChunks::INIT_ACK) {
        let head = packet.first_mut().ok_or(DropReason::Internal)?.bytes_mut();
        let from = parsed.l4() + sctp::HEADER_LEN;
        // The first frame holds the whole chunk. What pads it may be in another one.
        let end = parsed.end().min(head.len());
        let init = head.get_mut(from..end).ok_or(DropReason::Internal)?;
        hide_addresses(init);
    }
    let checksum = checksum(packet, parsed)?;
    let head = packet.first_mut().ok_or(DropReason::Internal)?.bytes_mut();
    let header: &mut [u8; sctp::HEADER_LEN] = header_at_mut(head, parsed.l4())?;
    put(header, sctp::CHECKSUM, checksum.to_le_bytes());
    Ok(())
}

/// Makes padding of the addresses in an INIT or INIT ACK, whose parameters were checked.
fn hide_addresses(init: &mut [u8]) {
    let mut at = chunk::INIT_LEN;
    while let Some(header) = init
        .get_mut(at..)
        .and_then(<[u8]>::first_chunk_mut::<{ parameter::HEADER_LEN }>)
    {
        let (kind, length) = (be16(header, 0), usize::from(be16(header, 2)));
        if matches!(kind, parameter::IPV4_ADDRESS | parameter::IPV6_ADDRESS) {
            put(header, 0, parameter::PADDING.to_be_bytes());
        }
        at += length.max(parameter::HEADER_LEN).next_multiple_of(4);
    }
}

/// CRC32c of an SCTP packet, its own field taken as 0.
fn checksum<F: Frame>(packet: &[F], parsed: &Parsed) -> Result<u32, DropReason> {
    let (first, rest) = packet.split_first().ok_or(DropReason::Internal)?;
    let head = first.bytes();
    let mut header: [u8; sctp::HEADER_LEN] = *header_at(head, parsed.l4())?;
    put(&mut header, sctp::CHECKSUM, [0; 4]);
    let mut crc = crc32c::crc32c(&header);
    let mut left = parsed.end() - parsed.l4() - sctp::HEADER_LEN;
    let behind = head.get(parsed.l4() + sctp::HEADER_LEN..).unwrap_or_default();
    for bytes in std::iter::once(behind).chain(rest.iter().map(Frame::bytes)) {
        let covered = bytes.get(..left).unwrap_or(bytes);
        crc = crc32c::crc32c_append(crc, covered);
        left -= covered.len();
    }
    Ok(crc)
}

/// The bytes at an offset that is counted over all frames.
fn bytes_at<F: Frame, const N: usize>(packet: &[F], mut at: usize) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    for frame in packet.iter().map(Frame::bytes) {
        let Some(rest) = frame.get(at..) else {
            at -= frame.len();
            continue;
        };
        let taken = rest.len().min(N - filled);
        bytes[filled..filled + taken].copy_from_slice(&rest[..taken]);
        filled += taken;
        if filled == N {
            return Some(bytes);
        }
        at = 0;
    }
    None
}

/// Ports of a parsed SCTP packet.
pub(super) const fn ports_of(parsed: &Parsed) -> Option<(u16, u16)> {
    match parsed.transport {
        Transport::Sctp {
            source_port,
            destination_port,
        } => Some((source_port, destination_port)),
        _ => None,
    }
}
