//! Everything that is known of the cluster, indexed, and the owner of each address.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use super::cache::Change;
use super::node::NodeRecord;
use super::pod::PodRecord;
use super::reported::ReportedAddresses;
use super::service::ServiceRecord;
use super::slice::SliceRecord;
use crate::discovery::{Eligibility, Instances};

/// Namespace and name.
pub(super) type Key = (String, String);

/// Everything that is known. The result does not depend on the order of changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Inventory {
    /// By uid.
    pub(super) pods: HashMap<Arc<str>, Arc<PodRecord>>,
    /// Pods with an address, by uid. Pods in the host's network share its addresses and are not among them.
    holders: HashMap<IpAddr, BTreeMap<Arc<str>, Arc<PodRecord>>>,
    /// Addresses in the status of pods.
    pub(super) reported: ReportedAddresses,
    /// Owners of addresses, and dead pods.
    pub(super) instances: Arc<Instances>,
    pub(super) services: BTreeMap<Key, Arc<ServiceRecord>>,
    /// By Service, then by name.
    pub(super) slices: BTreeMap<Key, BTreeMap<String, Arc<SliceRecord>>>,
    /// Services by the uids of their endpoints' pods.
    by_pod: Dependents<Arc<str>>,
    /// Services by the addresses of their endpoints.
    by_address: Dependents<IpAddr>,
    /// Zones by node.
    pub(super) zones: HashMap<String, String>,
}

impl Inventory {
    /// Applies a change of a pod. Returns the pods and services that it affects, beside the selections of that pod.
    ///
    /// Cost: O(addresses of the pod). The first change of an owner after a set copies the owners of all addresses.
    pub(super) fn replace_pod(&mut self, pod: &Change<PodRecord>) -> Affected {
        if let Some(old) = &pod.old {
            self.pods.remove(&old.uid);
        }
        if let Some(new) = &pod.new {
            self.pods.insert(Arc::clone(&new.uid), Arc::clone(new));
        }
        let either = || pod.old.iter().chain(&pod.new);
        for member in either() {
            self.update_dead(&member.uid);
        }
        let mut addresses: Vec<IpAddr> = either().flat_map(held).copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        let mut touched = Affected::default();
        for address in addresses {
            self.update_owner(address, pod, &mut touched);
        }
        self.update_reported(pod, &mut touched);
        for member in either() {
            touched.services.extend(self.by_pod.of(&member.uid).cloned());
        }
        touched
    }

    /// Updates the addresses in the status of pods. Claims to one that has another holder are judged again.
    fn update_reported(&mut self, pod: &Change<PodRecord>, touched: &mut Affected) {
        let is_same = |old: &Arc<PodRecord>, new: &Arc<PodRecord>| {
            let is_dead = |pod: &PodRecord| pod.eligibility == Eligibility::Dead;
            old.reported == new.reported && is_dead(old) == is_dead(new) && old.namespace == new.namespace
        };
        if let (Some(old), Some(new)) = (&pod.old, &pod.new)
            && is_same(old, new)
        {
            return;
        }
        // Added first: an address that stays is not among the changed ones.
        let mut changed: Vec<IpAddr> = Vec::new();
        changed.extend(pod.new.iter().flat_map(|new| self.reported.add(new)));
        changed.extend(pod.old.iter().flat_map(|old| self.reported.remove(old)));
        for address in changed {
            touched.services.extend(self.by_address.of(&address).cloned());
            touched.holders_changed = true;
        }
    }

    fn update_dead(&mut self, uid: &Arc<str>) {
        let is_dead = self
            .pods
            .get(uid)
            .is_some_and(|pod| pod.eligibility == Eligibility::Dead);
        if is_dead != self.instances.is_dead(Some(uid)) {
            let dead = &mut Arc::make_mut(&mut self.instances).dead;
            let _ = if is_dead {
                dead.insert(Arc::clone(uid))
            } else {
                dead.remove(uid)
            };
        }
    }

    /// Updates the holders of `address` after a change of `pod`, and its owner.
    ///
    /// The network reuses an address as soon as its pod is dead, perhaps before that is known here. So several pods may
    /// hold it.
    fn update_owner(&mut self, address: IpAddr, pod: &Change<PodRecord>, touched: &mut Affected) {
        let holders = self.holders.entry(address).or_default();
        if let Some(old) = &pod.old {
            holders.remove(&old.uid);
        }
        if let Some(new) = pod.new.as_ref().filter(|new| held(new).contains(&address)) {
            holders.insert(Arc::clone(&new.uid), Arc::clone(new));
        }
        let owner = owner_of(holders).map(|owner| Arc::clone(&owner.uid));
        if holders.is_empty() {
            self.holders.remove(&address);
        }
        let before = self.instances.owners.get(&address);
        if before == owner.as_ref() {
            return;
        }
        touched.pods.extend(before.into_iter().chain(&owner).cloned());
        // Others that claim it name the owner.
        let holders = self.holders.get(&address).into_iter().flat_map(BTreeMap::keys);
        touched.pods.extend(holders.cloned());
        touched.services.extend(self.by_address.of(&address).cloned());
        let owners = &mut Arc::make_mut(&mut self.instances).owners;
        match owner {
            Some(owner) => owners.insert(address, owner),
            None => owners.remove(&address),
        };
    }

    /// Follows a change of a Service.
    pub(super) fn replace_service(&mut self, service: Change<ServiceRecord>) {
        if let Some(old) = &service.old {
            self.services.remove(&old.key());
        }
        if let Some(new) = service.new {
            self.services.insert(new.key(), new);
        }
    }

    /// Follows a change of an EndpointSlice.
    pub(super) fn replace_slice(&mut self, slice: Change<SliceRecord>) {
        if let Some(old) = &slice.old {
            let key = old.service_key();
            if let Some(slices) = self.slices.get_mut(&key) {
                slices.remove(&old.name);
                if slices.is_empty() {
                    self.slices.remove(&key);
                }
            }
            for endpoint in &old.endpoints {
                self.by_address.remove(&endpoint.address, &key);
                if let Some(uid) = &endpoint.uid {
                    self.by_pod.remove(uid, &key);
                }
            }
        }
        if let Some(new) = slice.new {
            let key = new.service_key();
            for endpoint in &new.endpoints {
                self.by_address.add(endpoint.address, &key);
                if let Some(uid) = &endpoint.uid {
                    self.by_pod.add(Arc::clone(uid), &key);
                }
            }
            self.slices.entry(key).or_default().insert(new.name.clone(), new);
        }
    }

    /// Follows a change of a node.
    pub(super) fn replace_node(&mut self, node: Change<NodeRecord>) {
        if let Some(old) = &node.old {
            self.zones.remove(&old.node);
        }
        if let Some(new) = &node.new {
            self.zones.insert(new.node.clone(), new.zone.clone());
        }
    }

    /// The pod that has `address`, of those that do not share their node's addresses.
    pub(super) fn owner_of(&self, address: IpAddr) -> Option<&Arc<PodRecord>> {
        self.pods.get(self.instances.owners.get(&address)?)
    }

    /// Whether another pod owns `address` of `pod` by now.
    pub(super) fn is_displaced(&self, pod: &PodRecord, address: IpAddr) -> bool {
        !pod.host_network && self.instances.is_replaced(address, Some(&pod.uid))
    }
}

/// The pods and services that a change of a pod affects, beside the selections of that pod.
#[derive(Debug, Default)]
pub(super) struct Affected {
    /// Former and new owners of addresses, by uid.
    pub(super) pods: Vec<Arc<str>>,
    /// Services with the pod, or an address that changed its owner, among their endpoints.
    pub(super) services: Vec<Key>,
    /// Whether an address in the status of pods has another holder.
    pub(super) holders_changed: bool,
}

/// The Services that refer to a pod or address, each with its number of references.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dependents<T: Hash + Eq>(HashMap<T, BTreeMap<Key, usize>>);

impl<T: Hash + Eq> Default for Dependents<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Hash + Eq> Dependents<T> {
    fn of(&self, referent: &T) -> impl Iterator<Item = &Key> {
        self.0.get(referent).into_iter().flat_map(BTreeMap::keys)
    }

    fn add(&mut self, referent: T, service: &Key) {
        let services = self.0.entry(referent).or_default();
        *services.entry(service.clone()).or_default() += 1;
    }

    fn remove(&mut self, referent: &T, service: &Key) {
        let Some(services) = self.0.get_mut(referent) else {
            return;
        };
        if let Some(times) = services.get_mut(service) {
            *times -= 1;
            if *times == 0 {
                services.remove(service);
            }
        }
        if services.is_empty() {
            self.0.remove(referent);
        }
    }
}

/// The pod that has an address, of all that hold it: the newest of the living. An address that pods only claim stays in
/// the namespace that has claimed it for longest, so that no other one can take it over.
fn owner_of(holders: &BTreeMap<Arc<str>, Arc<PodRecord>>) -> Option<&Arc<PodRecord>> {
    let is_dead = |pod: &PodRecord| pod.eligibility == Eligibility::Dead;
    let first = holders
        .values()
        .min_by_key(|pod| (is_dead(pod), pod.created, Arc::clone(&pod.uid)))?;
    let keeps = |pod: &&Arc<PodRecord>| pod.claim.is_none() || pod.namespace == first.namespace;
    let holders = holders.values().filter(keeps);
    holders.reduce(|owner, pod| if pod.displaces(owner) { pod } else { owner })
}

/// The addresses that only this pod can have.
fn held(pod: &Arc<PodRecord>) -> &[IpAddr] {
    if pod.host_network { &[] } else { &pod.addresses }
}
