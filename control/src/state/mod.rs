//! From what should be to what the workers are told.
//!
//! [`State`] compares the desired set with what it published before and gives out stable slots. It
//! is pure: time, counters and the network come in, a snapshot goes out. A backend that is no
//! longer desired drains: it gets no new flows, keeps its old ones until they end or its drain
//! time is over, and its slot is given to another only when no worker can still refer to it. One
//! that is desired for its old flows only drains too, without a limit of time. One that its health
//! checks found dead keeps its slot and loses its flows, until it is up again.
//!
//! What did not change costs next to nothing: a service that is wanted as before is not looked at, and
//! keeps its pools.

mod build;
mod change;
mod claims;
mod counts;
mod directory;
mod leaving;
mod record;
mod slots;
mod standing;
#[cfg(test)]
mod tests;
mod unsettled;
mod wanted;

use std::borrow::Cow;
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
use vl3lb_common::{MacAddr, Timestamp};

use crate::discovery::{BackendSpec, Desired, Eligibility};
use crate::health::Findings;
use crate::network::NetworkView;

pub use change::{Changes, Event};
pub use directory::{BackendEntry, Directory, ServiceEntry};

use change::{TransitionCounts, why};
use claims::Claims;
use counts::{backend_counts, service_counts};
use record::{Attributes, BackendRecord, CachedPool, ServiceRecord};
use slots::{Slots, backend_slot, service_slot};
use standing::{finding, found, state_name, wanted_state};
use unsettled::Unsettled;
use wanted::{ServiceIdentity, Wanted, WantedBackend};

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
    pub network: &'a Arc<NetworkView>,
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
    /// Who wants which address.
    claims: Claims,
    /// Backends that leave, by slot.
    leaving: BTreeSet<usize>,
    network: Option<Arc<NetworkView>>,
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
            claims: Claims::default(),
            leaving: BTreeSet::new(),
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
    /// Cost: O(services), and O(its backends) for each service that changed or has health checks, with a
    /// table for each pool whose members changed. A snapshot costs a copy of all slots.
    pub fn update(&mut self, inputs: Inputs<'_>) -> Option<Update> {
        let next = Generation(self.generation.0 + 1);
        let mut changes = Changes::default();
        let mut changed = std::mem::take(&mut self.stale);
        let mut problems = inputs.desired.problems.clone();
        let wanted = wanted::collect(inputs.desired, &mut problems);
        let unsettled = self.unsettled(&wanted, &inputs.network.addresses, &mut problems);

        changed |= self.remove_services(&wanted, next, inputs, &mut changes);
        for (identity, service) in &unsettled {
            changed |= self.follow_service(*identity, service, next, inputs, &mut problems, &mut changes);
        }
        changed |= self.end_drains(inputs, &mut changes);
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
            let Paired { gone, .. } = self.paired(slot, &[]);
            self.drain_backends(slot, &gone, "its service was removed", next, inputs, changes);
        }
        !gone.is_empty()
    }

    /// Creates or updates one wanted service and its backends. Whether anything changed.
    fn follow_service(
        &mut self,
        identity: ServiceIdentity,
        service: &Unsettled<'_>,
        next: Generation,
        inputs: Inputs<'_>,
        problems: &mut Vec<String>,
        changes: &mut Changes,
    ) -> bool {
        let Unsettled { wanted, backends, .. } = service;
        let mut is_whole = service.is_whole;
        let attributes = Attributes::from(&**wanted.spec);
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
        let Paired { known, gone } = self.paired(slot, backends);
        changed |= self.drain_backends(slot, &gone, "not desired any more", next, inputs, changes);
        for (&WantedBackend { spec, eligibility }, known) in backends.iter().zip(known) {
            let finding = finding(wanted.spec, spec, inputs.health);
            let record = known.and_then(|slot| self.backends.get(slot.index()));
            let before = record.map(|record| record.state);
            let news = record.is_none_or(|record| record.changed != spec.changed);
            let to = wanted_state(eligibility, finding, before, inputs.now);
            let from = if let Some((slot, record)) =
                known.and_then(|slot| Some((slot, self.backends.get_mut(slot.index())?)))
            {
                let followed = record.follow(spec, to);
                let from = record.state;
                let turned = record.turn(to, next, inputs.now);
                changed |= followed;
                if followed || turned {
                    self.note_leaving(slot);
                }
                if !turned {
                    continue;
                }
                Some(from)
            } else if eligibility == Eligibility::Dead {
                continue;
            } else if self.add_backend(slot, identity, spec, to, next, inputs) {
                None
            } else {
                is_whole = false;
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
                reason: found(finding, from, to)
                    .map_or_else(|| why(spec.eligibility, eligibility).into(), Cow::Owned),
            });
        }
        if let Some(service) = self.services.get_mut(slot.index()) {
            service.stale |= changed;
            service.settled = if is_whole {
                wanted.specs().cloned().collect()
            } else {
                Vec::new()
            };
        }
        changed
    }

    /// The slots of those backends of a service that are `wanted`, both in order.
    fn paired(&self, service: ServiceSlot, wanted: &[WantedBackend<'_>]) -> Paired {
        let service = self.services.get(service.index());
        let members = service.map(|service| &service.members);
        let mut members = members.into_iter().flatten().peekable();
        let mut gone = Vec::new();
        let mut known = Vec::with_capacity(wanted.len());
        for WantedBackend { spec, .. } in wanted {
            while let Some((_, &slot)) = members.next_if(|(member, _)| member.order(spec) == Ordering::Less) {
                gone.push(slot);
            }
            let member = members.next_if(|(member, _)| member.order(spec) == Ordering::Equal);
            known.push(member.map(|(_, &slot)| slot));
        }
        gone.extend(members.map(|(_, &slot)| slot));
        gone.sort_unstable();
        Paired { known, gone }
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
            members: BTreeMap::new(),
            settled: Vec::new(),
            stale: true,
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
            mac: mac_of(inputs.network, spec.address),
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
        if let Some(service) = self.services.get_mut(service.index()) {
            service.members.insert(spec.into(), backend_slot(index));
        }
        self.note_leaving(backend_slot(index));
        true
    }

    fn follow_network(&mut self, network: &Arc<NetworkView>, changes: &mut Changes) -> bool {
        let last = self.network.replace(Arc::clone(network));
        // Told again without a change, most often.
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
struct Paired {
    /// Of each that is wanted; `None` if it has none.
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
