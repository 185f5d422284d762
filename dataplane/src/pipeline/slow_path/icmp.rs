//! ICMP errors about packets that the balancer sent, forwarded to the end that sent the packet originally (RFC 5508
//! section 4). They change no state and refresh no timer; of a path's MTU, see [`crate::pipeline::path_mtu`].

use vl3lb_common::addr::from_octets;
use vl3lb_common::{DropReason, MacAddr, Protocol, ServiceKey, Timestamp};

use crate::flow::{FlowId, Guest};
use crate::packet::{self, ErrorClass, Family, Parsed, Quoted, Translation};
use crate::pipeline::policy::Policy;
use crate::pipeline::reject::DropContext;
use crate::pipeline::tuple::Tuple;
use crate::pipeline::{Origin, Signals, Tables, Verdict, client_address, emit, local_client, next_hop, size};
use crate::port::Frame;

/// An ICMP error on its way.
#[derive(Clone, Copy)]
pub(super) struct Error<'a> {
    pub(super) parsed: &'a Parsed,
    pub(super) quoted: &'a Quoted,
    pub(super) origin: Origin,
    pub(super) now: Timestamp,
}

/// Forwards an error to the client or the backend of the flow that it quotes, or to the worker that owns the flow.
pub(super) fn forward<F: Frame>(
    policy: &Policy,
    tables: &mut Tables,
    signals: &Signals,
    packet: &mut [F],
    error: Error<'_>,
) -> Result<Verdict, DropContext> {
    let (quoted, table) = (error.quoted, tables.flows.table());
    // The balancer sent the quoted packet.
    let local = table
        .find_local(&quoted.source)
        .ok_or(DropReason::IcmpUnmatched)?;
    // As of a packet in the opposite direction of the quoted one.
    let tuple = Tuple {
        protocol: quoted.protocol,
        source_port: quoted.destination_port,
        destination_port: quoted.source_port,
        local,
    };
    let reply_owner = policy.range_owner(tuple);
    if reply_owner == Some(policy.worker) {
        let found = |tuple: Tuple| table.reply(&tuple.reply_key(quoted.destination), error.now);
        if let Some(id) = found(tuple).or_else(|| found(local_client::tuple_of(table, tuple)?)) {
            return to_client(policy, tables, signals, packet, error, id);
        }
    }
    if let Some(id) = table.request(&tuple.request_key(quoted.destination), error.now) {
        return to_backend(policy, tables, signals, packet, error, id);
    }
    let by_ports = policy.request_owner(&quoted.destination, tuple);
    let own = ServiceKey {
        address: from_octets(quoted.source),
        port: quoted.source_port,
        protocol: quoted.protocol,
    };
    let next = match (policy.snapshot.services.get(&own), reply_owner) {
        (Some(&service), _) => {
            let client = &quoted.destination;
            let away = || {
                let guest = Guest::new(client, service);
                tables.flows.overflow_backend(guest)?;
                policy.away(error.origin, service, client, tuple)
            };
            policy
                .remote_owner(service, client, by_ports, error.origin, &error.parsed.transport)
                .map(Verdict::Handoff)
                .or_else(|| away().map(Verdict::Overflow))
        }
        (None, owner) => Some(owner.unwrap_or(by_ports))
            .filter(|&owner| owner != policy.worker && error.origin != Origin::Overflow)
            .map(Verdict::Handoff),
    };
    next.ok_or_else(|| DropReason::IcmpUnmatched.into())
}

/// An error about a packet to the backend goes to the client (RFC 5508 REQ-5).
fn to_client<F: Frame>(
    policy: &Policy,
    tables: &mut Tables,
    signals: &Signals,
    packet: &mut [F],
    error: Error<'_>,
    id: FlowId,
) -> Result<Verdict, DropContext> {
    let flows = &mut tables.flows;
    let entry = flows.table().entry(id);
    let service = entry.service();
    let inner = Translation {
        source: entry.client,
        destination: flows.table().local_address(entry.local),
        source_port: entry.client_port,
        destination_port: entry.service_port,
    };
    let is_local = flows.table().is_local_client(entry.local);
    let mac = if is_local {
        Ok(None)
    } else {
        next_hop::refresh_client(policy, flows, signals, id)
            .map(|()| next_hop::of_client(policy, flows.table().entry(id)))
    };
    let verdict = translate(policy, tables, id, packet, error, inner, mac)
        .map_err(|reason| DropContext::of(service, reason))?;
    if matches!(error.quoted.kind, ErrorClass::Unreachable) {
        tables.flows.count_unreachable(id);
    }
    if is_local {
        return Ok(Verdict::Deliver);
    }
    Ok(verdict)
}

/// An error about a packet to the client goes to the backend (RFC 5508 REQ-4).
fn to_backend<F: Frame>(
    policy: &Policy,
    tables: &mut Tables,
    signals: &Signals,
    packet: &mut [F],
    error: Error<'_>,
    id: FlowId,
) -> Result<Verdict, DropContext> {
    let flows = &tables.flows;
    let entry = flows.table().entry(id);
    let service = entry.service();
    let backend = flows.table().endpoint(entry);
    let inner = Translation {
        source: backend.address,
        destination: flows.table().local_address(entry.local),
        source_port: backend.port,
        destination_port: entry.nat_port,
    };
    let mac = policy
        .snapshot
        .backend(entry.backend())
        .ok_or(DropReason::Internal)
        .and_then(|backend| next_hop::of_backend(policy, signals, backend));
    translate(policy, tables, id, packet, error, inner, mac)
        .map_err(|reason| DropContext::of(service, reason))
}

/// Translates an error for the sender of the quoted packet, which is `inner` as that sender knows it. Only an error that
/// is sent lowers the flow's path MTU.
fn translate<F: Frame>(
    policy: &Policy,
    tables: &mut Tables,
    id: FlowId,
    packet: &mut [F],
    error: Error<'_>,
    inner: Translation,
    mac: Result<Option<MacAddr>, DropReason>,
) -> Result<Verdict, DropReason> {
    let Error { parsed, quoted, .. } = error;
    let mac = mac?;
    if parsed.hop_limit <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let head = packet.first_mut().ok_or(DropReason::Malformed)?.bytes_mut();
    let own = inner.destination;
    let entry = tables.flows.table().entry(id);
    // A quote of what the backend has sent shows the backend's own number.
    if entry.has_header() && inner.source == entry.client {
        match (quoted.protocol, quoted.kind) {
            (Protocol::Tcp, _) => {
                let inserted = tables.flows.inserted(id);
                packet::set_quoted_sequence(head, parsed, quoted, |number| inserted.to_client(number))?;
            }
            // The client's datagrams may be that much shorter.
            (Protocol::Udp, ErrorClass::TooBig { .. }) => {
                packet::reduce_mtu(head, parsed, client_address::header_len(&entry.client))?;
            }
            (Protocol::Udp | Protocol::Sctp, _) => {}
        }
    }
    packet::translate_error(head, parsed, quoted, own, inner.source, &inner)?;
    emit::address_frame(policy, packet, mac);
    let verdict = if parsed.ip_len() <= u32::from(policy.smallest_mtu) {
        Verdict::Transmit
    } else {
        // No error is sent about an error.
        size::fit(policy, parsed, &inner.source, 0).map_err(|refusal| refusal.reason)?
    };
    if let ErrorClass::TooBig { mtu } = quoted.kind
        && is_plausible(parsed.family, mtu, quoted.ip_len)
    {
        let flows = &mut tables.flows;
        tables.path_mtus.lower(flows, id, parsed.family, mtu, error.now);
    }
    Ok(verdict)
}

/// Whether a packet of `length` bytes can have met a next hop with this MTU. Over IPv6 none has less than 1,280 (RFC 8201
/// section 4); routers that know no MTU say 0 (RFC 1191 section 4).
fn is_plausible(family: Family, mtu: u32, length: u32) -> bool {
    let least = match family {
        Family::V4 => 68,
        Family::V6 => 1280,
    };
    (least..length).contains(&mtu)
}
