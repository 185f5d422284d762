//! Computes the backends of one service from the pods that it selects or from its endpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use thiserror::Error;
use vl3lb_common::Protocol;

use super::admission::Admitted;
use super::claims::Claims;
use super::denied::{Denied, DeniedReason};
use super::inventory::{Inventory, Key};
use super::locality::{Candidate, Distribution, Location};
use super::pod::PodRecord;
use super::selection::{Owner, Selection};
use super::service::Port;
use super::slice::{Endpoint, SliceRecord};
use crate::config::{NamespaceSet, Selector, Service, TargetPort};
use crate::discovery::{BackendSpec, Eligibility, Origin, ServiceSpec};

/// An assembled service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AssembledService {
    pub(super) spec: Arc<ServiceSpec>,
    /// Faults of its pods, in words.
    pub(super) problems: BTreeSet<String>,
    /// Pods that are ready and have no known connection.
    pub(super) waiting: Vec<String>,
    /// Pods and endpoints that it must not have.
    pub(super) denied: BTreeSet<Denied>,
    /// The number of its backends by namespace, for a service of the file.
    pub(super) pods: BTreeMap<String, usize>,
}

impl AssembledService {
    /// The namespaces that its backends count for, each with their number. O(1) for one of a Service.
    pub(super) fn namespaces<'a>(&'a self, owner: &'a Owner) -> impl Iterator<Item = (&'a str, usize)> {
        let own = match owner {
            Owner::Service((namespace, _)) => Some((namespace.as_str(), self.spec.backends.len())),
            Owner::File(_) => None,
        };
        let pods = self
            .pods
            .iter()
            .map(|(namespace, count)| (namespace.as_str(), *count));
        own.into_iter().chain(pods)
    }
}

/// All records and the balancer's location.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) location: Location<'a>,
    pub(super) claims: Claims<'a>,
    /// Whether the addresses of pods come from their connections.
    pub(super) connected: bool,
}

impl View<'_> {
    /// A service of the file with the pods that it selects.
    pub(super) fn file_service(self, service: &Service, selected: Option<&Selection>) -> AssembledService {
        let mut problems = BTreeSet::new();
        let mut denied = BTreeSet::new();
        let target = Target {
            name: &service.unique_name,
            protocol: service.protocol,
            target: &service.target_port,
        };
        let candidates = self.pods_of(
            selected,
            target,
            service.namespaces.as_ref(),
            &mut problems,
            &mut denied,
        );
        let backends = self.location.choose(candidates, Distribution::AsConfigured);
        let target_port = usual_port(&service.target_port, service.port, &backends);
        let mut pods: BTreeMap<String, usize> = BTreeMap::new();
        let namespaces = backends
            .iter()
            .filter_map(|backend| backend.pod.as_ref()?.pod.split_once('/'));
        for (namespace, _) in namespaces {
            match pods.get_mut(namespace) {
                Some(count) => *count += 1,
                None => drop(pods.insert(namespace.to_owned(), 1)),
            }
        }
        AssembledService {
            spec: Arc::new(ServiceSpec::new(service, target_port, backends)),
            problems,
            waiting: self.waiting(selected),
            denied,
            pods,
        }
    }

    /// A port of a Service, as which it is served under `name`, with its endpoints, or with the `selected` pods if addresses
    /// do not come from endpoints.
    pub(super) fn port(
        self,
        admitted: &Admitted,
        port: &Port,
        name: &str,
        selected: Option<&Selection>,
    ) -> AssembledService {
        let declared = &admitted.record;
        let mut problems = BTreeSet::new();
        let mut denied = BTreeSet::new();
        let candidates = if selected.is_some() {
            let target = Target {
                name,
                protocol: port.protocol,
                target: &port.target,
            };
            self.pods_of(selected, target, None, &mut problems, &mut denied)
        } else {
            self.endpoints_of(&declared.key(), port, &mut problems, &mut denied)
        };
        let backends = self.location.choose(candidates, declared.distribution);
        let spec = ServiceSpec {
            name: name.to_owned(),
            host: (name != admitted.name).then(|| admitted.name.clone()),
            namespace: Some(declared.namespace.clone()),
            protocol: port.protocol,
            port: port.port,
            addresses: admitted.addresses.clone(),
            target_port: usual_port(&port.target, port.port, &backends),
            selector: declared
                .selector
                .as_ref()
                .map(Selector::shown)
                .unwrap_or_default(),
            scheduler: declared.scheduler,
            affinity: declared.affinity,
            source_ranges: declared.source_ranges.clone(),
            client_address: declared.client_address_of(port.protocol),
            drain: declared.drain,
            // The kubelet checks pods, but not through the vL3 network.
            health_check: declared.health_check(port, self.connected),
            rules: declared.rules(port),
            backends,
        };
        AssembledService {
            spec: Arc::new(spec),
            problems,
            waiting: self.waiting(selected),
            denied,
            pods: BTreeMap::new(),
        }
    }

    fn waiting(self, selected: Option<&Selection>) -> Vec<String> {
        let pods = selected
            .filter(|_| self.connected)
            .into_iter()
            .flat_map(Selection::pods);
        let waiting = pods.filter(|pod| pod.eligibility == Eligibility::NewFlows && pod.addresses.is_empty());
        waiting.map(|pod| pod.place.pod.clone()).collect()
    }

    fn pods_of(
        self,
        selected: Option<&Selection>,
        target: Target<'_>,
        namespaces: Option<&NamespaceSet>,
        problems: &mut BTreeSet<String>,
        denied: &mut BTreeSet<Denied>,
    ) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for pod in selected.into_iter().flat_map(Selection::pods) {
            if let Some(namespaces) = namespaces.filter(|namespaces| !namespaces.contains(&pod.namespace)) {
                let fault = format!(
                    "namespace {}, allowed {namespaces} (services[].namespaces)",
                    pod.namespace
                );
                denied.insert(Denied {
                    reason: DeniedReason::Namespace,
                    text: describe(pod, &fault),
                });
                continue;
            }
            denied.extend(self.denied_addresses(pod));
            problems.extend(pod.problems.iter().map(|problem| describe(pod, problem)));
            match target.port(pod) {
                Ok(port) => candidates.extend(pod.addresses.iter().map(|&address| Candidate {
                    node: pod.place.node.clone(),
                    zone: self.zone(pod.zone.as_ref(), pod.place.node.as_deref()),
                    last_resort: pod.is_last_resort() && !self.inventory.is_displaced(pod, address),
                    backend: self.pod_backend(pod, address, port),
                })),
                Err(problem) if pod.eligibility == Eligibility::NewFlows => {
                    problems.insert(describe(pod, &problem.to_string()));
                }
                Err(_) => {}
            }
        }
        candidates
    }

    /// The addresses that `pod` claims and must not have.
    fn denied_addresses(self, pod: &PodRecord) -> impl Iterator<Item = Denied> {
        let claim = pod.claim.as_ref().map(|claim| claim.annotation.clone());
        let is_claim = claim.is_some() && pod.eligibility != Eligibility::Dead;
        let outside = pod.denied.iter().map(ToString::to_string);
        let others = pod.addresses.iter().filter_map(move |&address| {
            let owner = self.inventory.owner_of(address)?;
            (is_claim && owner.namespace != pod.namespace).then(|| {
                format!(
                    "{address}, allowed addresses that no other namespace has; {} has it",
                    owner.place.pod
                )
            })
        });
        let texts = outside.chain(others).collect::<Vec<_>>().into_iter();
        texts.map(move |text| Denied {
            reason: DeniedReason::Address,
            text: describe(
                pod,
                &format!("annotation {}: {text}", claim.as_deref().unwrap_or_default()),
            ),
        })
    }

    fn pod_backend(self, pod: &PodRecord, address: IpAddr, port: u16) -> BackendSpec {
        let displaced = self.inventory.is_displaced(pod, address);
        BackendSpec {
            address,
            port,
            instance: Some(Arc::clone(&pod.uid)),
            weight: pod.weight,
            backup: pod.backup,
            eligibility: if displaced {
                Eligibility::Dead
            } else {
                pod.eligibility
            },
            changed: pod.changed,
            origin: Origin::Kubernetes,
            pod: Some(Arc::clone(&pod.place)),
        }
    }

    /// All endpoints of a Service's port. An endpoint that moves between slices may be listed twice.
    fn endpoints_of(
        self,
        service: &Key,
        port: &Port,
        problems: &mut BTreeSet<String>,
        denied: &mut BTreeSet<Denied>,
    ) -> Vec<Candidate> {
        let slices = self.inventory.slices.get(service).into_iter().flatten();
        let mut candidates = Vec::new();
        for (_, slice) in slices {
            let Some(number) = slice.port(&port.name, port.protocol) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let pod = endpoint.uid.as_ref().map(|uid| self.inventory.pods.get(uid));
                if pod == Some(None) {
                    // Its pod is gone, or the label selector excludes it.
                    continue;
                }
                let pod = pod.flatten().map(Arc::as_ref);
                if pod.is_some_and(|pod| pod.addresses.is_empty()) {
                    // Its endpoint is known before its status.
                    continue;
                }
                if !pod.is_some_and(|pod| pod.addresses.contains(&endpoint.address))
                    && let Err(denial) = self.claims.judge(&slice.namespace, endpoint.address)
                {
                    denied.insert(Denied {
                        reason: DeniedReason::Address,
                        text: format!(
                            "EndpointSlice {}/{}: endpoints: {denial}",
                            slice.namespace, slice.name
                        ),
                    });
                    continue;
                }
                let faults = pod.map_or(&[][..], |pod| &pod.problems);
                problems.extend(
                    faults
                        .iter()
                        .zip(pod)
                        .map(|(problem, pod)| describe(pod, problem)),
                );
                let limit = self.limit(endpoint, pod);
                candidates.push(Candidate {
                    node: endpoint.node.clone(),
                    zone: self.zone(endpoint.zone.as_ref(), endpoint.node.as_deref()),
                    last_resort: limit != Eligibility::Dead && is_last_resort(endpoint, pod),
                    backend: endpoint_backend(slice, endpoint, pod, number, limit),
                });
            }
        }
        candidates
    }

    /// The best eligibility that the state of its pod allows. Endpoints follow their pods with a delay: a dead or
    /// terminating pod is known before.
    fn limit(self, endpoint: &Endpoint, pod: Option<&PodRecord>) -> Eligibility {
        match pod {
            Some(pod)
                if pod.eligibility == Eligibility::Dead
                    || self.inventory.is_displaced(pod, endpoint.address) =>
            {
                Eligibility::Dead
            }
            Some(pod) if pod.drained => Eligibility::ExistingFlows,
            // Where the endpoint terminates and is ready, the cluster has decided so (publishNotReadyAddresses).
            Some(pod) if pod.terminating && !endpoint.terminating => Eligibility::ExistingFlows,
            Some(_) | None => Eligibility::NewFlows,
        }
    }

    /// Its own zone, else its node's.
    fn zone(self, own: Option<&String>, node: Option<&str>) -> Option<String> {
        own.or_else(|| self.inventory.zones.get(node?)).cloned()
    }
}

/// Whether a terminating endpoint, or one of a terminating pod, still serves (KEP-1669).
fn is_last_resort(endpoint: &Endpoint, pod: Option<&PodRecord>) -> bool {
    let terminates = endpoint.terminating || pod.is_some_and(|pod| pod.terminating);
    endpoint.serving && terminates && !pod.is_some_and(|pod| pod.drained)
}

fn endpoint_backend(
    slice: &SliceRecord,
    endpoint: &Endpoint,
    pod: Option<&PodRecord>,
    port: u16,
    limit: Eligibility,
) -> BackendSpec {
    let limited_by = pod.filter(|_| limit < endpoint.eligibility);
    BackendSpec {
        address: endpoint.address,
        port,
        instance: endpoint.uid.clone(),
        weight: pod.map_or(1, |pod| pod.weight),
        backup: pod.is_some_and(|pod| pod.backup),
        eligibility: limit.min(endpoint.eligibility),
        changed: limited_by.map_or(slice.changed, |pod| pod.changed),
        origin: Origin::Kubernetes,
        pod: endpoint.place.clone(),
    }
}

fn describe(pod: &PodRecord, problem: &str) -> String {
    format!("pod {}/{}: {problem}", pod.namespace, pod.name)
}

/// The port that a service targets on pods.
#[derive(Clone, Copy)]
struct Target<'a> {
    /// The service's name.
    name: &'a str,
    protocol: Protocol,
    target: &'a TargetPort,
}

impl Target<'_> {
    fn port(self, pod: &PodRecord) -> Result<u16, MissingPort> {
        match self.target {
            TargetPort::Number(number) => Ok(*number),
            TargetPort::Name(name) => pod.port(name, self.protocol).ok_or_else(|| MissingPort {
                protocol: self.protocol,
                port: name.clone(),
                service: self.name.to_owned(),
            }),
        }
    }
}

/// A pod without the port that its service targets by name.
#[derive(Debug, Error)]
#[error("no {protocol} port named {port}, the target port of service {service}; left out")]
struct MissingPort {
    protocol: Protocol,
    port: String,
    service: String,
}

/// The port of most backends, the lowest of equally frequent ones; without backends the service's own.
fn usual_port(target: &TargetPort, port: u16, backends: &[BackendSpec]) -> u16 {
    if let TargetPort::Number(number) = target {
        return *number;
    }
    let mut counts: HashMap<u16, usize> = HashMap::new();
    for backend in backends {
        *counts.entry(backend.port).or_default() += 1;
    }
    let usual = counts
        .into_iter()
        .max_by_key(|&(port, count)| (count, std::cmp::Reverse(port)));
    usual.map_or(port, |(port, _)| port)
}

/// The problem of pods that are ready and have no known connection.
pub(super) fn describe_waiting(pods: &BTreeSet<&String>) -> Option<String> {
    let (first, others) = (pods.first()?, pods.len() - 1);
    let rest = if others == 0 {
        String::new()
    } else {
        format!(" and {others} more")
    };
    Some(format!(
        "pod {first}{rest}: ready, but not connected to the vL3 network yet"
    ))
}
