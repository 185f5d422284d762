//! What is known of the cluster, in a form in which it is found, and who has which address.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use super::cache::Change;
use super::node::NodeRecord;
use super::pod::PodRecord;
use super::service::ServiceRecord;
use super::slice::SliceRecord;
use crate::discovery::{Eligibility, Instances};

/// Namespace and name.
pub(super) type Key = (String, String);

/// Everything that is known. The order in which it came to be known does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Inventory {
    /// By uid.
    pub(super) pods: HashMap<Arc<str>, Arc<PodRecord>>,
    /// Pods that say that they have an address, by uid. Those of the node's network share theirs and are
    /// left out.
    claims: HashMap<IpAddr, BTreeMap<Arc<str>, Arc<PodRecord>>>,
    /// Who has which address, and who is dead.
    pub(super) instances: Arc<Instances>,
    pub(super) services: BTreeMap<Key, Arc<ServiceRecord>>,
    /// By Service, then by name.
    pub(super) slices: BTreeMap<Key, BTreeMap<String, Arc<SliceRecord>>>,
    /// Services by the pods that are their endpoints.
    by_pod: Dependents<Arc<str>>,
    /// Services by the addresses of their endpoints.
    by_address: Dependents<IpAddr>,
    /// By node.
    pub(super) zones: HashMap<String, String>,
}

impl Inventory {
    /// Takes note of a pod. What else is touched by it, because an address changed hands.
    ///
    /// Cost: O(addresses of the pod), and a copy of who has which address after each set that was sent.
    pub(super) fn replace_pod(&mut self, pod: &Change<PodRecord>) -> Affected {
        if let Some(was) = &pod.old {
            self.pods.remove(&was.uid);
        }
        if let Some(is) = &pod.new {
            self.pods.insert(Arc::clone(&is.uid), Arc::clone(is));
        }
        let either = || pod.old.iter().chain(&pod.new);
        for member in either() {
            self.note_death(&member.uid);
        }
        let mut addresses: Vec<IpAddr> = either().flat_map(claimed).copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        let mut touched = Affected::default();
        for address in addresses {
            self.claim(address, pod, &mut touched);
        }
        for member in either() {
            touched.services.extend(self.by_pod.of(&member.uid).cloned());
        }
        touched
    }

    fn note_death(&mut self, uid: &Arc<str>) {
        let dies = self
            .pods
            .get(uid)
            .is_some_and(|pod| pod.eligibility == Eligibility::Dead);
        if dies != self.instances.is_dead(Some(uid)) {
            let dead = &mut Arc::make_mut(&mut self.instances).dead;
            let _ = if dies {
                dead.insert(Arc::clone(uid))
            } else {
                dead.remove(uid)
            };
        }
    }

    /// Follows what `pod` says about `address`.
    ///
    /// The network gives an address to the next pod as soon as the last one is dead, which may be before that
    /// is seen here, so several may claim it.
    fn claim(&mut self, address: IpAddr, pod: &Change<PodRecord>, touched: &mut Affected) {
        let claims = self.claims.entry(address).or_default();
        if let Some(was) = &pod.old {
            claims.remove(&was.uid);
        }
        if let Some(is) = pod.new.as_ref().filter(|is| claimed(is).contains(&address)) {
            claims.insert(Arc::clone(&is.uid), Arc::clone(is));
        }
        let owner = claims
            .values()
            .reduce(|owner, pod| if pod.displaces(owner) { pod } else { owner });
        let owner = owner.map(|owner| Arc::clone(&owner.uid));
        if claims.is_empty() {
            self.claims.remove(&address);
        }
        let before = self.instances.owners.get(&address);
        if before == owner.as_ref() {
            return;
        }
        touched.pods.extend(before.into_iter().chain(&owner).cloned());
        touched.services.extend(self.by_address.of(&address).cloned());
        let owners = &mut Arc::make_mut(&mut self.instances).owners;
        match owner {
            Some(owner) => owners.insert(address, owner),
            None => owners.remove(&address),
        };
    }

    /// Takes note of a Service.
    pub(super) fn replace_service(&mut self, service: Change<ServiceRecord>) {
        if let Some(was) = &service.old {
            self.services.remove(&was.key());
        }
        if let Some(is) = service.new {
            self.services.insert(is.key(), is);
        }
    }

    /// Takes note of a slice.
    pub(super) fn replace_slice(&mut self, slice: Change<SliceRecord>) {
        if let Some(was) = &slice.old {
            let key = was.service_key();
            if let Some(slices) = self.slices.get_mut(&key) {
                slices.remove(&was.name);
                if slices.is_empty() {
                    self.slices.remove(&key);
                }
            }
            for endpoint in &was.endpoints {
                self.by_address.remove(&endpoint.address, &key);
                if let Some(uid) = &endpoint.uid {
                    self.by_pod.remove(uid, &key);
                }
            }
        }
        if let Some(is) = slice.new {
            let key = is.service_key();
            for endpoint in &is.endpoints {
                self.by_address.add(endpoint.address, &key);
                if let Some(uid) = &endpoint.uid {
                    self.by_pod.add(Arc::clone(uid), &key);
                }
            }
            self.slices.entry(key).or_default().insert(is.name.clone(), is);
        }
    }

    /// Takes note of a node.
    pub(super) fn replace_node(&mut self, node: Change<NodeRecord>) {
        if let Some(was) = &node.old {
            self.zones.remove(&was.node);
        }
        if let Some(is) = &node.new {
            self.zones.insert(is.node.clone(), is.zone.clone());
        }
    }

    /// Whether another pod has an address of `pod` by now.
    pub(super) fn is_displaced(&self, pod: &PodRecord, address: IpAddr) -> bool {
        !pod.host_network && self.instances.is_replaced(address, Some(&pod.uid))
    }
}

/// What a pod's change touches beside what has to do with that pod.
#[derive(Debug, Default)]
pub(super) struct Affected {
    /// Former and new owners of addresses, by uid.
    pub(super) pods: Vec<Arc<str>>,
    /// Services with such endpoints.
    pub(super) services: Vec<Key>,
}

/// How often which Services use a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dependents<T: Hash + Eq>(HashMap<T, BTreeMap<Key, usize>>);

impl<T: Hash + Eq> Default for Dependents<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Hash + Eq> Dependents<T> {
    fn of(&self, thing: &T) -> impl Iterator<Item = &Key> {
        self.0.get(thing).into_iter().flat_map(BTreeMap::keys)
    }

    fn add(&mut self, thing: T, service: &Key) {
        let services = self.0.entry(thing).or_default();
        *services.entry(service.clone()).or_default() += 1;
    }

    fn remove(&mut self, thing: &T, service: &Key) {
        let Some(services) = self.0.get_mut(thing) else {
            return;
        };
        if let Some(times) = services.get_mut(service) {
            *times -= 1;
            if *times == 0 {
                services.remove(service);
            }
        }
        if services.is_empty() {
            self.0.remove(thing);
        }
    }
}

/// The addresses that are a pod's alone.
fn claimed(pod: &Arc<PodRecord>) -> &[IpAddr] {
    if pod.host_network { &[] } else { &pod.addresses }
}
