//! Full NAT of a packet whose flow is known: both addresses are rewritten, the flow's state moves, and the packet is
//! counted.

use vl3lb_common::{DropReason, MacAddr};

use super::policy::Policy;
use super::refusal::Refusal;
use super::{Context, Signals, Tables, Verdict, client_address, emit, local_client, next_hop};
use crate::flow::{Direction, FlowId, Flows, State};
use crate::packet::{self, ChecksumPolicy, Parsed, Translation};
use crate::port::Frame;

/// Translates a request and sends it to the flow's backend, whose next hop is `mac`. The state does not move for a packet
/// that is dropped here: its receiver never sees it.
#[inline(always)]
pub(super) fn to_backend<F: Frame>(
    policy: &Policy,
    tables: &mut Tables,
    signals: &Signals,
    packet: &mut [F],
    context: Context<'_>,
    id: FlowId,
    mac: Result<Option<MacAddr>, DropReason>,
) -> Result<Verdict, Refusal> {
    let bytes = context.parsed.ip_len();
    let segment = context.segment(packet);
    let flows = &mut tables.flows;
    if !next_hop::is_client_known(policy, flows.table().entry(id)) {
        next_hop::learn_client(policy, signals, flows, id, context.parsed, packet);
    }
    let entry = flows.table().entry(id);
    let owner = entry.owner();
    let backend = flows.table().endpoint(entry);
    let to = Translation {
        source: flows.table().local_address(entry.local),
        destination: backend.address,
        source_port: entry.nat_port,
        destination_port: backend.port,
    };
    let verdict = if entry.carries_address() {
        let packet_parts = (context.parsed, segment);
        client_address::emit_to_backend(policy, flows, signals, packet, packet_parts, (id, &to), mac?)?
    } else {
        emit::emit(policy, packet, context.parsed, &to, mac?, entry.mss)?
    };
    let before = flows.advance(id, Direction::In, segment.as_ref(), bytes, context.now);
    if before == Some(State::Answered) && flows.table().entry(id).state() != State::Reset {
        // The client has acknowledged the backend's SYN.
        tables.overload.prove(&context.parsed.source, context.now);
    }
    flows.count_packet(id, owner, Direction::In, bytes);
    Ok(verdict)
}

/// Translates a reply and sends it to the flow's client, or passes it to the kernel if that is `LOCAL`.
#[inline(always)]
pub(super) fn to_client<F: Frame, const LOCAL: bool>(
    policy: &Policy,
    flows: &mut Flows,
    signals: &Signals,
    packet: &mut [F],
    context: Context<'_>,
    id: FlowId,
) -> Result<Verdict, Refusal> {
    let bytes = context.parsed.ip_len();
    let mut segment = context.segment(packet);
    if !LOCAL {
        next_hop::refresh_client(policy, flows, signals, id)?;
    }
    let entry = flows.table().entry(id);
    let owner = entry.owner();
    let mac = next_hop::of_client(policy, entry);
    let to = Translation {
        source: flows.table().local_address(entry.local),
        destination: entry.client,
        source_port: entry.service_port,
        destination_port: entry.client_port,
    };
    let carries_address = entry.carries_address();
    let verdict = if LOCAL {
        local_client::check_size(policy, context.parsed)?;
        packet::translate(packet, context.parsed, &to, ChecksumPolicy::Update)?;
        Verdict::Deliver
    } else {
        emit::emit(policy, packet, context.parsed, &to, mac, entry.mss)?
    };
    if carries_address && let Some(seen) = segment {
        let seen = client_address::renumber_to_client(flows, packet, context.parsed, id, seen)?;
        segment = Some(seen);
    }
    let before = flows.advance(id, Direction::Out, segment.as_ref(), bytes, context.now);
    if let Some(before) = before {
        changed(flows, packet, context, id, before);
    }
    flows.count_packet(id, owner, Direction::Out, bytes);
    Ok(verdict)
}

/// Takes the timestamps out of a translated SYN: see [`Flows::open`].
#[cold]
pub(super) fn without_timestamps<F: Frame>(
    packet: &mut [F],
    parsed: &Parsed,
    verdict: Verdict,
) -> Result<(), DropReason> {
    // One with so much data that it is segmented has no checksum yet.
    if !matches!(verdict, Verdict::Transmit | Verdict::Insert { .. }) {
        return Ok(());
    }
    let head = packet.first_mut().ok_or(DropReason::Internal)?;
    packet::remove_timestamps(head.bytes_mut(), parsed)
}

/// A packet of the backend has changed the flow's state, which was `before`.
#[inline(never)]
fn changed<F: Frame>(flows: &mut Flows, packet: &[F], context: Context<'_>, id: FlowId, before: State) {
    match (before, flows.table().entry(id).state()) {
        (State::Opening, State::Answered) => accepted(flows, packet, context, id),
        // It closed first, so it is the one that waits; it echoes the last timestamp that it had.
        (_, State::Finished) => {
            let head = packet.first().map(F::bytes);
            let timestamps = head.and_then(|head| packet::tcp_timestamps(head, context.parsed));
            flows.note_time_wait(id, timestamps.map(|(_, echo)| echo), context.now);
        }
        _ => {}
    }
}

/// The backend accepted a connection: counts the time that it took, and notes the segment size that both ends can take
/// and the scale of the backend's windows.
fn accepted<F: Frame>(flows: &mut Flows, packet: &[F], context: Context<'_>, id: FlowId) {
    flows.count_connect(id, context.now);
    let head = packet.first().map(F::bytes);
    let scale = head.and_then(|head| packet::tcp_window_scale(head, context.parsed));
    flows.note_window_scale(id, Direction::Out, scale);
    let offered = head.and_then(|head| packet::tcp_mss_option(head, context.parsed));
    let entry = flows.entry_mut(id);
    entry.mss = match (entry.mss, offered) {
        (mss, None) => mss,
        (0, Some(offered)) => offered,
        (mss, Some(offered)) => mss.min(offered),
    };
}
