//! New flows: source-range check, backend, next hop, NAT port.

use vl3lb_common::addr::{from_octets, to_octets};
use vl3lb_common::{DropReason, MacAddr, Protocol, Service, ServiceSlot};

use super::early_selection::EarlySelection;
use super::policy::Policy;
use super::refusal::Refusal;
use super::refused_syns::Syn;
use super::reject::DropContext;
use super::select::{Choice, NewClient};
use super::{Context, Origin, Signals, Tables, client_address, next_hop, size};
use crate::flow::{Direction, FlowId, NewFlow, OpenError, Predecessor, State, SynNumbers, tcp};
use crate::packet::{self, Transport};
use crate::port::Frame;

/// Opens a flow of `service` for a request. Returns it with the MAC address of its backend's next hop, `None` on a raw-IP
/// link.
///
/// # Errors
/// The client may not use the service, the packet cannot open a flow, or there is no backend, next hop, table entry or
/// NAT port.
pub(super) fn admit<F: Frame>(
    policy: &Policy,
    tables: &mut Tables,
    signals: &Signals,
    packet: &[F],
    context: Context<'_>,
    (service, early, predecessor): (ServiceSlot, Option<&EarlySelection>, Predecessor),
) -> Result<(FlowId, Option<MacAddr>), DropContext> {
    let parsed = context.parsed;
    let known = policy.service(service).ok_or(DropReason::Internal)?;
    // First, so that a client that is not allowed gets no reply of any kind.
    permit(known, &parsed.source, context.tuple().source_port)
        .map_err(|reason| DropContext::of(service, reason))?;
    // The first fragment of its datagram was dropped, or its flow is gone: nobody can use this one.
    if matches!(parsed.transport, Transport::Fragment { ports: None, .. }) {
        return Err(DropContext::of(service, DropReason::FragmentUnmatched));
    }
    if parsed.hop_limit <= 1 {
        return Err(DropContext::hop_limit_exceeded(service));
    }
    let tuple = context.tuple();
    let syn = (tuple.protocol == Protocol::Tcp).then(|| Syn {
        source: parsed.source,
        ports: [tuple.source_port, tuple.destination_port],
        sequence: context.segment(packet).map_or(0, |segment| segment.sequence),
    });
    if tuple.protocol == Protocol::Udp || tcp::opens(context.tcp_flags()) {
        let is_whole = !matches!(parsed.transport, Transport::Fragment { .. });
        let is_admitted = tables.overload.admits(&parsed.source, syn, is_whole, context.now);
        if !is_admitted {
            return Err(DropContext::of(service, DropReason::Overload));
        }
    }
    open(
        policy,
        tables,
        signals,
        packet,
        context,
        (known, early, predecessor),
    )
    .map_err(|Refusal { reason, mtu }| {
        let dropped = DropContext::of(service, reason).too_big(mtu);
        match reason {
            DropReason::NoBackend | DropReason::NotSyn | DropReason::NotInit => dropped.closed_port(),
            // RFC 5508 REQ-8: without resources, the error is "communication administratively prohibited".
            DropReason::FlowTableFull
            | DropReason::NatPortsExhausted
            | DropReason::ClientLimit
            | DropReason::BackendsFull => dropped.admin_prohibited(),
            _ => dropped,
        }
    })
}

/// Whether a client may open flows of a service from this port.
pub(super) fn permit(service: &Service, client: &[u8; 16], port: u16) -> Result<(), DropReason> {
    let client = from_octets(*client);
    if !service.source_ranges.allow(client) {
        return Err(DropReason::SourceNotAllowed);
    }
    if service.backend_sockets.contains(client, port) {
        return Err(DropReason::BackendLoop);
    }
    Ok(())
}

/// Kept out of the code of known flows.
#[inline(never)]
fn open<F: Frame>(
    policy: &Policy,
    tables: &mut Tables,
    signals: &Signals,
    packet: &[F],
    context: Context<'_>,
    (service, early, predecessor): (&Service, Option<&EarlySelection>, Predecessor),
) -> Result<(FlowId, Option<MacAddr>), Refusal> {
    let Context { parsed, now, .. } = context;
    let tuple = context.tuple();
    let is_tcp = tuple.protocol == Protocol::Tcp;
    let has_handshake = tuple.protocol != Protocol::Udp;
    if has_handshake && !tcp::opens(context.tcp_flags()) {
        let reason = if is_tcp {
            DropReason::NotSyn
        } else {
            DropReason::NotInit
        };
        return Err(reason.into());
    }
    let head = packet.first().ok_or(DropReason::Malformed)?.bytes();
    let choice = match early {
        Some(early) => Choice {
            slot: early.backend,
            scheduled: true,
        },
        None => tables
            .selector
            .pick(policy, &tables.flows, signals, &NewClient::of(context), service)?,
    };
    let backend = policy.snapshot.backend(choice.slot).ok_or(DropReason::Internal)?;
    // No flow is opened by a packet that cannot be sent: it is too long, or the backend's next hop is not resolved.
    if parsed.ip_len() > size::unsuspicious_len(policy, parsed.family, 0) {
        size::fit(policy, parsed, &to_octets(backend.address), 0).map(drop)?;
    }
    let carried = client_address::carried_by(service);
    if carried.is_some() && !is_tcp {
        client_address::check_datagram(policy, parsed, &to_octets(backend.address))?;
    }
    let mac = next_hop::of_backend(policy, signals, backend)?;
    // Without next hops, routes that refuse are all that is looked up.
    if mac.is_none() && policy.snapshot.next_hops.refuses(&to_octets(backend.address)) {
        return Err(DropReason::NoRoute.into());
    }
    let (client_mac, is_known) = if tables.flows.table().is_local_client(tuple.local) {
        (MacAddr::default(), true)
    } else {
        next_hop::of_new_client(policy, signals, &parsed.source, head)?
    };
    let state = if has_handshake {
        State::Opening
    } else {
        State::Unreplied
    };
    let new = NewFlow {
        client: parsed.source,
        client_port: tuple.source_port,
        local: tuple.local,
        service_port: tuple.destination_port,
        protocol: tuple.protocol.number(),
        backend: to_octets(backend.address),
        backend_port: backend.port,
        backend_slot: choice.slot,
        service_slot: service.slot,
        client_mac: client_mac.0,
        hop_generation: policy.hop_generation(client_mac, &parsed.source, !is_known),
        timeout: tables.flows.timeout(state),
        state,
        nat_port: early.map(|early| early.nat_port),
        away: context.origin == Origin::Overflow,
        elsewhere: policy.workers > 1
            && policy
                .away(context.origin, service.slot, &parsed.source, tuple)
                .is_some(),
        syn: packet::tcp_segment(head, parsed).map(|segment| SynNumbers {
            sequence: segment.sequence,
            timestamp: packet::tcp_timestamps(head, parsed).map(|(value, _)| value),
        }),
        client_flows: policy.client_flows(service),
        predecessor,
    };
    let is_usable = |port| policy.flow_ports.contains(port);
    // The port that it chose first may be taken by now.
    let random = early.map_or_else(|| tables.selector.random(), |early| early.random);
    let id = tables
        .flows
        .open(&new, backend, now, random, is_usable)
        .map_err(|error| match error {
            OpenError::TableFull => DropReason::FlowTableFull,
            OpenError::PortsExhausted => DropReason::NatPortsExhausted,
            OpenError::ClientLimit => DropReason::ClientLimit,
        })?;
    tables.overload.opened(tables.flows.table(), id, now);
    let entry = tables.flows.entry_mut(id);
    entry.set_client_mac(client_mac.0, !is_known, entry.hop_generation);
    if let Some(carried) = carried {
        client_address::mark(entry, carried);
    }
    if is_tcp {
        entry.mss = packet::tcp_mss_option(head, parsed).unwrap_or(0);
        let scale = packet::tcp_window_scale(head, parsed);
        tables.flows.note_window_scale(id, Direction::In, scale);
    }
    tables.selector.opened(service.slot, choice);
    Ok((id, mac))
}
