//! The owners of the slots of a snapshot: names and times that reports need and workers do not.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::api::{BackendTransitions, ServiceState};
use ipnet::IpNet;
use vl3lb_common::schedule::Scheduler;
use vl3lb_common::snapshot::{BackendSlot, BackendState, Generation, ServiceSlot};
use vl3lb_common::stats::{BackendStats, ServiceStats};
use vl3lb_common::{ClientAddress, Duration, Protocol};

use super::Share;
use crate::config::{ADDRESS_MARK, FlowRules, HealthCheck, ListenAddresses};
use crate::discovery::{Origin, PodPlace};
use crate::kubernetes::names::{is_qualified, qualified};

/// The owners of all slots of one snapshot, by slot.
#[derive(Debug, Clone)]
pub struct Directory {
    /// The snapshot that this belongs to.
    pub generation: Generation,
    /// Free slots are `None`.
    pub services: Vec<Option<ServiceEntry>>,
    /// Free slots are `None`.
    pub backends: Vec<Option<BackendEntry>>,
    /// Services and backends that were left out, in words, for warnings.
    pub problems: Vec<String>,
}

/// The owner of a service slot.
#[derive(Debug, Clone)]
pub struct ServiceEntry {
    pub slot: ServiceSlot,
    pub name: String,
    /// The name of the whole that this is one port or one address of; `None` if that is `name`.
    pub host: Option<String>,
    /// The namespace of its Service.
    pub namespace: Option<String>,
    /// The balancer's addresses at which it listens.
    pub addresses: ListenAddresses,
    pub protocol: Protocol,
    pub port: u16,
    pub target_port: u16,
    pub selector: BTreeMap<String, String>,
    pub scheduler: Scheduler,
    pub affinity: Duration,
    pub source_ranges: Vec<IpNet>,
    pub client_address: ClientAddress,
    pub drain: Duration,
    pub health_check: Option<HealthCheck>,
    pub rules: FlowRules,
    /// Whether all its backends are down and get new flows nevertheless.
    pub fails_open: bool,
    /// False once it was removed: its last flows are draining, and another service may have its
    /// name by now.
    pub live: bool,
    pub state: ServiceState,
    /// When it came into that state.
    pub since: SystemTime,
    /// Of its backends, since the service was added.
    pub transitions: BackendTransitions,
    /// The sum over all workers of the slot's counters when this service got it; `None` for 0.
    /// Reports subtract it from the counters.
    pub baseline: Option<Arc<ServiceStats>>,
}

/// The owner of a backend slot.
#[derive(Debug, Clone)]
pub struct BackendEntry {
    pub slot: BackendSlot,
    pub service: ServiceSlot,
    pub address: IpAddr,
    pub port: u16,
    /// The instance, such as a pod's UID, where addresses are reused.
    pub instance: Option<Arc<str>>,
    pub weight: u16,
    pub backup: bool,
    /// The share of its weight that it gets, while it starts slowly.
    pub share: Share,
    pub origin: Origin,
    /// The pod behind it, where that is known.
    pub pod: Option<Arc<PodPlace>>,
    pub state: BackendState,
    /// When it came into that state.
    pub since: SystemTime,
    /// Transitions into any state since it was added.
    pub transitions: u64,
    /// When its remaining flows are ended, while it drains with a time limit.
    pub drain_deadline: Option<SystemTime>,
    /// As [`ServiceEntry::baseline`]. Gauges were 0.
    pub baseline: Option<Arc<BackendStats>>,
}

impl ServiceEntry {
    /// Its names in the zone of the DNS.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        [Some(&self.name), self.host.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .filter(|name| !name.contains(ADDRESS_MARK))
    }

    /// That of its names that `name` is, with or without the namespace of its Service.
    pub fn name_of(&self, name: &str) -> Option<&str> {
        self.names()
            .find(|own| *own == name || self.adds_namespace(own, name))
    }

    /// `name` as all balancers of a group have it: with the namespace of its Service, since another balancer may have given
    /// the name without it to the Service of another namespace.
    pub fn group_name(&self, name: &str) -> String {
        match &self.namespace {
            Some(namespace) => qualified(name, namespace),
            None => name.to_owned(),
        }
    }

    /// Whether one of its group names is `group`.
    fn has_group_name(&self, group: &str) -> bool {
        self.names().any(|own| match self.namespace {
            Some(_) if !is_qualified(own) => self.adds_namespace(own, group),
            _ => own == group,
        })
    }

    /// All names that balancers of a group have for it.
    pub fn group_names(&self) -> impl Iterator<Item = String> {
        self.names().map(|name| self.group_name(name))
    }

    /// Whether `name` is `own` with the namespace of its Service.
    fn adds_namespace(&self, own: &str, name: &str) -> bool {
        let rest = || name.strip_prefix(own)?.strip_prefix('.');
        self.namespace.is_some() && rest() == self.namespace.as_deref()
    }
}

impl Directory {
    /// The owner of `slot`.
    pub fn service(&self, slot: ServiceSlot) -> Option<&ServiceEntry> {
        self.services.get(slot.index())?.as_ref()
    }

    /// The owner of `slot`.
    #[cfg(test)]
    pub(super) fn backend(&self, slot: BackendSlot) -> Option<&BackendEntry> {
        self.backends.get(slot.index())?.as_ref()
    }

    /// Services that get new flows.
    pub fn live_services(&self) -> impl Iterator<Item = &ServiceEntry> {
        self.services.iter().flatten().filter(|service| service.live)
    }

    /// Those of `own` at which a service of this group name listens. O(services), without an allocation for each.
    pub fn addresses_of(&self, name: &str, own: &[IpAddr]) -> Vec<IpAddr> {
        let services = self.live_services();
        let named: Vec<_> = services.filter(|service| service.has_group_name(name)).collect();
        let own = own.iter().copied();
        own.filter(|address| named.iter().any(|service| service.addresses.contains(*address)))
            .collect()
    }

    /// Backends that take new flows, or would if their weight were not 0.
    pub fn active_backends(&self) -> impl Iterator<Item = &BackendEntry> {
        let backends = self.backends.iter().flatten();
        backends.filter(|backend| backend.state.takes_new_flows())
    }
}
