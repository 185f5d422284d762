//! Which worker owns the flows of a service.
//!
//! All flows of a client of a service with affinity belong to one worker, chosen by the client's address alone; those of
//! other services are spread by address and ports. A request that arrives at another worker is handed over. Flows stay
//! where they are when their service changes its rule: from then on, a worker that does not know a request's flow asks
//! the owner under the former rule first, until no flow under that rule is left.

use vl3lb_common::snapshot::{Generation, MAX_SERVICES};
use vl3lb_common::{Duration, ServiceSlot, Snapshot, Timestamp};

/// How long a worker hands packets on as a former owner after it has ceased to ask one itself. The others cease within a
/// sweep, and no packet is in a ring for so long.
const LINGER: Duration = Duration::from_secs(10);

/// Which worker owns the flows of one service.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ServicePlacement {
    /// The owner of the client's address, instead of that of address and ports.
    pub(super) by_client: bool,
    /// Flows under the other rule may be open: the owner under that one is asked first.
    pub(super) asks: bool,
    /// Other workers may still ask this one as the owner under the other rule.
    pub(super) forwards: bool,
}

/// The placement of a service that is there, and its last change.
#[derive(Debug, Clone, Copy)]
struct Rule {
    placement: ServicePlacement,
    /// The snapshot with which it came into force.
    since: Generation,
    /// When no flow under the other rule was left.
    settled: Timestamp,
}

/// Which worker owns the flows, for all services.
#[derive(Debug)]
pub(super) struct FlowPlacement {
    /// By service slot; `None` without a service.
    services: Box<[Option<Rule>]>,
    any_by_client: bool,
    any_moved: bool,
}

impl Default for FlowPlacement {
    fn default() -> Self {
        Self {
            services: vec![None; MAX_SERVICES].into_boxed_slice(),
            any_by_client: false,
            any_moved: false,
        }
    }
}

impl FlowPlacement {
    /// Takes over the rules of `snapshot`. O(services).
    pub(super) fn update(&mut self, snapshot: &Snapshot) {
        let services = snapshot.service_slots.iter().map(Option::as_ref);
        for (rule, service) in self
            .services
            .iter_mut()
            .zip(services.chain(std::iter::repeat(None)))
        {
            *rule = service.map(|service| {
                let by_client = !service.affinity.is_zero();
                let unmoved = Rule {
                    placement: ServicePlacement {
                        by_client,
                        ..ServicePlacement::default()
                    },
                    since: snapshot.generation,
                    settled: Timestamp::default(),
                };
                match *rule {
                    None => unmoved,
                    Some(before) if before.placement.by_client == by_client => before,
                    Some(_) => Rule {
                        placement: ServicePlacement {
                            by_client,
                            asks: true,
                            forwards: true,
                        },
                        ..unmoved
                    },
                }
            });
        }
        self.summarize();
    }

    /// Forgets former rules under which no flow is left: new flows then need not ask the former owner. `are_gone` says so
    /// of a service, a rule (by the client's address or not), and the snapshot since which no worker opens one under it.
    /// O(services) while there is a former rule.
    pub(super) fn settle(
        &mut self,
        now: Timestamp,
        are_gone: impl Fn(ServiceSlot, bool, Generation) -> bool,
    ) {
        if !self.any_moved {
            return;
        }
        for (slot, rule) in (0..).zip(&mut self.services) {
            let Some(Rule {
                placement,
                since,
                settled,
            }) = rule
            else {
                continue;
            };
            if placement.asks {
                placement.asks = !are_gone(ServiceSlot(slot), !placement.by_client, *since);
                *settled = now;
            } else if now.since(*settled) >= LINGER {
                placement.forwards = false;
            }
        }
        self.summarize();
    }

    fn summarize(&mut self) {
        let placements = || self.services.iter().flatten().map(|rule| rule.placement);
        let any_moved = placements().any(|placement| placement.forwards);
        self.any_by_client = any_moved || placements().any(|placement| placement.by_client);
        self.any_moved = any_moved;
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
            .map(|rule| rule.placement)
            .unwrap_or_default()
    }
}
