//! The addresses that the cluster reports: of nodes, and of the pods of each namespace.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::pod::PodRecord;
use crate::discovery::Eligibility;

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    Node,
    /// A pod of this namespace that is not dead.
    Namespace(String),
}

impl Holder {
    /// The namespace of a pod.
    pub(super) fn namespace(&self) -> Option<&String> {
        match self {
            Self::Node => None,
            Self::Namespace(namespace) => Some(namespace),
        }
    }
}

/// The holders of each address, with the number of pods whose status shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ReportedAddresses(HashMap<IpAddr, BTreeMap<Holder, usize>>);

impl ReportedAddresses {
    /// The holders of `address`, a node first.
    pub(super) fn holders(&self, address: IpAddr) -> impl Iterator<Item = &Holder> {
        self.0.get(&address).into_iter().flat_map(BTreeMap::keys)
    }

    /// Adds the addresses in the status of `pod` and returns those with a new holder.
    pub(super) fn add(&mut self, pod: &PodRecord) -> Vec<IpAddr> {
        let mut changed = Vec::new();
        for (address, holder) in held(pod) {
            let times = self.0.entry(address).or_default().entry(holder).or_default();
            *times += 1;
            if *times == 1 {
                changed.push(address);
            }
        }
        changed
    }

    /// Removes the addresses in the status of `pod` and returns those that lost a holder.
    pub(super) fn remove(&mut self, pod: &PodRecord) -> Vec<IpAddr> {
        let mut changed = Vec::new();
        for (address, holder) in held(pod) {
            let Some(holders) = self.0.get_mut(&address) else {
                continue;
            };
            if let Some(times) = holders.get_mut(&holder) {
                *times -= 1;
                if *times == 0 {
                    holders.remove(&holder);
                    changed.push(address);
                }
            }
            if holders.is_empty() {
                self.0.remove(&address);
            }
        }
        changed
    }
}

/// A dead pod's address may be another one's by now; its node stays.
fn held(pod: &PodRecord) -> impl Iterator<Item = (IpAddr, Holder)> {
    let is_dead = pod.eligibility == Eligibility::Dead;
    let counts = pod
        .reported
        .iter()
        .filter(move |reported| reported.is_node || !is_dead);
    counts.map(|reported| {
        let holder = if reported.is_node {
            Holder::Node
        } else {
            Holder::Namespace(pod.namespace.clone())
        };
        (reported.address, holder)
    })
}
