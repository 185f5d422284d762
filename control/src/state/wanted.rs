//! The desired set in a form that has one entry for each thing: duplicates are merged, and what
//! contradicts itself is left out and named.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use vl3lb_common::Protocol;

use crate::discovery::{BackendSpec, Desired, ServiceSpec, Takes};

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

/// Which instance is behind an address and port now.
pub(super) type Holders = HashMap<(Protocol, IpAddr, u16), Option<Arc<str>>>;

/// Whether another instance has the address and port of `backend` now.
pub(super) fn is_replaced(holders: &Holders, protocol: Protocol, backend: &BackendIdentity) -> bool {
    let holder = holders.get(&(protocol, backend.address, backend.port));
    holder.is_some_and(|holder| *holder != backend.instance)
}

/// A service with its distinct backends.
pub(super) struct Wanted<'a> {
    pub(super) spec: &'a ServiceSpec,
    pub(super) backends: BTreeMap<BackendIdentity, WantedBackend<'a>>,
}

/// A backend, and what it is to take: nothing if another instance has its address, whatever is desired.
#[derive(Clone, Copy)]
pub(super) struct WantedBackend<'a> {
    pub(super) spec: &'a BackendSpec,
    pub(super) takes: Takes,
}

/// Each service once, by identity, and who has which address; what had to be left out is put into
/// `problems`.
pub(super) fn collect<'a>(
    desired: &'a Desired,
    own: &[IpAddr],
    problems: &mut Vec<String>,
) -> (BTreeMap<ServiceIdentity, Wanted<'a>>, Holders) {
    let mut services: Vec<&ServiceSpec> = desired.services.iter().collect();
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
        let service = wanted.entry(identity).or_insert_with(|| Wanted {
            spec,
            backends: BTreeMap::new(),
        });
        for backend in &spec.backends {
            let socket = SocketAddr::new(backend.address, backend.port);
            if own.contains(&backend.address) {
                problems.push(format!(
                    "service {}: backend {socket} is the balancer itself; left out",
                    spec.name
                ));
                continue;
            }
            let wanted = WantedBackend {
                spec: backend,
                takes: backend.takes,
            };
            let known = service.backends.entry(backend.into()).or_insert(wanted);
            // Of two the one that gets more counts, in whatever order they come.
            if (wanted.takes, backend.weight) > (known.takes, known.spec.weight) {
                *known = wanted;
            }
        }
    }
    let holders = holders(&wanted);
    for ((protocol, _), service) in &mut wanted {
        for (identity, backend) in &mut service.backends {
            if is_replaced(&holders, *protocol, identity) {
                backend.takes = Takes::Nothing;
            }
        }
    }
    (wanted, holders)
}

/// The instance behind each address and port that is wanted: of several the one that takes most.
fn holders(wanted: &BTreeMap<ServiceIdentity, Wanted<'_>>) -> Holders {
    let mut best: HashMap<_, &BackendSpec> = HashMap::new();
    for ((protocol, _), service) in wanted {
        for WantedBackend { spec, .. } in service.backends.values() {
            let holder = best.entry((*protocol, spec.address, spec.port)).or_insert(spec);
            if (spec.takes, &spec.instance) > (holder.takes, &holder.instance) {
                *holder = spec;
            }
        }
    }
    best.into_iter()
        .map(|(key, spec)| (key, spec.instance.clone()))
        .collect()
}
