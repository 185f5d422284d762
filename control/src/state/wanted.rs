//! The desired set in a form that has one entry for each thing: duplicates are merged, and what
//! contradicts itself is left out and named.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use vl3lb_common::Protocol;

use crate::discovery::{BackendSpec, Desired, ServiceSpec};

/// What a service is known by: flows of a port stay with it, whatever it is called.
pub(super) type ServiceIdentity = (Protocol, u16);
/// What a backend of a service is known by.
pub(super) type BackendIdentity = (IpAddr, u16);

/// A service with its distinct backends.
pub(super) struct Wanted<'a> {
    pub(super) spec: &'a ServiceSpec,
    pub(super) backends: BTreeMap<BackendIdentity, &'a BackendSpec>,
}

/// Each service once, by identity, and what had to be left out.
pub(super) fn collect<'a>(
    desired: &'a Desired,
    own: &[IpAddr],
    problems: &mut Vec<String>,
) -> BTreeMap<ServiceIdentity, Wanted<'a>> {
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
            let known = service.backends.entry((backend.address, backend.port));
            // Of two weights the higher one counts, in whatever order they come.
            known
                .and_modify(|known| {
                    if backend.weight > known.weight {
                        *known = backend;
                    }
                })
                .or_insert(backend);
        }
    }
    wanted
}
