//! Who has which address, where addresses pass from one instance to the next, as from pod to pod.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What a source knows of instances, backends or not. One that is in neither is gone, which says nothing
/// about its flows: it may be cut off and serve them still.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instances {
    /// Who has an address now, or had it last.
    pub owners: HashMap<IpAddr, Arc<str>>,
    /// Those that are known and have ended.
    pub dead: HashSet<Arc<str>>,
}

impl Instances {
    /// Whether `instance` is known to have ended.
    pub fn is_dead(&self, instance: Option<&Arc<str>>) -> bool {
        instance.is_some_and(|instance| self.dead.contains(instance))
    }

    /// Whether another instance than `instance` has `address` by now.
    pub fn is_replaced(&self, address: IpAddr, instance: Option<&Arc<str>>) -> bool {
        let owner = self.owners.get(&address).zip(instance);
        owner.is_some_and(|(owner, instance)| owner != instance)
    }
}
