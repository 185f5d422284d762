//! Reconciles the desired set into snapshots with stable slots.
//!
//! [`State`] compares the desired set with the one it published last. It is pure: time, counters and the
//! network come in, a snapshot goes out. A backend that is no longer desired drains: it gets no new flows
//! and keeps its old ones until they end or its drain time is over. Its slot is freed when no worker can
//! refer to it any more. A backend that is desired for existing flows only drains without a time limit. A
//! backend that health checks found dead loses its flows and keeps its slot.
//!
//! A service that did not change is skipped, and keeps its pools.

mod address_owners;
mod backend_state;
mod build;
mod change;
mod counts;
mod directory;
mod dirty;
mod draining;
mod merge;
mod pool;
mod record;
mod slots;
mod slow_start;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use vl3lb_common::next_hop::{Link, NextHop};
use vl3lb_common::snapshot::{
    BackendSlot, BackendState, Generation, MAX_BACKENDS, MAX_SERVICES, NatPorts, ServiceSlot, Snapshot,
};
use vl3lb_common::stats::WorkerStats;
use vl3lb_common::{MacAddr, PortSet, Timestamp};

use crate::discovery::{BackendSpec, Desired, Eligibility};
use crate::health::Findings;
use crate::network::NetworkView;

pub use change::{Changes, Event};
pub use directory::{BackendEntry, Directory, ServiceEntry};
pub use slow_start::Share;

use address_owners::AddressOwners;
use backend_state::{desired_state, finding};
use change::TransitionCounts;
use counts::{backend_counts, service_counts};
use dirty::DirtyService;
use merge::{DesiredBackend, DesiredService, ServiceIdentity};
use pool::CachedPool;
use record::{Attributes, BackendRecord, ServiceRecord};
use slots::{Slots, backend_slot, service_slot};

/// A point in time on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimePoint {
    /// The clock of the workers, for all decisions.
    pub monotonic: Timestamp,
    /// For display.
    pub wall: SystemTime,
}

/// All inputs of a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub desired: &'a Desired,
    pub network: &'a Arc<NetworkView>,
    /// The findings of health checks. Compared by pointer, so unchanged findings cost nothing.
    pub health: &'a Arc<Findings>,
    pub now: TimePoint,
    /// Counters of all workers: remaining flows, and the generation in use.
    pub workers: &'a [Arc<WorkerStats>],
}

/// A new snapshot, to be published.
#[derive(Debug, Clone)]
pub struct Update {
    pub snapshot: Arc<Snapshot>,
    pub directory: Arc<Directory>,
    pub changes: Changes,
}

/// The published state, and the data for the next update.
#[derive(Debug)]
pub struct State {
    nat_ports: NatPorts,
    kernel_ports: Arc<PortSet>,
    generation: Generation,
    services: Slots<ServiceRecord>,
    backends: Slots<BackendRecord>,
    /// Live services.
    by_service: HashMap<ServiceIdentity, ServiceSlot>,
    address_owners: AddressOwners,
    /// Slots of backends that are not desired any more and are not free yet.
    draining: BTreeSet<usize>,
    network: Option<Arc<NetworkView>>,
    /// The findings that the last update applied.
    findings: Option<Arc<Findings>>,
    problems: Vec<String>,
    transitions: TransitionCounts,
    stale: bool,
}

impl State {
    /// The state before the first snapshot.
    pub fn new(nat_ports: NatPorts) -> Self {
        Self {
            nat_ports,
            kernel_ports: Arc::default(),
            generation: Generation(0),
            services: Slots::new(MAX_SERVICES),
            backends: Slots::new(MAX_BACKENDS),
            by_service: HashMap::new(),
            address_owners: AddressOwners::default(),
            draining: BTreeSet::new(),
            network: None,
            findings: None,
            problems: Vec::new(),
            transitions: TransitionCounts::default(),
            stale: true,
        }
    }

    /// The newest snapshot; 0 before the first.
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Takes over the ports that are the kernel's, for the next [`Self::update`].
    pub fn set_kernel_ports(&mut self, ports: &Arc<PortSet>) {
        if self.kernel_ports != *ports {
            self.kernel_ports = Arc::clone(ports);
            self.stale = true;
        }
    }

    /// Makes the next [`Self::update`] return a snapshot even without changes: the last one did
    /// not reach the workers.
    pub const fn mark_stale(&mut self) {
        self.stale = true;
    }

    /// Reconciles the slots with `inputs`. Returns a snapshot if it differs from the last one.
    ///
    /// Cost: O(services), and O(its backends) for each service that changed, or that has health checks if their
    /// findings changed, with a table for each pool whose members changed. A snapshot costs a copy of all slots.
    pub fn update(&mut self, inputs: Inputs<'_>) -> Option<Update> {
        let next = Generation(self.generation.0 + 1);
        let mut changes = Changes::default();
        let mut changed = std::mem::take(&mut self.stale);
        let mut problems = inputs.desired.problems.clone();
        let desired = merge::services(inputs.desired, &inputs.network.addresses, &mut problems);
        let dirty = self.dirty(&desired, inputs, &mut problems);

        changed |= self.remove_services(&desired, next, inputs, &mut changes);
        for (identity, service) in &dirty {
            changed |= self.update_service(*identity, service, next, inputs, &mut changes);
        }
        changed |= self.end_drains(inputs, &mut changes);
        // Slots are freed before they are assigned: at capacity, services and backends that were left out get the slots of
        // ended ones in the same update.
        let has_freed = self.free_slots(inputs, &mut changes);
        for (identity, service) in &dirty {
            changed |= self.add_missing(*identity, service, next, inputs, &mut problems, &mut changes);
        }
        changes.notable = changed;
        changed |= self.advance_slow_starts(inputs.now);
        changed |= has_freed;
        changed |= self.update_network(inputs.network, &mut changes);
        if problems != self.problems {
            self.problems = problems;
            changed = true;
        }
        if !changed {
            return None;
        }
        self.generation = next;
        self.refresh_services(inputs.now, &mut changes);
        let services = self.services.iter();
        let known = services.map(|(_, service)| service.attributes.name.as_str());
        self.transitions.count(&changes, &known.collect());
        Some(Update {
            snapshot: Arc::new(self.snapshot(inputs.network)),
            directory: Arc::new(self.directory()),
            changes,
        })
    }

    /// Live services that are no longer desired lose their key, and all their backends drain.
    fn remove_services(
        &mut self,
        desired: &BTreeMap<ServiceIdentity, DesiredService<'_>>,
        next: Generation,
        inputs: Inputs<'_>,
        changes: &mut Changes,
    ) -> bool {
        let gone: Vec<ServiceSlot> = self
            .by_service
            .extract_if(|identity, _| !desired.contains_key(identity))
            .map(|(_, slot)| slot)
            .collect();
        for &slot in &gone {
            if let Some(service) = self.services.get_mut(slot.index()) {
                service.removed = Some(next);
                changes.events.push(Event::ServiceRemoved {
                    name: service.attributes.name.clone(),
                });
            }
            let Matched { gone, .. } = self.matched(slot, &[]);
            self.drain_backends(slot, &gone, "its service was removed", next, inputs, changes);
        }
        !gone.is_empty()
    }

    /// Reconciles a service that has a slot, and its backends that have one, with the desired set. Backends that are no
    /// longer desired begin to drain. Returns whether it changed.
    fn update_service(
        &mut self,
        identity: ServiceIdentity,
        service: &DirtyService<'_>,
        next: Generation,
        inputs: Inputs<'_>,
        changes: &mut Changes,
    ) -> bool {
        let Some(&slot) = self.by_service.get(&identity) else {
            return false;
        };
        let spec = service.desired.spec;
        let attributes = Attributes::from(&**spec);
        let mut changed = false;
        if let Some(record) = self.services.get_mut(slot.index())
            && record.attributes != attributes
        {
            record.attributes = attributes;
            changed = true;
        }
        let Matched { known, gone } = self.matched(slot, &service.backends);
        changed |= self.drain_backends(slot, &gone, "not desired any more", next, inputs, changes);
        for (&desired, known) in service.backends.iter().zip(known) {
            let Some((backend, record)) =
                known.and_then(|slot| Some((slot, self.backends.get_mut(slot.index())?)))
            else {
                continue;
            };
            let finding = finding(spec, desired.spec, inputs.health);
            let from = record.state;
            let to = desired_state(desired.eligibility, finding, Some(from), inputs.now);
            let is_caused = record.changed != desired.spec.changed;
            let is_updated = record.update(desired.spec, to);
            let has_transitioned = record.transition(to, next, inputs.now);
            if is_updated || has_transitioned {
                changed = true;
                self.note_draining(backend);
            }
            if has_transitioned {
                changes.backend(spec, desired, finding, Some(from), to, is_caused);
            }
        }
        self.note_stale(slot, changed);
        changed
    }

    /// Assigns slots to a service and its backends that have none. Those that do not fit are added to `problems`, and the
    /// next update tries again. Returns whether it changed.
    fn add_missing(
        &mut self,
        identity: ServiceIdentity,
        service: &DirtyService<'_>,
        next: Generation,
        inputs: Inputs<'_>,
        problems: &mut Vec<String>,
        changes: &mut Changes,
    ) -> bool {
        let spec = service.desired.spec;
        let mut is_complete = service.is_complete;
        let mut changed = false;
        let slot = match self.by_service.get(&identity) {
            Some(&slot) => slot,
            None => {
                let Some(slot) = self.add_service(identity, Attributes::from(&**spec), inputs) else {
                    problems.push(format!(
                        "service {}: all {MAX_SERVICES} places are taken, by draining services too; left out",
                        spec.name
                    ));
                    return false;
                };
                changes.events.push(Event::ServiceAdded {
                    name: spec.name.clone(),
                });
                changed = true;
                slot
            }
        };
        let Matched { known, .. } = self.matched(slot, &service.backends);
        for (&desired, known) in service.backends.iter().zip(known) {
            if known.is_some() || desired.eligibility == Eligibility::Dead {
                continue;
            }
            let finding = finding(spec, desired.spec, inputs.health);
            let to = desired_state(desired.eligibility, finding, None, inputs.now);
            if self.add_backend(slot, identity, desired.spec, to, next, inputs) {
                changed = true;
                changes.backend(spec, desired, finding, None, to, true);
            } else {
                is_complete = false;
                problems.push(format!(
                    "service {}: all {MAX_BACKENDS} places for backends are taken, by draining ones too; {} \
                     left out",
                    spec.name, desired.spec.address
                ));
            }
        }
        self.note_stale(slot, changed);
        if let Some(record) = self.services.get_mut(slot.index()) {
            record.applied = if is_complete {
                service.desired.specs().cloned().collect()
            } else {
                Vec::new()
            };
        }
        changed
    }

    /// Matches the members of a service with its `desired` backends; both are in order.
    fn matched(&self, service: ServiceSlot, desired: &[DesiredBackend<'_>]) -> Matched {
        let service = self.services.get(service.index());
        let members = service.map(|service| &service.members);
        let mut members = members.into_iter().flatten().peekable();
        let mut gone = Vec::new();
        let mut known = Vec::with_capacity(desired.len());
        for DesiredBackend { spec, .. } in desired {
            while let Some((_, &slot)) = members.next_if(|(member, _)| member.order(spec) == Ordering::Less) {
                gone.push(slot);
            }
            let member = members.next_if(|(member, _)| member.order(spec) == Ordering::Equal);
            known.push(member.map(|(_, &slot)| slot));
        }
        gone.extend(members.map(|(_, &slot)| slot));
        gone.sort_unstable();
        Matched { known, gone }
    }

    fn add_service(
        &mut self,
        identity: ServiceIdentity,
        attributes: Attributes,
        inputs: Inputs<'_>,
    ) -> Option<ServiceSlot> {
        let index = self.services.insert(|assigned| ServiceRecord {
            protocol: identity.0,
            port: identity.1,
            attributes,
            removed: None,
            state: None,
            fails_open: false,
            is_slow: false,
            emitted: None,
            since: inputs.now.wall,
            members: BTreeMap::new(),
            applied: Vec::new(),
            stale: true,
            v4: CachedPool::empty(),
            v6: CachedPool::empty(),
            backend_sockets: Arc::default(),
            baseline: assigned
                .used_before
                .then(|| service_counts(inputs.workers, service_slot(assigned.index))),
        })?;
        self.by_service.insert(identity, service_slot(index));
        Some(service_slot(index))
    }

    fn add_backend(
        &mut self,
        service: ServiceSlot,
        (protocol, ..): ServiceIdentity,
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
            mac: mac_of(inputs.network, spec.address),
            instance: spec.instance.clone(),
            weight: spec.weight,
            backup: spec.backup,
            risen: inputs.now.monotonic,
            share: Share::WHOLE,
            is_eligible: spec.eligibility == Eligibility::NewFlows,
            failing_open: false,
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
        if let Some(service) = self.services.get_mut(service.index()) {
            service.members.insert(spec.into(), backend_slot(index));
        }
        self.note_draining(backend_slot(index));
        true
    }

    /// Brings the shares of backends that came up to the time. Returns whether one changed.
    ///
    /// Cost: O(backends of services with a slow start).
    fn advance_slow_starts(&mut self, now: TimePoint) -> bool {
        let mut changed = false;
        for (_, service) in self.services.iter_mut() {
            let time = service.attributes.rules.slow_start;
            if time.is_zero() && !service.is_slow {
                continue;
            }
            service.is_slow = false;
            for &slot in service.members.values() {
                let Some(backend) = self.backends.get_mut(slot.index()) else {
                    continue;
                };
                let share = Share::at(backend.risen, time, now.monotonic);
                service.stale |= share != backend.share;
                changed |= share != backend.share;
                backend.share = share;
                service.is_slow |= share != Share::WHOLE;
            }
        }
        changed
    }

    fn update_network(&mut self, network: &Arc<NetworkView>, changes: &mut Changes) -> bool {
        let last = self.network.replace(Arc::clone(network));
        // Most views equal the last one.
        if last.as_ref() == Some(network) {
            return false;
        }
        changes.notable |=
            last.is_none_or(|last| last.addresses != network.addresses || last.mtu != network.mtu);
        for (_, backend) in self.backends.iter_mut() {
            let mac = mac_of(network, backend.address);
            if std::mem::replace(&mut backend.mac, mac) != mac
                && let Some(service) = self.services.get_mut(backend.service.index())
            {
                service.stale = true;
            }
        }
        true
    }

    fn service_name(&self, slot: ServiceSlot) -> String {
        let service = self.services.get(slot.index());
        service.map_or_else(String::new, |service| service.attributes.name.clone())
    }
}

/// Slots of the backends of a service.
struct Matched {
    /// Of each desired backend; `None` if it has none.
    known: Vec<Option<BackendSlot>>,
    /// Of all others, by slot.
    gone: Vec<BackendSlot>,
}

/// Where frames to `address` go, as far as the kernel knows.
fn mac_of(network: &NetworkView, address: IpAddr) -> Option<MacAddr> {
    match (network.next_hops.link, network.next_hops.resolve(address)) {
        (Link::Ethernet(_), NextHop::Mac(mac)) => Some(mac),
        _ => None,
    }
}
