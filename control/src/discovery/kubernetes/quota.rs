//! Applies the quotas of backends: no namespace takes the places of the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::backends::AssembledService;
use super::denied::{Denied, DeniedReason};
use super::selection::Owner;
use crate::config;
use crate::discovery::{BackendSpec, ServiceSpec};

/// A service as it is desired.
pub(super) struct Granted {
    pub(super) spec: Arc<ServiceSpec>,
    /// The namespaces whose backends were left out.
    pub(super) denied: Vec<Denied>,
}

/// Each service with the backends that the quotas of their namespaces allow: services of the file first, then by the
/// names of Services. Of the backends of a service those that get new flows come first, then the lowest addresses.
///
/// Cost: O(services), and O(n log n) in the backends of services that have too many.
pub(super) fn granted<'a>(
    services: &'a BTreeMap<Owner, Vec<AssembledService>>,
    kubernetes: &config::Kubernetes,
) -> Vec<(&'a Owner, Granted)> {
    let mut left: HashMap<String, usize> = HashMap::new();
    let mut granted = Vec::with_capacity(services.len());
    for (owner, services) in services {
        for service in services {
            let mut excess: BTreeMap<&str, usize> = BTreeMap::new();
            for (namespace, count) in service.namespaces(owner) {
                let left = left
                    .entry(namespace.to_owned())
                    .or_insert_with(|| kubernetes.quota(namespace).1);
                if count > *left {
                    excess.insert(namespace, count - *left);
                }
                *left -= count.min(*left);
            }
            let spec = if excess.is_empty() {
                Arc::clone(&service.spec)
            } else {
                Arc::new(without(&service.spec, owner, excess.clone()))
            };
            let denied = excess.into_iter().map(|(namespace, count)| {
                let most = kubernetes.quota(namespace).1;
                Denied {
                    reason: DeniedReason::Quota,
                    text: format!(
                        "service {}: {count} backends in namespace {namespace} are over the quota, allowed {most} of that \
                         namespace in all services (kubernetes.quotas)",
                        service.spec.name
                    ),
                }
            });
            let denied = denied.collect();
            granted.push((owner, Granted { spec, denied }));
        }
    }
    granted
}

/// `spec` without so many backends of each namespace in `excess`.
fn without(spec: &ServiceSpec, owner: &Owner, mut excess: BTreeMap<&str, usize>) -> ServiceSpec {
    let mut order: Vec<usize> = (0..spec.backends.len()).collect();
    order.sort_by_key(|&position| {
        let backend = &spec.backends[position];
        (
            backend.eligibility,
            backend.weight > 0,
            std::cmp::Reverse((backend.address, backend.port)),
        )
    });
    let mut left_out = BTreeSet::new();
    for position in order {
        let namespace = namespace_of(&spec.backends[position], owner);
        if let Some(count) = namespace.and_then(|namespace| excess.get_mut(namespace))
            && *count > 0
        {
            *count -= 1;
            left_out.insert(position);
        }
    }
    let backends = spec.backends.iter().enumerate();
    let kept = backends.filter(|(position, _)| !left_out.contains(position));
    ServiceSpec {
        backends: kept.map(|(_, backend)| backend.clone()).collect(),
        ..spec.clone()
    }
}

/// The namespace that a backend counts for: its Service's, else its pod's.
fn namespace_of<'a>(backend: &'a BackendSpec, owner: &'a Owner) -> Option<&'a str> {
    match owner {
        Owner::Service((namespace, _)) => Some(namespace),
        Owner::File(_) => Some(backend.pod.as_ref()?.pod.split_once('/')?.0),
    }
}
