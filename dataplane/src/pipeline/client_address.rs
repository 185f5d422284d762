//! The client's address for the backend: a header of PROXY protocol version 2 at the start of the client's stream, or before
//! its datagrams, or a TCP option (TOA).
//!
//! TCP: the header goes with the segment that completes the handshake, so a backend that speaks first has it too. It is part of
//! the stream from then on: until the backend has acknowledged it, each segment that begins with the client's first byte
//! and is not new carries it again, and for the flow's life sequence numbers, acknowledgments and SACK blocks are translated
//! ([`crate::flow::Inserted`]). What gets the header is made anew in fresh frames, as segments that the receiver takes.
//!
//! The option is in the SYN and in all segments that may complete the handshake, so until the backend has sent something
//! behind its SYN: the kernel modules that read it look at the segment with which a connection is accepted.
//!
//! Flows without a header cost one comparison on the long way, and nothing on the short one: backends whose flows may have
//! headers do not take it ([`super::policy::Policy::reach`]). Flows with one are not promoted to the in-kernel path.

use vl3lb_common::{ClientAddress, DropReason, MacAddr, Protocol, Service, Timestamp};

use super::policy::Policy;
use super::refusal::Refusal;
use super::tuple::Tuple;
use super::{Engine, Signals, Verdict, emit, size};
use crate::flow::{Direction, FlowId, Flows, HotEntry, Passage};
use crate::packet::{
    self, Acknowledged, AddressOption, ChecksumPolicy, Parsed, ProxyHeader, TcpSegment, Translation,
    Transport,
};
use crate::port::{Frame, Port, packet_len};

/// A TCP header without options.
const PLAIN_TCP_HEADER: usize = 20;

/// What flows of a service carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carried {
    /// A header that is part of the stream, or of each datagram.
    Header,
    /// A header of the first datagram.
    SingleHeader,
    /// An option of the first segments.
    Option,
}

/// What goes into a packet that is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insertion {
    /// A header of PROXY protocol version 2, before the payload.
    Header,
    /// The TCP option with the client's address.
    Option,
}

/// What new flows of this service carry, if anything.
pub(super) fn carried_by(service: &Service) -> Option<Carried> {
    match (service.client_address, service.protocol) {
        (ClientAddress::ProxyV2, Protocol::Tcp | Protocol::Udp) => Some(Carried::Header),
        (ClientAddress::ProxyV2First, Protocol::Udp) => Some(Carried::SingleHeader),
        (ClientAddress::Toa, Protocol::Tcp) => Some(Carried::Option),
        (ClientAddress::None, _)
        | (ClientAddress::ProxyV2First, Protocol::Tcp)
        | (ClientAddress::Toa, Protocol::Udp)
        | (_, Protocol::Sctp) => None,
    }
}

/// Makes a new flow one that carries this.
pub(super) const fn mark(entry: &mut HotEntry, carried: Carried) {
    match carried {
        Carried::Header => entry.set_header(false),
        Carried::SingleHeader => entry.set_header(true),
        Carried::Option => entry.set_option(true),
    }
}

/// Whether flows of this service carry something behind the packet that opens them.
pub(super) fn stays_on_the_long_way(service: &Service) -> bool {
    matches!(carried_by(service), Some(Carried::Header | Carried::Option))
}

/// Checks that a datagram can be sent to `destination` with a header.
///
/// # Errors
/// It is a super-packet, whose datagrams end nowhere; a fragment, in which there is no room; or too long to be sent whole.
pub(super) fn check_datagram(
    policy: &Policy,
    parsed: &Parsed,
    destination: &[u8; 16],
) -> Result<(), Refusal> {
    if !matches!(parsed.transport, Transport::Udp { .. }) {
        return Err(DropReason::FragmentUnmatched.into());
    }
    if parsed.ip_len() > u32::from(policy.snapshot.mtu) {
        return Err(DropReason::UdpSuperPacket.into());
    }
    let mtu = size::mtu_towards(policy, destination);
    let header = header_len(&parsed.source);
    if parsed.dont_fragment && parsed.ip_len() + u32::from(header) > u32::from(mtu) {
        // As long as the client's own may be.
        return Err(Refusal::from(DropReason::MtuExceeded).too_big(mtu.saturating_sub(header)));
    }
    Ok(())
}

/// The length of a header for this client.
#[expect(clippy::cast_possible_truncation, reason = "52 at most")]
pub(super) fn header_len(client: &[u8; 16]) -> u16 {
    ProxyHeader::len_for(client) as u16
}

/// [`emit`](emit::emit) for a packet of a client whose flow has a header.
///
/// # Errors
/// As [`emit`](emit::emit).
#[cold]
#[inline(never)]
pub(super) fn emit_to_backend<F: Frame>(
    policy: &Policy,
    flows: &mut Flows,
    signals: &Signals,
    packet: &mut [F],
    (parsed, segment): (&Parsed, Option<TcpSegment>),
    (id, to): (FlowId, &Translation),
    mac: Option<MacAddr>,
) -> Result<Verdict, Refusal> {
    let entry = flows.table().entry(id);
    if entry.protocol == Protocol::Udp.number() {
        check_datagram(policy, parsed, &to.destination)?;
        emit::address_frame(policy, packet, mac);
        packet::translate(packet, parsed, to, ChecksumPolicy::Update)?;
        flows.entry_mut(id).clear_single_header();
        let limit = size::mtu_towards(policy, &to.destination);
        return Ok(Verdict::Insert {
            what: Insertion::Header,
            limit,
        });
    }
    if entry.has_option() {
        let client = (entry.client_port, entry.mss);
        return emit_with_option(policy, signals, packet, (parsed, segment), client, to, mac);
    }
    let mss = entry.mss;
    let Some(segment) = segment else {
        // A fragment without a TCP header.
        return emit::emit(policy, packet, parsed, to, mac, mss);
    };
    let is_whole = matches!(parsed.transport, Transport::Tcp { .. });
    match flows.passage(id, &segment) {
        Passage::Numbered(number) => {
            let verdict = emit::emit(policy, packet, parsed, to, mac, mss)?;
            let head = packet.first_mut().ok_or(DropReason::Internal)?;
            packet::set_sequence(head.bytes_mut(), parsed, number)?;
            Ok(verdict)
        }
        Passage::BehindHeader | Passage::Bare if is_whole => {
            // Its own sender's segments may be too long.
            if parsed.ip_len() > u32::from(policy.smallest_mtu) {
                size::fit(policy, parsed, &to.destination, mss).map(drop)?;
            }
            let limit = size::longest_payload(policy, parsed, &to.destination, mss)?;
            emit::address_frame(policy, packet, mac);
            packet::translate(packet, parsed, to, ChecksumPolicy::Update)?;
            let head = packet.first_mut().ok_or(DropReason::Internal)?;
            packet::delay_urgent(head.bytes_mut(), parsed, header_len(&parsed.source).into())?;
            Ok(Verdict::Insert {
                what: Insertion::Header,
                limit,
            })
        }
        // Nothing can be put between the fragments of a datagram.
        Passage::BehindHeader | Passage::Bare => Err(DropReason::FragmentUnmatched.into()),
    }
}

/// [`emit`](emit::emit) for a segment of a client that has an option with the client's address, if there is room.
fn emit_with_option<F: Frame>(
    policy: &Policy,
    signals: &Signals,
    packet: &mut [F],
    (parsed, segment): (&Parsed, Option<TcpSegment>),
    (client_port, mss): (u16, u16),
    to: &Translation,
    mac: Option<MacAddr>,
) -> Result<Verdict, Refusal> {
    let limit = size::mtu_towards(policy, &to.destination);
    let option = AddressOption::new(&parsed.source, client_port);
    let has_room = match (parsed.transport, segment) {
        (Transport::Tcp { flags, .. }, _) if flags.rst() => {
            return emit::emit(policy, packet, parsed, to, mac, mss);
        }
        (Transport::Tcp { header_len, .. }, Some(segment)) => {
            let length = option.bytes().len();
            // A segment size is that of a segment without options (RFC 6691).
            let segment = segment.payload as usize + header_len - PLAIN_TCP_HEADER + length;
            let frame = packet.first().map_or(0, Frame::capacity);
            option.fits(header_len)
                && parsed.end() + length <= frame
                && parsed.ip_len() as usize + length <= usize::from(limit)
                && (mss == 0 || segment <= usize::from(mss))
        }
        _ => false,
    };
    if !has_room {
        signals.stats.addresses_left_out.add(1);
        return emit::emit(policy, packet, parsed, to, mac, mss);
    }
    emit::address_frame(policy, packet, mac);
    packet::translate(packet, parsed, to, ChecksumPolicy::Update)?;
    Ok(Verdict::Insert {
        what: Insertion::Option,
        limit,
    })
}

/// Gives a translated packet of a backend the client's numbers, and its segment as the client sees it.
///
/// # Errors
/// `Internal` if `parsed` is not of this packet.
#[cold]
#[inline(never)]
pub(super) fn renumber_to_client<F: Frame>(
    flows: &mut Flows,
    packet: &mut [F],
    parsed: &Parsed,
    id: FlowId,
    segment: TcpSegment,
) -> Result<TcpSegment, DropReason> {
    if !flows.table().entry(id).has_header() {
        // It has accepted the connection, and so has seen the option.
        if !segment.flags.syn() && !segment.flags.rst() {
            flows.entry_mut(id).set_option(false);
        }
        return Ok(segment);
    }
    let inserted = flows.note_acknowledged(id, &segment);
    if !segment.flags.ack() {
        return Ok(segment);
    }
    let (acknowledgment, scale) = if segment.flags.syn() {
        (segment.acknowledgment, 0)
    } else {
        let scale = flows.table().entry(id).sequence.scale(Direction::Out);
        (inserted.to_client(segment.acknowledgment), scale)
    };
    let head = packet.first_mut().ok_or(DropReason::Internal)?.bytes_mut();
    // The client may fill what the header leaves.
    let window = u32::from(packet::tcp_window(head, parsed)?) << scale;
    let left = window.saturating_sub(inserted.unacknowledged(segment.acknowledgment));
    let to = Acknowledged {
        acknowledgment,
        window: u16::try_from(left >> scale).unwrap_or(u16::MAX),
    };
    packet::set_acknowledged(head, parsed, to, |edge| inserted.to_client(edge))?;
    Ok(TcpSegment {
        acknowledgment,
        ..segment
    })
}

impl Engine {
    /// Carries out [`Verdict::Insert`]: writes the packet with the header of its flow before its payload, or with the option,
    /// into frames of `port`, appended to `out`. The packet's own frames are no longer needed then.
    pub fn insert<P: Port>(
        &self,
        port: &mut P,
        packet: &[P::Frame],
        (what, limit): (Insertion, u16),
        now: Timestamp,
        out: &mut Vec<P::Frame>,
    ) {
        if let Err(reason) = self.try_insert(port, packet, (what, limit), now, out) {
            self.count_drop(reason);
        }
    }

    fn try_insert<P: Port>(
        &self,
        port: &mut P,
        packet: &[P::Frame],
        (what, limit): (Insertion, u16),
        now: Timestamp,
        out: &mut Vec<P::Frame>,
    ) -> Result<(), DropReason> {
        let head = packet.first().ok_or(DropReason::Internal)?.bytes();
        let parsed = packet::parse(head, packet_len(packet), self.policy.framing)?;
        let table = self.tables.flows.table();
        let local = table.find_local(&parsed.source).ok_or(DropReason::NoService)?;
        let (tuple, _) = Tuple::of(&parsed, local).ok_or(DropReason::Internal)?;
        // A later packet of the burst may have taken its place.
        let (id, _) = self.translated(&parsed, tuple, now).ok_or(DropReason::NotSyn)?;
        let entry = table.entry(id);
        if what == Insertion::Option {
            let option = AddressOption::new(&entry.client, entry.client_port);
            let mut frame = port.allocate().ok_or(DropReason::UmemExhausted)?;
            let made = option.put_into(&mut frame, packet, &parsed);
            match made {
                Ok(()) => out.push(frame),
                Err(_) => port.release(frame),
            }
            return made;
        }
        let header = ProxyHeader::new(
            tuple.protocol,
            (entry.client, entry.client_port),
            (table.local_address(entry.local), entry.service_port),
        );
        if let Transport::Udp { .. } = parsed.transport {
            return self.insert_into_datagram(port, header.bytes(), (packet, &parsed), limit, out);
        }
        packet::check_tcp(packet, &parsed)?;
        packet::segment_behind(port, header.bytes(), packet, &parsed, limit, out).map(drop)
    }

    /// A datagram that becomes too long is one that may be fragmented.
    fn insert_into_datagram<P: Port>(
        &self,
        port: &mut P,
        header: &[u8],
        (packet, parsed): (&[P::Frame], &Parsed),
        mtu: u16,
        out: &mut Vec<P::Frame>,
    ) -> Result<(), DropReason> {
        let mut frame = port.allocate().ok_or(DropReason::UmemExhausted)?;
        let made = packet::datagram_behind(&mut frame, header, packet, parsed)
            .and_then(|()| packet::parse(frame.bytes(), frame.bytes().len(), self.policy.framing));
        let fragmented = match made {
            Ok(made) if made.ip_len() <= u32::from(mtu) => {
                out.push(frame);
                return Ok(());
            }
            Ok(made) => packet::fragment(port, std::slice::from_ref(&frame), &made, mtu, out),
            Err(reason) => Err(reason),
        };
        port.release(frame);
        fragmented
    }
}
