//! The Ethernet addresses of backends and clients.
//!
//! A flow stores the MAC address of its client with a generation. It holds until the kernel's routes or this neighbour
//! change, or the balancer is attached anew: see [`vl3lb_common::next_hop::HopGenerations`].

use std::net::IpAddr;

use vl3lb_common::flow_query::WorkerEvent;
use vl3lb_common::next_hop::NextHop;
use vl3lb_common::{Backend, DropReason, MacAddr};

use super::Signals;
use super::policy::Policy;
use crate::flow::{FlowId, Flows, HotEntry};
use crate::packet::{self, Framing, Parsed};
use crate::port::Frame;

/// The next hop of a backend; `None` on a raw-IP link.
#[inline(always)]
pub(super) fn of_backend(
    policy: &Policy,
    signals: &Signals,
    backend: &Backend,
) -> Result<Option<MacAddr>, DropReason> {
    if policy.framing == Framing::RawIp {
        return Ok(None);
    }
    if backend.mac.is_some() {
        return Ok(backend.mac);
    }
    unresolved_backend(policy, signals, backend)
}

#[cold]
fn unresolved_backend(
    policy: &Policy,
    signals: &Signals,
    backend: &Backend,
) -> Result<Option<MacAddr>, DropReason> {
    let Some(neighbor) = policy.snapshot.next_hops.neighbor_of(backend.address) else {
        return Err(DropReason::NoRoute);
    };
    signals.request_neighbor(neighbor);
    Err(DropReason::NeighborUnresolved)
}

/// The MAC address for frames to the client of a packet that starts with `head`, and whether it is the kernel's. That
/// is the kernel's next hop if it has one, else the neighbour that sent the packet. So the first reply never waits for
/// ARP or ND, and the kernel's routes have precedence.
///
/// # Errors
/// [`DropReason::NoRoute`] if the kernel refuses packets to the client by a route, such as `blackhole`.
pub(super) fn of_new_client(
    policy: &Policy,
    signals: &Signals,
    client: &[u8; 16],
    head: &[u8],
) -> Result<(MacAddr, bool), DropReason> {
    if policy.framing == Framing::RawIp {
        return if policy.snapshot.next_hops.refuses(client) {
            Err(DropReason::NoRoute)
        } else {
            Ok((MacAddr::default(), true))
        };
    }
    Ok(match policy.snapshot.next_hops.resolve_octets(client) {
        NextHop::Mac(mac) => (mac, true),
        NextHop::Unresolved(neighbor) => {
            signals.request_neighbor(neighbor);
            (packet::source_mac(head), false)
        }
        NextHop::NoRoute => (packet::source_mac(head), false),
        NextHop::Refused(_) => return Err(DropReason::NoRoute),
    })
}

/// The MAC address of a flow's client after [`refresh_client`]; `None` on a raw-IP link.
#[inline(always)]
pub(super) fn of_client(policy: &Policy, entry: &HotEntry) -> Option<MacAddr> {
    (policy.framing == Framing::Ethernet).then_some(MacAddr(entry.client_mac))
}

/// Brings the MAC address of a flow's client up to date.
///
/// # Errors
/// [`DropReason::NeighborUnresolved`] if the only address known is of a former attachment, [`DropReason::NoRoute`] if the
/// kernel refuses packets to the client by a route.
#[inline(always)]
pub(super) fn refresh_client(
    policy: &Policy,
    flows: &mut Flows,
    signals: &Signals,
    id: FlowId,
) -> Result<(), DropReason> {
    if policy.framing == Framing::RawIp || policy.is_hop_current(flows.table().entry(id)) {
        return Ok(());
    }
    resolve_client(policy, flows, signals, id)
}

/// Uses the kernel's next hop. Without one, the address of the client's last packet remains in use, within one attachment,
/// until something changes.
#[inline(never)]
fn resolve_client(
    policy: &Policy,
    flows: &mut Flows,
    signals: &Signals,
    id: FlowId,
) -> Result<(), DropReason> {
    let entry = flows.table().entry(id);
    let (mac, is_learned) = match policy.snapshot.next_hops.resolve_octets(&entry.client) {
        NextHop::Mac(mac) => (mac, false),
        NextHop::Unresolved(neighbor) => {
            signals.request_neighbor(neighbor);
            (MacAddr(entry.client_mac), true)
        }
        NextHop::NoRoute => (MacAddr(entry.client_mac), true),
        NextHop::Refused(_) => return Err(DropReason::NoRoute),
    };
    if is_learned && policy.is_of_former_attachment(entry) {
        return Err(DropReason::NeighborUnresolved);
    }
    set_client_mac(policy, flows, id, mac, is_learned);
    Ok(())
}

/// Stores the client's MAC address in the generation of its bucket.
fn set_client_mac(policy: &Policy, flows: &mut Flows, id: FlowId, mac: MacAddr, is_learned: bool) {
    let entry = flows.entry_mut(id);
    let generation = policy.hop_generation(mac, &entry.client, is_learned);
    let is_same = entry.client_mac == mac.0 && entry.is_client_mac_learned() == is_learned;
    entry.set_client_mac(mac.0, is_learned, generation);
    if entry.is_promoted() && !is_same {
        flows.demote(id);
    }
}

/// Whether the client's next hop is the kernel's, and up to date.
#[inline(always)]
pub(super) fn is_client_known(policy: &Policy, entry: &HotEntry) -> bool {
    policy.framing == Framing::RawIp || (policy.is_hop_current(entry) && !entry.is_client_mac_learned())
}

/// Stores the client's MAC address after a request.
#[inline(never)]
pub(super) fn learn_client<F: Frame>(
    policy: &Policy,
    signals: &Signals,
    flows: &mut Flows,
    id: FlowId,
    parsed: &Parsed,
    packet: &[F],
) {
    let Some(head) = packet.first() else { return };
    let entry = flows.table().entry(id);
    // No frame is sent to it.
    if flows.table().is_local_client(entry.local) {
        return;
    }
    if !policy.is_hop_current(entry) {
        // A refused client's replies are dropped; what it sends still goes to the backend.
        let Ok((mac, is_known)) = of_new_client(policy, signals, &parsed.source, head.bytes()) else {
            return;
        };
        set_client_mac(policy, flows, id, mac, !is_known);
        return;
    }
    // The client may have moved behind another neighbour.
    let mac = packet::source_mac(head.bytes());
    if mac.0 != entry.client_mac {
        set_client_mac(policy, flows, id, mac, true);
    }
}

impl Signals {
    /// Asks the control side to have the kernel resolve a neighbour. Lost if the ring is full: the next packet asks
    /// again.
    fn request_neighbor(&self, neighbor: IpAddr) {
        self.report(WorkerEvent::Unresolved(neighbor));
    }

    /// Passes an event to the control side, if there is room.
    pub(super) fn report(&self, event: WorkerEvent) {
        if self.events.push(event).is_err() {
            self.stats.events_lost.add(1);
        }
    }
}
