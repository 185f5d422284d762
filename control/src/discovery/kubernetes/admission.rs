//! Decides which Services are served, under which names and ports.
//!
//! A Service whose name another namespace has already is served under its name with its namespace.
//!
//! Services of the configuration file come first. Then Services that are served already keep their names and ports,
//! and the rest is given to the others: first those whose status says that a balancer served them before this process
//! started, then by age.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use vl3lb_common::Protocol;

use super::inventory::Key;
use super::locality::Distribution;
use super::service::{POOL, Port, Reason, ServiceRecord};
use super::service_names::{self, ServiceNames, named_ports};
use crate::config::{self, ListenAddresses};
use crate::kubernetes::ingress::GroupIngress;
use crate::kubernetes::names::{is_qualified, qualified};

/// A server of the balancer itself: its protocol, port and name.
pub(super) type Listening = (Protocol, u16, &'static str);

/// A Service that is served, in whole or in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Whether it has the balancer's `spec.loadBalancerClass`: then its status lists the balancers' addresses.
    pub load_balancer: bool,
    /// The names of its services in the balancer, one for each port.
    pub services: Vec<String>,
    /// The addresses in its status, by group.
    pub group_ingress: Vec<GroupIngress>,
}

/// A Service or port that cannot be served. If the Service is not among those accepted, none of its ports
/// is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// One word in CamelCase, as in Kubernetes Events.
    pub reason: &'static str,
    /// A sentence for operators.
    pub message: String,
}

/// A Service that this balancer does not serve, and that has addresses of balancers in its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleStatus {
    pub namespace: String,
    pub name: String,
    /// The addresses in its status, by group.
    pub group_ingress: Vec<GroupIngress>,
    /// Whether no balancer of any configuration may serve it; otherwise another group may.
    pub unserved: bool,
}

/// A Service with the ports that are served, each under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) record: Arc<ServiceRecord>,
    /// Its own name, or that with its namespace.
    pub(super) name: String,
    pub(super) ports: Vec<(Port, String)>,
    /// The balancer's addresses at which it listens.
    pub(super) addresses: ListenAddresses,
}

/// Names and ports that are taken, each with its owner in words.
pub(super) struct Admission<'a> {
    names: ServiceNames,
    ports: HashMap<(Protocol, u16), Vec<(ListenAddresses, String)>>,
    capabilities: Capabilities,
    kubernetes: &'a config::Kubernetes,
    /// The balancer's addresses.
    own: &'a [IpAddr],
    /// The number of ports that are served, by namespace.
    served: HashMap<String, usize>,
}

/// The balancer's location and network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// Whether it knows its node.
    pub(super) node: bool,
    /// Whether it knows its zone.
    pub(super) zone: bool,
    /// Whether the addresses in EndpointSlices are those of its network.
    pub(super) endpoints: bool,
}

/// The outcome for all Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) admitted: BTreeMap<Key, Admitted>,
    /// By precedence of the Services.
    pub(super) refused: Vec<Refused>,
    pub(super) stale_statuses: Vec<StaleStatus>,
}

impl<'q> Admission<'q> {
    /// Names and ports that services of the file and the balancer's own servers take.
    pub(super) fn new(
        file: &[config::Service],
        listening: &[Listening],
        kubernetes: &'q config::Kubernetes,
        own: &'q [IpAddr],
        capabilities: Capabilities,
    ) -> Self {
        let mut admission = Self {
            names: ServiceNames::default(),
            ports: HashMap::new(),
            capabilities,
            kubernetes,
            own,
            served: HashMap::new(),
        };
        for &(protocol, port, server) in listening {
            admission.take((protocol, port), ListenAddresses::default(), server.to_owned());
        }
        for service in file {
            let owner = "a service of the configuration file";
            admission.names.take_label(&service.name, owner);
            admission.take(
                (service.protocol, service.port),
                service.addresses.clone(),
                format!("service {} of the configuration file", service.unique_name),
            );
        }
        admission
    }

    /// Decides about all of `records`, in any order. Services in `incumbents` keep the names and ports that they have
    /// there, as long as they ask for them.
    ///
    /// Cost: O(n log n) in the number of Services.
    pub(super) fn decide<'a>(
        mut self,
        records: impl Iterator<Item = &'a Arc<ServiceRecord>>,
        incumbents: &BTreeMap<Key, Admitted>,
    ) -> Decision {
        let incumbent = |record: &ServiceRecord| {
            let held = incumbents.get(&record.key());
            held.filter(|held| held.record.uid == record.uid)
        };
        let mut ordered: Vec<&Arc<ServiceRecord>> = records.collect();
        ordered.sort_by_cached_key(|record| {
            let is_new = incumbent(record).is_none();
            (
                is_new,
                is_new && !record.has_our_status,
                record.created,
                record.key(),
            )
        });
        for record in &ordered {
            if let Some(held) = incumbent(record) {
                self.reserve(record, held);
            }
        }
        let mut decision = Decision::default();
        for record in ordered {
            let unserved = record.has_stale_status();
            if unserved {
                decision.stale_statuses.push(StaleStatus::new(record, unserved));
            }
            if !record.enabled {
                continue;
            }
            let mut reasons = record.notes.clone();
            match self.admit(record, incumbent(record), &mut reasons) {
                Ok(admitted) => {
                    decision.admitted.insert(record.key(), admitted);
                }
                Err(reason) => {
                    reasons.push(reason);
                    if !unserved && !record.group_ingress.is_empty() {
                        decision.stale_statuses.push(StaleStatus::new(record, unserved));
                    }
                }
            }
            decision
                .refused
                .extend(reasons.into_iter().map(|reason| Refused::new(record, reason)));
        }
        // By name: in the order of decision, the next one would be another report although nothing has changed.
        let by_name = |one: &Refused, other: &Refused| {
            (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name))
        };
        decision.refused.sort_by(by_name);
        let name = |status: &StaleStatus| (status.namespace.clone(), status.name.clone());
        decision.stale_statuses.sort_by_cached_key(name);
        decision
    }

    /// Reserves the names and ports that `record` holds and still requests, if it can be admitted.
    fn reserve(&mut self, record: &ServiceRecord, held: &Admitted) {
        if !record.enabled || self.obstacle(record).is_some() {
            return;
        }
        let owner = owner(record);
        let Ok(addresses) = self.addresses(record, Some(held)) else {
            return;
        };
        if addresses != held.addresses {
            return;
        }
        let mut holds_any = false;
        for (port, name) in named_ports(record) {
            let key = (port.protocol, port.port);
            let held = held
                .ports
                .iter()
                .find(|(held, _)| (held.protocol, held.port) == key)
                .map(|(_, held)| held)
                .filter(|held| *held == &name || **held == qualified(&name, &record.namespace));
            let Some(name) = held else { continue };
            if self.names.conflict(name, &owner).is_none() && self.holder(key, &addresses, "").is_none() {
                self.names.take(record, name, &owner);
                self.take(key, addresses.clone(), owner.clone());
                holds_any = true;
            }
        }
        if holds_any {
            self.names.take(record, &held.name, &owner);
        }
    }

    fn admit(
        &mut self,
        record: &Arc<ServiceRecord>,
        held: Option<&Admitted>,
        notes: &mut Vec<Reason>,
    ) -> Result<Admitted, Reason> {
        if let Some(reason) = self.obstacle(record) {
            return Err(reason);
        }
        let addresses = self.addresses(record, held)?;
        self.note_ignored(record, notes);
        let owner = owner(record);
        // One that is served under its name with the namespace keeps that. Where another Service is deleted and comes again,
        // as in an upgrade, the clients of its name must not meet this one meanwhile.
        let is_long = held.is_some_and(|held| is_qualified(&held.name));
        let name = self.names.usable(record, &record.name, &owner, is_long)?;
        let is_long = is_qualified(&name);
        let mut ports = Vec::with_capacity(record.ports.len());
        for (port, port_name) in named_ports(record) {
            let key = (port.protocol, port.port);
            let mut held = held.iter().flat_map(|held| &held.ports);
            let is_long =
                is_long || held.any(|(of, held)| (of.protocol, of.port) == key && is_qualified(held));
            let named = self.names.usable(record, &port_name, &owner, is_long);
            let taken = named.as_ref().err().cloned().or_else(|| {
                let holder = self.holder(key, &addresses, &owner)?;
                let place = if addresses.are_all() {
                    String::new()
                } else {
                    format!(" at {addresses}")
                };
                let message = format!("{} {}{place} belongs to {holder}", port.protocol, port.port);
                Some(Reason::new("PortConflict", message))
            });
            if let Some(reason) = taken {
                notes.push(reason);
                continue;
            }
            let (most, _) = self.kubernetes.quota(&record.namespace);
            let served = self.served.entry(record.namespace.clone()).or_default();
            if *served >= most {
                let message = format!(
                    "{} {}: namespace {} has {served} services, allowed {most} (kubernetes.quotas)",
                    port.protocol, port.port, record.namespace
                );
                notes.push(Reason::new("QuotaExceeded", message));
                continue;
            }
            *served += 1;
            self.take(key, addresses.clone(), owner.clone());
            ports.push((port.clone(), named?));
        }
        if ports.is_empty() {
            return Err(Reason::new("NoPorts", "none of its ports is free"));
        }
        for name in ports.iter().map(|(_, name)| name).chain([&name]) {
            self.names.take(record, name, &owner);
        }
        Ok(Admitted {
            record: Arc::clone(record),
            name,
            ports,
            addresses,
        })
    }

    fn take(&mut self, key: (Protocol, u16), addresses: ListenAddresses, owner: String) {
        let holders = self.ports.entry(key).or_default();
        if !holders
            .iter()
            .any(|(of, holder)| *of == addresses && *holder == owner)
        {
            holders.push((addresses, owner));
        }
    }

    /// Who else than `owner` has a port at some of `addresses`.
    fn holder(&self, key: (Protocol, u16), addresses: &ListenAddresses, owner: &str) -> Option<&String> {
        let mut holders = self.ports.get(&key)?.iter();
        let other = holders.find(|(of, holder)| holder != owner && of.overlap(addresses));
        other.map(|(_, holder)| holder)
    }

    /// The addresses at which `record` is served: all; or of its pool those that it has, else the first of each family at
    /// which all its ports are free, else the first.
    fn addresses(&self, record: &ServiceRecord, held: Option<&Admitted>) -> Result<ListenAddresses, Reason> {
        let Some(name) = &record.pool else {
            return Ok(ListenAddresses::default());
        };
        let pools = self.kubernetes.pools.iter();
        let mut pools = pools.filter(|pool| pool.namespaces.contains(&record.namespace));
        let Some(pool) = pools.clone().find(|pool| pool.name == *name) else {
            let names: Vec<&str> = pools.by_ref().map(|pool| pool.name.as_str()).collect();
            let allowed = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            };
            let message = format!(
                "annotation {POOL}: {name:?}, allowed {allowed} (kubernetes.pools for namespace {})",
                record.namespace
            );
            return Err(Reason::new("InvalidAnnotation", message));
        };
        let own = pool.addresses.of(self.own);
        if own.is_empty() {
            let message = format!(
                "annotation {POOL}: {name:?}: none of the balancer's addresses is in that pool, allowed {}",
                pool.addresses
            );
            return Err(Reason::new("NoAddress", message));
        }
        if let Some(held) = held.filter(|held| !held.addresses.are_all()) {
            let still = ListenAddresses::exactly(held.addresses.of(&own));
            if still == held.addresses {
                return Ok(still);
            }
        }
        let owner = owner(record);
        let is_free = |address: &IpAddr| {
            let addresses = ListenAddresses::exactly([*address]);
            let mut ports = record.ports.iter();
            ports.all(|port| {
                self.holder((port.protocol, port.port), &addresses, &owner)
                    .is_none()
            })
        };
        let first = |suits: &dyn Fn(&IpAddr) -> bool| -> Vec<IpAddr> {
            let families = [IpAddr::is_ipv4 as fn(&IpAddr) -> bool, IpAddr::is_ipv6];
            let families = families.iter().filter_map(|is_in| {
                let mut own = own.iter().filter(|address| is_in(address));
                own.find(|address| suits(address))
            });
            families.copied().collect()
        };
        let free = first(&is_free);
        let chosen = if free.is_empty() { first(&|_| true) } else { free };
        Ok(ListenAddresses::exactly(chosen))
    }

    /// The reason why no port of `record` can be served.
    fn obstacle(&self, record: &ServiceRecord) -> Option<Reason> {
        let own = record.refused.clone();
        let reason = own.or_else(|| self.capabilities.missing_for(record));
        reason
            .or_else(|| {
                let named = self.names.usable(record, &record.name, &owner(record), false);
                named.err()
            })
            .or_else(|| service_names::unusable(record))
    }

    /// Notes settings of `record` that have no effect here.
    fn note_ignored(&self, record: &ServiceRecord, notes: &mut Vec<Reason>) {
        if record.distribution.needs_zone() && !self.capabilities.zone {
            notes.push(Reason::new(
                "ZoneUnknown",
                "trafficDistribution: the balancer does not know its zone: set NODE_ZONE, or NODE_NAME and \
                 kubernetes.topology",
            ));
        }
        if record.publish_not_ready && !self.capabilities.endpoints {
            notes.push(Reason::new(
                "NotReadyAddresses",
                "publishNotReadyAddresses needs kubernetes.addressFrom: pod-ip; ignored",
            ));
        }
    }
}

impl Capabilities {
    /// Why `record` cannot be served with these.
    fn missing_for(self, record: &ServiceRecord) -> Option<Reason> {
        if record.distribution == Distribution::LocalOnly && !self.node {
            return Some(Reason::new(
                "NodeUnknown",
                "traffic policy Local: the balancer does not know its node: set NODE_NAME",
            ));
        }
        (record.selector.is_none() && !self.endpoints).then(|| {
            Reason::new(
                "NoSelector",
                "a Service without a selector has pod IPs only, and kubernetes.addressFrom asks for others",
            )
        })
    }
}

fn owner(record: &ServiceRecord) -> String {
    format!("Service {}/{}", record.namespace, record.name)
}

impl Admitted {
    pub(super) fn accepted(&self) -> Accepted {
        Accepted {
            namespace: self.record.namespace.clone(),
            name: self.record.name.clone(),
            uid: self.record.uid.to_string(),
            load_balancer: self.record.load_balancer,
            services: self.ports.iter().map(|(_, name)| name.clone()).collect(),
            group_ingress: self.record.group_ingress.clone(),
        }
    }
}

impl StaleStatus {
    fn new(record: &ServiceRecord, unserved: bool) -> Self {
        Self {
            namespace: record.namespace.clone(),
            name: record.name.clone(),
            group_ingress: record.group_ingress.clone(),
            unserved,
        }
    }
}

impl Refused {
    pub(super) fn new(record: &ServiceRecord, reason: Reason) -> Self {
        Self {
            namespace: record.namespace.clone(),
            name: record.name.clone(),
            uid: record.uid.to_string(),
            reason: reason.word,
            message: reason.message,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            name,
            message,
            ..
        } = self;
        write!(f, "Service {namespace}/{name}: {message}")
    }
}
