//! Which worker owns the flows of a service.
//!
//! All flows of a client of a service with affinity belong to one worker, chosen by the client's address alone; those of
//! other services are spread by address and ports. A request that arrives at another worker is handed over. Flows stay
//! where they are when their service changes its rule: from then on, a worker that does not know a request's flow asks
//! the owner under the former rule first.

use vl3lb_common::snapshot::MAX_SERVICES;
use vl3lb_common::{ServiceSlot, Snapshot};

/// Which worker owns the flows of one service.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ServicePlacement {
    /// The owner of the client's address, instead of that of address and ports.
    pub(super) by_client: bool,
    /// The service once had the other rule; flows under it may live on.
    pub(super) moved: bool,
}

/// Which worker owns the flows, for all services.
#[derive(Debug)]
pub(super) struct FlowPlacement {
    /// By service slot; `None` without a service.
    services: Box<[Option<ServicePlacement>]>,
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
    /// Takes over the rules of `snapshot`. O(services).
    pub(super) fn update(&mut self, snapshot: &Snapshot) {
        let services = snapshot.service_slots.iter().map(Option::as_ref);
        for (placement, service) in self
            .services
            .iter_mut()
            .zip(services.chain(std::iter::repeat(None)))
        {
            *placement = service.map(|service| {
                let by_client = !service.affinity.is_zero();
                ServicePlacement {
                    by_client,
                    moved: placement.is_some_and(|before| before.moved || before.by_client != by_client),
                }
            });
        }
        let mut placements = self.services.iter().flatten();
        self.any_by_client = placements.any(|placement| placement.by_client || placement.moved);
    }

    /// Whether any flow may belong to the owner of its client's address.
    #[inline]
    pub(super) const fn any_by_client(&self) -> bool {
        self.any_by_client
    }

    pub(super) fn of(&self, service: ServiceSlot) -> ServicePlacement {
        self.services
            .get(service.index())
            .copied()
            .flatten()
            .unwrap_or_default()
    }
}
