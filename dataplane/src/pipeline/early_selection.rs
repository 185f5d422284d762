//! Picks backend and NAT port early for flow-table misses, so that the reply bucket can be prefetched.
//!
//! Among a million flows an opening has one more cache miss than a packet of a known flow: the bucket of its reply key,
//! which is known only with backend and NAT port. So both are chosen while a group is prepared, and the bucket is
//! prefetched. That is done where the choice does not depend on the packets in between: by Maglev, without affinity and without a limit
//! of flows per backend. If an earlier packet of the group takes the port, another one is chosen on opening.

use vl3lb_common::addr::{from_octets, to_octets};
use vl3lb_common::hash::selection_hash;
use vl3lb_common::{BackendSlot, Protocol, ServiceSlot};

use super::Tables;
use super::batch::Prepared;
use super::classify::Class;
use super::lookup::Lookup;
use super::policy::Policy;
use crate::flow::{Endpoint, ReplyKey, tcp};
use crate::packet::Parsed;

/// The choices for a flow to be opened, by the snapshot in use.
#[derive(Debug, Clone, Copy)]
pub(super) struct EarlySelection {
    pub(super) service: ServiceSlot,
    pub(super) backend: BackendSlot,
    /// It was free.
    pub(super) nat_port: u16,
    /// The number that chose the port.
    pub(super) random: u64,
}

/// Selects for the packets of a group that have no flow. Kept out of the code of known flows.
#[inline(never)]
pub(super) fn select(policy: &Policy, tables: &mut Tables, group: &mut [Prepared]) {
    for prepared in group {
        if let Class::Flow = prepared.class
            && tables.flows.table().lacks(&prepared.lookup.probe)
        {
            prepared.early = select_one(policy, tables, &prepared.parsed, &prepared.lookup);
        }
    }
}

fn select_one(
    policy: &Policy,
    tables: &mut Tables,
    parsed: &Parsed,
    lookup: &Lookup,
) -> Option<EarlySelection> {
    let tuple = lookup.tuple;
    if tuple.protocol == Protocol::Tcp && !tcp::opens(lookup.flags) {
        return None;
    }
    let slot = policy.service_of(parsed, tuple)?;
    let service = policy.service(slot)?;
    if !service.affinity.is_zero() || service.max_flows.is_some() {
        return None;
    }
    let backend_slot = service
        .pool(from_octets(parsed.source))
        .pick_by_hash(selection_hash(&parsed.source, tuple.source_port))?;
    let backend = policy.snapshot.backend(backend_slot)?;
    let table = tables.flows.table();
    let endpoint = Endpoint {
        address: to_octets(backend.address),
        port: backend.port,
        protocol: tuple.protocol.number(),
        local: tuple.local,
    };
    let random = tables.selector.random();
    let nat_port = table.free_port(backend_slot, &endpoint, random)?;
    table.prefetch_reply(&ReplyKey {
        backend: endpoint.address,
        backend_port: endpoint.port,
        local: tuple.local,
        nat_port,
        protocol: endpoint.protocol,
    });
    Some(EarlySelection {
        service: slot,
        backend: backend_slot,
        nat_port,
        random,
    })
}
