//! Merges the desired sets of several sources: one entry for each service and backend. Contradictions are left out and
//! reported.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use vl3lb_common::Protocol;

use crate::discovery::{BackendSpec, Desired, Eligibility, ServiceSpec};

/// Identifies a service: its protocol, port, and the first network of the addresses at which it listens. Its flows survive
/// a change of its name.
pub(super) type ServiceIdentity = (Protocol, u16, Option<IpNet>);

/// Identifies a backend of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BackendIdentity {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) instance: Option<Arc<str>>,
}

impl From<&BackendSpec> for BackendIdentity {
    fn from(spec: &BackendSpec) -> Self {
        Self {
            address: spec.address,
            port: spec.port,
            instance: spec.instance.clone(),
        }
    }
}

impl BackendIdentity {
    /// Its order relative to the identity of `spec`.
    pub(super) fn order(&self, spec: &BackendSpec) -> Ordering {
        (self.address, self.port, &self.instance).cmp(&(spec.address, spec.port, &spec.instance))
    }
}

/// A service that one or more sources desire.
#[derive(Debug)]
pub(super) struct DesiredService<'a> {
    /// Its attributes are used.
    pub(super) spec: &'a Arc<ServiceSpec>,
    /// More specifications of the same service; only their backends are used.
    pub(super) others: Vec<&'a Arc<ServiceSpec>>,
}

/// A backend and its eligibility. A backend whose address another instance owns is dead, whatever its source desires.
#[derive(Debug, Clone, Copy)]
pub(super) struct DesiredBackend<'a> {
    pub(super) spec: &'a BackendSpec,
    pub(super) eligibility: Eligibility,
}

/// Each service once, by identity. Those that are left out go into `problems`. Cost: O(services).
pub(super) fn services<'a>(
    desired: &'a Desired,
    own: &[IpAddr],
    problems: &mut Vec<String>,
) -> BTreeMap<ServiceIdentity, DesiredService<'a>> {
    let mut services: Vec<&Arc<ServiceSpec>> = desired.services.iter().collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    let mut merged: BTreeMap<ServiceIdentity, DesiredService<'_>> = BTreeMap::new();
    let mut names: HashMap<&str, ServiceIdentity> = HashMap::new();
    // By protocol and port.
    let mut listening: HashMap<(Protocol, u16), Vec<&Arc<ServiceSpec>>> = HashMap::new();
    for spec in services {
        let identity = (spec.protocol, spec.port, spec.addresses.first());
        let others = listening.entry((spec.protocol, spec.port)).or_default();
        let mut meeting = others
            .iter()
            .filter(|other| other.addresses.overlap(&spec.addresses));
        let owner = meeting
            .find(|other| other.name != spec.name)
            .map(|other| &other.name);
        if let Some(owner) = owner {
            problems.push(format!(
                "service {}: {} {} belongs to service {owner}; left out",
                spec.name, spec.protocol, spec.port
            ));
            continue;
        }
        let named = names.entry(&spec.name).or_insert(identity);
        if *named != identity {
            problems.push(format!(
                "service {}: defined at {} {} and at {} {}; the second is left out",
                spec.name, named.0, named.1, spec.protocol, spec.port
            ));
            continue;
        }
        if !own.is_empty() && spec.addresses.of(own).is_empty() {
            problems.push(format!(
                "service {}: none of the balancer's addresses is in {}",
                spec.name, spec.addresses
            ));
        }
        others.push(spec);
        merged
            .entry(identity)
            .and_modify(|service| service.others.push(spec))
            .or_insert_with(|| DesiredService {
                spec,
                others: Vec::new(),
            });
    }
    merged
}

impl<'a> DesiredService<'a> {
    /// All its specifications.
    pub(super) fn specs(&self) -> impl Iterator<Item = &'a Arc<ServiceSpec>> {
        std::iter::once(self.spec).chain(self.others.iter().copied())
    }

    /// Each backend once, by identity. Those at the balancer's `own` addresses go into `problems`.
    ///
    /// Cost: O(backends) if they are sorted.
    pub(super) fn backends(&self, own: &[IpAddr], problems: &mut Vec<String>) -> Vec<DesiredBackend<'a>> {
        let mut backends: Vec<DesiredBackend<'a>> = Vec::with_capacity(self.spec.backends.len());
        for backend in self.specs().flat_map(|spec| &spec.backends) {
            if own.contains(&backend.address) {
                let socket = SocketAddr::new(backend.address, backend.port);
                problems.push(format!(
                    "service {}: backend {socket} is the balancer itself; left out",
                    self.spec.name
                ));
                continue;
            }
            backends.push(DesiredBackend {
                spec: backend,
                eligibility: backend.eligibility,
            });
        }
        backends.sort_by(|a, b| sort_key(a.spec).cmp(&sort_key(b.spec)));
        backends.dedup_by(|next, first| {
            let same = sort_key(next.spec) == sort_key(first.spec);
            // The one with the higher eligibility and weight is kept, independent of the order.
            let rank = |backend: &DesiredBackend<'_>| {
                (backend.eligibility, backend.spec.weight, !backend.spec.backup)
            };
            if same && rank(next) > rank(first) {
                *first = *next;
            }
            same
        });
        leave_out_unknown(&mut backends);
        backends
    }
}

/// Leaves out backends whose instance is unknown where a known one at the same address and port gets new flows: they are
/// the same, for example listed by hand too. `backends` are sorted, so the unknown one is the first of its socket.
fn leave_out_unknown(backends: &mut Vec<DesiredBackend<'_>>) {
    let socket = |backend: &DesiredBackend<'_>| (backend.spec.address, backend.spec.port);
    let mut index = 0;
    while index < backends.len() {
        let unknown = backends[index];
        let mut others = backends[index + 1..]
            .iter()
            .take_while(|other| socket(other) == socket(&unknown));
        let is_known =
            unknown.spec.instance.is_none() && others.any(|other| other.eligibility == Eligibility::NewFlows);
        if is_known {
            backends.remove(index);
        } else {
            index += 1;
        }
    }
}

/// Sorts as [`BackendIdentity`] does.
fn sort_key(spec: &BackendSpec) -> (IpAddr, u16, Option<&Arc<str>>) {
    (spec.address, spec.port, spec.instance.as_ref())
}
