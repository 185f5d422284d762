//! What a packet without a flow will open one with, found out before its turn.
//!
//! Among a million flows an opening waits for memory once more than a packet that has a flow does:
//! the bucket that its reply key goes to is known only with backend and NAT port. So both are chosen
//! while the packets of a group are looked at together, and the bucket is asked for. That is done
//! where the choice does not depend on the packets in between: by Maglev, without affinity. The port
//! may be taken when the packet's turn comes; then it is chosen anew.

use vl3lb_common::addr::{from_octets, to_octets};
use vl3lb_common::hash::selection_hash;
use vl3lb_common::{BackendSlot, Protocol, ServiceSlot};

use rand::Rng;

use super::Engine;
use super::burst::{Lookup, Prepared, Subject};
use crate::flow::{ReplyKey, tcp};
use crate::packet::Parsed;

/// The choices for a flow to be opened, of the snapshot in use.
#[derive(Debug, Clone, Copy)]
pub(super) struct EarlySelection {
    pub(super) service: ServiceSlot,
    pub(super) backend: BackendSlot,
    /// It was free.
    pub(super) nat_port: u16,
}

impl Engine {
    /// Chooses for the packets that have no flow. Kept out of the way of those that have one.
    #[inline(never)]
    pub(super) fn select_early(&mut self, group: &mut [Prepared]) {
        for prepared in group {
            if let Subject::Flow(lookup) = &prepared.subject
                && self.flows.lacks(&lookup.probe)
            {
                prepared.early = self.choose(&prepared.parsed, lookup);
            }
        }
    }

    /// The choices for a packet, whose reply key's bucket is being fetched then.
    fn choose(&mut self, parsed: &Parsed, lookup: &Lookup) -> Option<EarlySelection> {
        let tuple = lookup.tuple;
        if tuple.protocol == Protocol::Tcp && !tcp::opens(lookup.flags.0) {
            return None;
        }
        let service = self.service_slot(parsed, tuple)?;
        let known = self.service(service)?;
        if !known.affinity.is_zero() {
            return None;
        }
        let slot = known
            .pool(from_octets(parsed.source))
            .pick_by_hash(selection_hash(&parsed.source, tuple.source_port))?;
        let backend = self.snapshot.backend(slot)?;
        let random = self.random.next_u64();
        let nat_port = self.flows.free_port(slot, random)?;
        self.flows.prefetch_reply(&ReplyKey {
            backend: to_octets(backend.address),
            backend_port: backend.port,
            local: tuple.local,
            nat_port,
            protocol: tuple.protocol.number(),
        });
        Some(EarlySelection {
            service,
            backend: slot,
            nat_port,
        })
    }
}
