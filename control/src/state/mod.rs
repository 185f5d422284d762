//! From what should be to what the workers are told.
//!
//! [`State`] compares the desired set with what it published before and gives out stable slots. It
//! is pure: time, counters and the network come in, a snapshot goes out. A backend that is no
//! longer desired drains: it gets no new flows, keeps its old ones until they end or its drain
//! time is over, and its slot is given to another only when no worker can still refer to it. One
//! that is desired for its old flows only drains too, without a limit of time. One that its health
//! checks found dead keeps its slot and loses its flows, until it is up again.

mod build;
mod change;
mod counts;
mod directory;
mod leaving;
mod record;
mod slots;
mod standing;
#[cfg(test)]
mod tests;
mod wanted;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use vl3lb_common::Timestamp;
use vl3lb_common::snapshot::{
    BackendSlot, BackendState, Generation, MAX_BACKENDS, MAX_SERVICES, NatPorts, ServiceSlot, Snapshot,
};
use vl3lb_common::stats::WorkerStats;

use crate::discovery::{BackendSpec, Desired, Takes};
use crate::health::Findings;
use crate::network::NetworkView;

pub use change::{Changes, Event};
pub use directory::{BackendEntry, Directory, ServiceEntry};

use change::{TransitionCounts, why};
use counts::{backend_counts, service_counts};
use record::{Attributes, BackendRecord, CachedPool, ServiceRecord};
use slots::{Slots, backend_slot, service_slot};
use standing::{finding, found, state_name, wanted_state};
use wanted::{BackendIdentity, ServiceIdentity, Wanted, WantedBackend};

/// One point in time on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The workers' clock; decides.
    pub monotonic: Timestamp,
    /// For people.
    pub wall: SystemTime,
}

/// Everything that a snapshot depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub desired: &'a Desired,
    pub network: &'a NetworkView,
    /// What health checks have found out.
    pub health: &'a Findings,
    pub now: Moment,
    /// Counters of all workers: what flows are left, and which generation is in use.
    pub workers: &'a [Arc<WorkerStats>],
}

/// A new snapshot, to be published.
#[derive(Debug, Clone)]
pub struct Update {
    pub snapshot: Arc<Snapshot>,
    pub directory: Arc<Directory>,
    pub changes: Changes,
}

/// What was published, and what is needed to go on from there.
#[derive(Debug)]
pub struct State {
    nat_ports: NatPorts,
    generation: Generation,
    services: Slots<ServiceRecord>,
    backends: Slots<BackendRecord>,
    /// Live services.
    by_service: HashMap<ServiceIdentity, ServiceSlot>,
    /// All backends, leaving ones too.
    by_backend: HashMap<(ServiceSlot, BackendIdentity), BackendSlot>,
    network: Option<NetworkView>,
    problems: Vec<String>,
    transitions: TransitionCounts,
    stale: bool,
}

impl State {
    /// Nothing published yet.
    pub fn new(nat_ports: NatPorts) -> Self {
        Self {
            nat_ports,
            generation: Generation(0),
            services: Slots::new(MAX_SERVICES),
            backends: Slots::new(MAX_BACKENDS),
            by_service: HashMap::new(),
            by_backend: HashMap::new(),
            network: None,
            problems: Vec::new(),
            transitions: TransitionCounts::default(),
            stale: true,
        }
    }

    /// The newest snapshot; 0 before the first.
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Makes the next [`Self::update`] return a snapshot even if nothing changed: the last one did
    /// not reach the workers.
    pub const fn mark_stale(&mut self) {
        self.stale = true;
    }

    /// Brings slots in line with `inputs`. A snapshot if anything changed, `None` if not.
    ///
    /// Cost: O(services + backends), and a table for each pool whose members changed.
    pub fn update(&mut self, inputs: Inputs<'_>) -> Option<Update> {
        let next = Generation(self.generation.0 + 1);
        let mut changes = Changes::default();
        let mut changed = std::mem::take(&mut self.stale);
        let mut problems = inputs.desired.problems.clone();
        let (wanted, holders) = wanted::collect(inputs.desired, &inputs.network.addresses, &mut problems);

        changed |= self.remove_services(&wanted, next, inputs, &mut changes);
        for (identity, service) in &wanted {
            changed |= self.follow_service(*identity, service, next, inputs, &mut problems, &mut changes);
        }
        changed |= self.end_drains(&holders, inputs, &mut changes);
        changes.notable = changed;
        changed |= self.free_slots(inputs, &mut changes);
        changed |= self.follow_network(inputs.network, &mut changes);
        if problems != self.problems {
            self.problems = problems;
            changed = true;
        }
        if !changed {
            return None;
        }
        self.generation = next;
        let backends = self.backend_slots(inputs.network);
        self.refresh_services(&backends, inputs.now, &mut changes);
        let services = &self.services;
        let known = |name: &str| {
            services
                .iter()
                .any(|(_, service)| service.attributes.name == name)
        };
        self.transitions.count(&changes, known);
        Some(Update {
            snapshot: Arc::new(self.snapshot(inputs.network, backends)),
            directory: Arc::new(self.directory()),
            changes,
        })
    }

    /// Live services that are no longer wanted lose their key, and all their backends drain.
    fn remove_services(
        &mut self,
        wanted: &BTreeMap<ServiceIdentity, Wanted<'_>>,
        next: Generation,
        inputs: Inputs<'_>,
        changes: &mut Changes,
    ) -> bool {
        let gone: Vec<ServiceSlot> = self
            .by_service
            .extract_if(|identity, _| !wanted.contains_key(identity))
            .map(|(_, slot)| slot)
            .collect();
        for &slot in &gone {
            if let Some(service) = self.services.get_mut(slot.index()) {
                service.removed = Some(next);
                changes.events.push(Event::ServiceRemoved {
                    name: service.attributes.name.clone(),
                });
            }
            self.drain_backends(slot, |_| false, "its service was removed", next, inputs, changes);
        }
        !gone.is_empty()
    }

    /// Creates or updates one wanted service and its backends. Whether anything changed.
    fn follow_service(
        &mut self,
        identity: ServiceIdentity,
        wanted: &Wanted<'_>,
        next: Generation,
        inputs: Inputs<'_>,
        problems: &mut Vec<String>,
        changes: &mut Changes,
    ) -> bool {
        let attributes = Attributes::from(wanted.spec);
        let mut changed = false;
        let slot = match self.by_service.get(&identity) {
            Some(&slot) => {
                if let Some(service) = self.services.get_mut(slot.index())
                    && service.attributes != attributes
                {
                    service.attributes = attributes;
                    changed = true;
                }
                slot
            }
            None => {
                let Some(slot) = self.add_service(identity, attributes, inputs) else {
                    problems.push(format!(
                        "service {}: all {MAX_SERVICES} places are taken, by draining services too; left out",
                        wanted.spec.name
                    ));
                    return false;
                };
                changes.events.push(Event::ServiceAdded {
                    name: wanted.spec.name.clone(),
                });
                changed = true;
                slot
            }
        };
        let keep = |identity: &BackendIdentity| wanted.backends.contains_key(identity);
        changed |= self.drain_backends(slot, keep, "not desired any more", next, inputs, changes);
        for (backend, &WantedBackend { spec, takes }) in &wanted.backends {
            let finding = finding(wanted.spec, spec, inputs.health);
            let known = self.by_backend.get(&(slot, backend.clone())).copied();
            let record = known.and_then(|slot| self.backends.get(slot.index()));
            let before = record.map(|record| record.state);
            let news = record.is_none_or(|record| record.changed != spec.changed);
            let to = wanted_state(takes, finding, before, inputs.now);
            let from = if let Some(record) = known.and_then(|slot| self.backends.get_mut(slot.index())) {
                changed |= record.follow(spec, to);
                let from = record.state;
                if !record.turn(to, next, inputs.now) {
                    continue;
                }
                Some(from)
            } else if takes == Takes::Nothing {
                continue;
            } else if self.add_backend(slot, identity, spec, to, next, inputs) {
                None
            } else {
                problems.push(format!(
                    "service {}: all {MAX_BACKENDS} places for backends are taken, by draining ones too; {} \
                     left out",
                    wanted.spec.name, spec.address
                ));
                continue;
            };
            let took_flows = from.is_some_and(BackendState::takes_new_flows);
            changes.added += usize::from(to.takes_new_flows() && !took_flows);
            changes.removed += usize::from(took_flows && !to.takes_new_flows());
            if news {
                let caused = spec.changed.map(|time| (spec.origin, time));
                changes.caused.extend(caused);
            }
            changed = true;
            changes.events.push(Event::Backend {
                service: wanted.spec.name.clone(),
                backend: (spec.address, spec.port).into(),
                from: from.map_or("new", state_name),
                to: state_name(to),
                reason: found(finding, from, to).map_or_else(|| why(spec.takes, takes).into(), Cow::Owned),
            });
        }
        changed
    }

    fn add_service(
        &mut self,
        (protocol, port): ServiceIdentity,
        attributes: Attributes,
        inputs: Inputs<'_>,
    ) -> Option<ServiceSlot> {
        let index = self.services.insert(|assigned| ServiceRecord {
            protocol,
            port,
            attributes,
            removed: None,
            state: None,
            told: None,
            since: inputs.now.wall,
            v4: CachedPool::empty(),
            v6: CachedPool::empty(),
            baseline: assigned
                .used_before
                .then(|| service_counts(inputs.workers, service_slot(assigned.index))),
        })?;
        self.by_service.insert((protocol, port), service_slot(index));
        Some(service_slot(index))
    }

    fn add_backend(
        &mut self,
        service: ServiceSlot,
        (protocol, _): ServiceIdentity,
        spec: &BackendSpec,
        state: BackendState,
        next: Generation,
        inputs: Inputs<'_>,
    ) -> bool {
        let index = self.backends.insert(|assigned| BackendRecord {
            service,
            assigned: next,
            protocol,
            address: spec.address,
            port: spec.port,
            instance: spec.instance.clone(),
            weight: spec.weight,
            origin: spec.origin,
            pod: spec.pod.clone(),
            state,
            held: matches!(state, BackendState::Draining { .. }),
            since: inputs.now.wall,
            left: inputs.now.wall,
            transitions: 1,
            changed: spec.changed,
            inactive_from: next,
            baseline: assigned
                .used_before
                .then(|| backend_counts(inputs.workers, backend_slot(assigned.index))),
        });
        let Some(index) = index else { return false };
        self.by_backend
            .insert((service, spec.into()), backend_slot(index));
        true
    }

    fn follow_network(&mut self, network: &NetworkView, changes: &mut Changes) -> bool {
        let last = self.network.as_ref();
        if last == Some(network) {
            return false;
        }
        changes.notable |=
            last.is_none_or(|last| last.addresses != network.addresses || last.mtu != network.mtu);
        self.network = Some(network.clone());
        true
    }

    fn service_name(&self, slot: ServiceSlot) -> String {
        let service = self.services.get(slot.index());
        service.map_or_else(String::new, |service| service.attributes.name.clone())
    }
}
