//! Which backend a new flow gets.

use std::num::NonZeroU32;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use vl3lb_common::addr::from_octets;
use vl3lb_common::hash::selection_hash;
use vl3lb_common::schedule::Pool;
use vl3lb_common::snapshot::MAX_SERVICES;
use vl3lb_common::{Backend, BackendSlot, DropReason, Service, ServiceSlot, Timestamp};

use super::policy::Policy;
use super::{Context, Origin, Signals};
use crate::flow::{BackendId, Flows, Guest, ServiceClient};

/// The state of selection between flows.
#[derive(Debug)]
pub(super) struct Selector {
    /// Flows that the scheduler has placed so far, by service slot.
    round_robin: Box<[u64]>,
    random: StdRng,
}

/// A backend for a new flow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    pub(super) slot: BackendSlot,
    /// By the scheduler; else the client had this backend already.
    pub(super) scheduled: bool,
}

/// The client of a new flow, as far as its backend depends on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewClient {
    pub(super) address: [u8; 16],
    pub(super) port: u16,
    /// How its packet came to this worker.
    pub(super) origin: Origin,
    pub(super) now: Timestamp,
}

impl NewClient {
    pub(super) const fn of(context: Context<'_>) -> Self {
        Self {
            address: context.parsed.source,
            port: context.tuple().source_port,
            origin: context.origin,
            now: context.now,
        }
    }

    /// The hash by which a service chooses. With affinity it is without the port, so that other balancers and workers
    /// choose the same.
    fn hash(&self, service: &Service) -> u64 {
        let port = if service.affinity.is_zero() { self.port } else { 0 };
        selection_hash(&self.address, port)
    }
}

impl Selector {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            round_robin: vec![0; MAX_SERVICES].into_boxed_slice(),
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// A random number that chooses a NAT port.
    pub(super) fn random(&mut self) -> u64 {
        self.random.next_u64()
    }

    /// Moves the round-robin cursor after a flow was opened with `choice`.
    pub(super) fn opened(&mut self, service: ServiceSlot, choice: Choice) {
        self.round_robin[service.index()] += u64::from(choice.scheduled);
    }

    /// Picks a backend: with affinity the one that the client had, if it still takes flows, else by the scheduler. One that
    /// has as many flows as it may have is passed over.
    ///
    /// # Errors
    /// [`DropReason::NoBackend`], [`DropReason::BackendsFull`].
    pub(super) fn pick(
        &self,
        policy: &Policy,
        flows: &Flows,
        signals: &Signals,
        client: &NewClient,
        service: &Service,
    ) -> Result<Choice, DropReason> {
        let has_room = |slot| {
            let limit = service.max_flows.map(NonZeroU32::get);
            limit.is_none_or(|limit| signals.flows_of(slot) < limit.into())
        };
        if !service.affinity.is_zero() {
            let kept = self
                .kept(policy, flows, client, service)
                .and_then(|(slot, takes_flows)| takes_flows.then_some(slot));
            // The client's home, whose word counts, knows its backend.
            let known_at_home = (client.origin == Origin::Overflow)
                .then(|| flows.overflow_backend(Guest::new(&client.address, service.slot)))
                .flatten()
                .filter(|&slot| is_of(policy, service.slot, slot));
            if let Some(slot) = known_at_home.or(kept).filter(|&slot| has_room(slot)) {
                return Ok(Choice {
                    slot,
                    scheduled: false,
                });
            }
        }
        let hash = client.hash(service);
        let pool = service.pool(from_octets(client.address));
        let cursor = self.round_robin[service.slot.index()];
        let own_flows = |slot| signals.stats.backend(slot).flows.get();
        let picked = match service.max_flows {
            None => pool.pick(hash, cursor, own_flows).ok_or(DropReason::NoBackend),
            Some(_) if matches!(pool, Pool::Empty) => Err(DropReason::NoBackend),
            Some(_) => pool
                .pick_with_room(hash, cursor, own_flows, has_room)
                .ok_or(DropReason::BackendsFull),
        };
        picked.map(|slot| Choice {
            slot,
            scheduled: true,
        })
    }

    /// The backend that a client keeps by affinity, and whether it still takes flows of the service.
    pub(super) fn kept(
        &self,
        policy: &Policy,
        flows: &Flows,
        client: &NewClient,
        service: &Service,
    ) -> Option<(BackendSlot, bool)> {
        let key = ServiceClient {
            service: service.slot,
            client: client.address,
        };
        let kept = flows.kept_backend(&key, client.now)?;
        Some((kept.slot, may_keep(policy, service.slot, kept)))
    }

    /// The scheduler's choice without affinity and limits.
    pub(super) fn scheduled(
        &self,
        signals: &Signals,
        client: &NewClient,
        service: &Service,
    ) -> Option<BackendSlot> {
        let cursor = self.round_robin[service.slot.index()];
        let own_flows = |slot| signals.stats.backend(slot).flows.get();
        let pool = service.pool(from_octets(client.address));
        pool.pick(client.hash(service), cursor, own_flows)
    }
}

/// Whether the backend that a client had is still one of the service and takes flows.
fn may_keep(policy: &Policy, service: ServiceSlot, kept: BackendId) -> bool {
    let is_same = |backend: &Backend| BackendId::from(backend) == kept;
    policy.snapshot.backend(kept.slot).is_some_and(is_same) && is_of(policy, service, kept.slot)
}

/// Whether a backend is one of the service and takes flows.
pub(super) fn is_of(policy: &Policy, service: ServiceSlot, slot: BackendSlot) -> bool {
    policy
        .snapshot
        .backend(slot)
        .is_some_and(|backend| backend.service == service && backend.takes_new_flows())
}
