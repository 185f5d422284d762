//! Services whose clients keep their backend: which worker has their flows, and what it remembers.
//!
//! One worker must see all flows of such a client, so it is chosen by the client's address alone;
//! the flows of all other services are spread by address and ports. A request that comes in
//! elsewhere is handed over. A flow stays where it is when its service is switched from one rule to
//! the other: from then on, a worker that does not know a request's flow asks the owner under the
//! former rule first.

use vl3lb_common::hash::{client_hash, reduce};
use vl3lb_common::snapshot::MAX_SERVICES;
use vl3lb_common::{Backend, BackendSlot, Duration, ServiceSlot, Snapshot, Timestamp};

use super::{Engine, Origin};
use crate::flow::{AffinityEpoch, AffinityTable, BackendId, FlowId, ServiceClient};

/// Where the flows of one service live.
#[derive(Debug, Clone, Copy, Default)]
struct ServicePlacement {
    /// At the owner of the client's address, instead of that of address and ports.
    by_client: bool,
    /// It was the other rule once; flows may live there.
    moved: bool,
}

/// Where flows of all services live.
#[derive(Debug)]
pub(super) struct FlowPlacement {
    /// By service slot; `None` without a service.
    services: Box<[Option<ServicePlacement>]>,
    /// Whether any flow may live at the owner of its client's address.
    any_by_client: bool,
}

impl Default for FlowPlacement {
    fn default() -> Self {
        Self {
            services: vec![None; MAX_SERVICES].into_boxed_slice(),
            any_by_client: false,
        }
    }
}

impl FlowPlacement {
    /// Notes what `snapshot` changes. O(services).
    pub(super) fn follow(&mut self, snapshot: &Snapshot) {
        let services = snapshot.service_slots.iter().map(Option::as_ref);
        for (placed, service) in self
            .services
            .iter_mut()
            .zip(services.chain(std::iter::repeat(None)))
        {
            *placed = service.map(|service| {
                let by_client = !service.affinity.is_zero();
                ServicePlacement {
                    by_client,
                    moved: placed.is_some_and(|before| before.moved || before.by_client != by_client),
                }
            });
        }
        let mut placement = self.services.iter().flatten();
        self.any_by_client = placement.any(|placed| placed.by_client || placed.moved);
    }

    /// Whether any flow may live at the owner of its client's address.
    #[inline]
    pub(super) const fn any_by_client(&self) -> bool {
        self.any_by_client
    }

    fn of(&self, service: ServiceSlot) -> ServicePlacement {
        self.services
            .get(service.index())
            .copied()
            .flatten()
            .unwrap_or_default()
    }
}

impl Engine {
    /// The worker that a request of `service` goes to next, as its flow is not here; `None` if this
    /// one is to open it. `by_ports` is the owner by the client's address and ports.
    ///
    /// A packet passes the owner under the former rule once at most, on its way to the owner, which
    /// sends on nothing that was handed to it. So no packet goes round in circles.
    #[inline]
    pub(super) fn remote_owner(
        &self,
        service: ServiceSlot,
        client: &[u8; 16],
        by_ports: u16,
        origin: Origin,
    ) -> Option<u16> {
        if !self.placement.any_by_client || self.workers == 1 {
            return (by_ports != self.worker).then_some(by_ports);
        }
        let placed = self.placement.of(service);
        let by_client = u16::try_from(reduce(client_hash(client), u32::from(self.workers))).unwrap_or(0);
        let (owner, former) = if placed.by_client {
            (by_client, by_ports)
        } else {
            (by_ports, by_client)
        };
        let unasked = owner != self.worker || origin == Origin::Queue;
        if placed.moved && former != self.worker && unasked {
            return Some(former);
        }
        (owner != self.worker).then_some(owner)
    }

    /// The backend that a client of a service with affinity had, if it may have it again.
    pub(super) fn kept_backend(&self, key: &ServiceClient, now: Timestamp) -> Option<&Backend> {
        let kept = self.affinity.find(key, now)?;
        self.snapshot.backend(kept.slot).filter(|backend| {
            BackendId::from(*backend) == kept && backend.service == key.service && backend.takes_new_flows()
        })
    }

    /// Remembers the backend of a flow that was just opened, if its service has affinity.
    pub(super) fn keep_backend(&mut self, id: FlowId, now: Timestamp) {
        let entry = self.flows.entry(id);
        let service = ServiceSlot(entry.service_slot);
        let affinity = affinity_of(&self.snapshot, service);
        let Some(backend) = self.snapshot.backend(BackendSlot(entry.backend_slot)) else {
            return;
        };
        if affinity.is_zero() {
            return;
        }
        let key = ServiceClient {
            service,
            client: entry.client,
        };
        let begun = self.affinity.begin(&key, backend.into(), now, affinity);
        self.stats.affinity_evicted.add(u64::from(begun.evicted));
        self.flows.entry_mut(id).set_epoch(begun.epoch);
    }
}

/// A flow with affinity ends.
pub(super) fn flow_ended(
    table: &mut AffinityTable,
    snapshot: &Snapshot,
    key: &ServiceClient,
    held: (BackendSlot, AffinityEpoch),
    now: Timestamp,
) {
    table.end(key, held, now, affinity_of(snapshot, key.service));
}

/// For how long clients of a service keep their backend; zero if there is no such service.
fn affinity_of(snapshot: &Snapshot, service: ServiceSlot) -> Duration {
    let service = snapshot.service_slots.get(service.index());
    service
        .and_then(Option::as_ref)
        .map_or(Duration::ZERO, |service| service.affinity)
}
