//! Owners of addresses that are reused, as among pods.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The instances that a source knows, backends or not. An instance in neither map is gone, which is no statement about
/// its flows: it may be disconnected from the source and still serve them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instances {
    /// The present or last owner of each address.
    pub owners: HashMap<IpAddr, Arc<str>>,
    /// Instances that are known to have ended.
    pub dead: HashSet<Arc<str>>,
}

impl Instances {
    /// Whether `instance` is known to have ended.
    pub fn is_dead(&self, instance: Option<&Arc<str>>) -> bool {
        instance.is_some_and(|instance| self.dead.contains(instance))
    }

    /// Whether another instance than `instance` owns `address`.
    pub fn is_replaced(&self, address: IpAddr, instance: Option<&Arc<str>>) -> bool {
        let owner = self.owners.get(&address).zip(instance);
        owner.is_some_and(|(owner, instance)| owner != instance)
    }
}
