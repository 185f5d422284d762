//! The desired set in a form that has one entry for each thing: duplicates are merged, and what
//! contradicts itself is left out and named.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use vl3lb_common::Protocol;

use crate::discovery::{BackendSpec, Desired, Eligibility, ServiceSpec};

/// What a service is known by: flows of a port stay with it, whatever it is called.
pub(super) type ServiceIdentity = (Protocol, u16);

/// What a backend of a service is known by.
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
    /// Its place relative to that of `spec`.
    pub(super) fn order(&self, spec: &BackendSpec) -> Ordering {
        (self.address, self.port, &self.instance).cmp(&(spec.address, spec.port, &spec.instance))
    }
}

/// A service that is wanted, by one source or several.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// Whose attributes count.
    pub(super) spec: &'a Arc<ServiceSpec>,
    /// More specifications of the same service, whose backends count too.
    pub(super) others: Vec<&'a Arc<ServiceSpec>>,
}

/// A backend, and what it is to take: nothing if another instance has its address, whatever is desired.
#[derive(Debug, Clone, Copy)]
pub(super) struct WantedBackend<'a> {
    pub(super) spec: &'a BackendSpec,
    pub(super) eligibility: Eligibility,
}

/// Each service once, by identity; what had to be left out is put into `problems`. O(services).
pub(super) fn collect<'a>(
    desired: &'a Desired,
    problems: &mut Vec<String>,
) -> BTreeMap<ServiceIdentity, Wanted<'a>> {
    let mut services: Vec<&Arc<ServiceSpec>> = desired.services.iter().collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    let mut wanted: BTreeMap<ServiceIdentity, Wanted<'_>> = BTreeMap::new();
    let mut names: HashMap<&str, ServiceIdentity> = HashMap::new();
    for spec in services {
        let identity = (spec.protocol, spec.port);
        let holder = wanted.get(&identity).map(|first| first.spec.name.as_str());
        if let Some(holder) = holder.filter(|holder| *holder != spec.name) {
            problems.push(format!(
                "service {}: {} {} belongs to service {holder}; left out",
                spec.name, spec.protocol, spec.port
            ));
            continue;
        }
        let named = names.entry(&spec.name).or_insert(identity);
        if *named != identity {
            problems.push(format!(
                "service {}: wanted at {} {} and at {} {}; the second is left out",
                spec.name, named.0, named.1, spec.protocol, spec.port
            ));
            continue;
        }
        wanted
            .entry(identity)
            .and_modify(|service| service.others.push(spec))
            .or_insert_with(|| Wanted {
                spec,
                others: Vec::new(),
            });
    }
    wanted
}

impl<'a> Wanted<'a> {
    /// All that it is made from.
    pub(super) fn specs(&self) -> impl Iterator<Item = &'a Arc<ServiceSpec>> {
        std::iter::once(self.spec).chain(self.others.iter().copied())
    }

    /// Each backend once, by identity, without those that are the balancer itself, which `problems` gets.
    ///
    /// Cost: O(backends), if they come in order.
    pub(super) fn backends(&self, own: &[IpAddr], problems: &mut Vec<String>) -> Vec<WantedBackend<'a>> {
        let mut backends: Vec<WantedBackend<'a>> = Vec::with_capacity(self.spec.backends.len());
        for backend in self.specs().flat_map(|spec| &spec.backends) {
            if own.contains(&backend.address) {
                let socket = SocketAddr::new(backend.address, backend.port);
                problems.push(format!(
                    "service {}: backend {socket} is the balancer itself; left out",
                    self.spec.name
                ));
                continue;
            }
            backends.push(WantedBackend {
                spec: backend,
                eligibility: backend.eligibility,
            });
        }
        backends.sort_by(|a, b| place(a.spec).cmp(&place(b.spec)));
        backends.dedup_by(|next, first| {
            let same = place(next.spec) == place(first.spec);
            // Of two the one that gets more counts, in whatever order they come.
            if same && (next.eligibility, next.spec.weight) > (first.eligibility, first.spec.weight) {
                *first = *next;
            }
            same
        });
        backends
    }
}

/// As [`BackendIdentity`] compares.
fn place(spec: &BackendSpec) -> (IpAddr, u16, Option<&Arc<str>>) {
    (spec.address, spec.port, spec.instance.as_ref())
}
