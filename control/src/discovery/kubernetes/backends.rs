//! The backends of one service: the pods that it selects, or its endpoints.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use vl3lb_common::Protocol;

use super::inventory::{Inventory, Key};
use super::locality::{Candidate, Distribution, Location};
use super::pod::PodRecord;
use super::selection::Selection;
use super::service::{Port, ServiceRecord};
use super::slice::{Endpoint, SliceRecord};
use crate::config::{Selector, Service, TargetPort};
use crate::discovery::{BackendSpec, Eligibility, Origin, ServiceSpec};

/// A service that was put together, and what is wrong with its pods, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AssembledService {
    pub(super) spec: Arc<ServiceSpec>,
    pub(super) problems: BTreeSet<String>,
    /// Pods that are ready, and whose connection is not known.
    pub(super) waiting: Vec<String>,
}

/// What is known, and from where it is seen.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) location: Location<'a>,
    /// Whether pods are where their connections say.
    pub(super) connected: bool,
}

impl View<'_> {
    /// A service of the file with the pods that it selects.
    pub(super) fn file_service(self, service: &Service, selected: Option<&Selection>) -> AssembledService {
        let mut problems = BTreeSet::new();
        let wanted = Wanted {
            name: &service.name,
            protocol: service.protocol,
            target: &service.target_port,
        };
        let placed = self.pods_of(selected, wanted, &mut problems);
        let backends = self.location.choose(placed, Distribution::AsConfigured);
        let target_port = usual_port(&service.target_port, service.port, &backends);
        AssembledService {
            spec: Arc::new(ServiceSpec::new(service, target_port, backends)),
            problems,
            waiting: self.waiting(selected),
        }
    }

    /// One port of a Service: its endpoints, or the pods that are `selected` where addresses are not those of
    /// endpoints.
    pub(super) fn port(
        self,
        declared: &ServiceRecord,
        port: &Port,
        name: &str,
        selected: Option<&Selection>,
    ) -> AssembledService {
        let mut problems = BTreeSet::new();
        let placed = if selected.is_some() {
            let wanted = Wanted {
                name,
                protocol: port.protocol,
                target: &port.target,
            };
            self.pods_of(selected, wanted, &mut problems)
        } else {
            self.endpoints_of(&declared.key(), port, &mut problems)
        };
        let backends = self.location.choose(placed, declared.distribution);
        let spec = ServiceSpec {
            name: name.to_owned(),
            host: (name != declared.name).then(|| declared.name.clone()),
            protocol: port.protocol,
            port: port.port,
            target_port: usual_port(&port.target, port.port, &backends),
            selector: declared
                .selector
                .as_ref()
                .map(Selector::shown)
                .unwrap_or_default(),
            scheduler: declared.scheduler,
            affinity: declared.affinity,
            source_ranges: declared.source_ranges.clone(),
            drain: declared.drain,
            // Whether a pod is ready is for the cluster to find out.
            health_check: None,
            backends,
        };
        AssembledService {
            spec: Arc::new(spec),
            problems,
            waiting: self.waiting(selected),
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
        wanted: Wanted<'_>,
        problems: &mut BTreeSet<String>,
    ) -> Vec<Candidate> {
        let mut placed = Vec::new();
        for pod in selected.into_iter().flat_map(Selection::pods) {
            problems.extend(pod.problems.iter().map(|problem| told(pod, problem)));
            match wanted.port(pod) {
                Ok(port) => placed.extend(pod.addresses.iter().map(|&address| Candidate {
                    node: pod.place.node.clone(),
                    zone: self.zone(pod.zone.as_ref(), pod.place.node.as_deref()),
                    last_resort: pod.is_last_resort() && !self.inventory.is_displaced(pod, address),
                    backend: self.pod_backend(pod, address, port),
                })),
                Err(problem) if pod.eligibility == Eligibility::NewFlows => {
                    problems.insert(told(pod, &problem));
                }
                Err(_) => {}
            }
        }
        placed
    }

    fn pod_backend(self, pod: &PodRecord, address: IpAddr, port: u16) -> BackendSpec {
        let displaced = self.inventory.is_displaced(pod, address);
        BackendSpec {
            address,
            port,
            instance: Some(Arc::clone(&pod.uid)),
            weight: pod.weight,
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

    /// All endpoints of a Service's port, some perhaps twice while they move from slice to slice.
    fn endpoints_of(self, service: &Key, port: &Port, problems: &mut BTreeSet<String>) -> Vec<Candidate> {
        let slices = self.inventory.slices.get(service).into_iter().flatten();
        let mut placed = Vec::new();
        for (_, slice) in slices {
            let Some(number) = slice.port(&port.name, port.protocol) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let pod = endpoint.uid.as_ref().map(|uid| self.inventory.pods.get(uid));
                if pod == Some(None) {
                    // Its pod is gone, or not among those that may be backends.
                    continue;
                }
                let pod = pod.flatten().map(Arc::as_ref);
                let notes = pod.map_or(&[][..], |pod| &pod.problems);
                problems.extend(notes.iter().zip(pod).map(|(problem, pod)| told(pod, problem)));
                let most = self.most(endpoint, pod);
                placed.push(Candidate {
                    node: endpoint.node.clone(),
                    zone: self.zone(endpoint.zone.as_ref(), endpoint.node.as_deref()),
                    last_resort: most != Eligibility::Dead && is_last_resort(endpoint, pod),
                    backend: endpoint_backend(slice, endpoint, pod, number, most),
                });
            }
        }
        placed
    }

    /// What an endpoint may take for all that is known of its pod: whether it is ready is for the cluster to
    /// say, but that it is dead, or on its way out, is known sooner.
    fn most(self, endpoint: &Endpoint, pod: Option<&PodRecord>) -> Eligibility {
        match pod {
            Some(pod)
                if pod.eligibility == Eligibility::Dead
                    || self.inventory.is_displaced(pod, endpoint.address) =>
            {
                Eligibility::Dead
            }
            Some(pod) if pod.leaves() => Eligibility::ExistingFlows,
            Some(_) | None => Eligibility::NewFlows,
        }
    }

    /// What it says itself, else its node's.
    fn zone(self, own: Option<&String>, node: Option<&str>) -> Option<String> {
        own.or_else(|| self.inventory.zones.get(node?)).cloned()
    }
}

/// Whether an endpoint serves though it, or its pod, is on its way out (KEP-1669).
fn is_last_resort(endpoint: &Endpoint, pod: Option<&PodRecord>) -> bool {
    let terminates = endpoint.terminating || pod.is_some_and(|pod| pod.terminating);
    endpoint.serving && terminates && !pod.is_some_and(|pod| pod.drained)
}

fn endpoint_backend(
    slice: &SliceRecord,
    endpoint: &Endpoint,
    pod: Option<&PodRecord>,
    port: u16,
    most: Eligibility,
) -> BackendSpec {
    let decided_by_pod = pod.filter(|_| most < endpoint.eligibility);
    BackendSpec {
        address: endpoint.address,
        port,
        instance: endpoint.uid.clone(),
        weight: pod.map_or(1, |pod| pod.weight),
        eligibility: most.min(endpoint.eligibility),
        changed: decided_by_pod.map_or(slice.changed, |pod| pod.changed),
        origin: Origin::Kubernetes,
        pod: endpoint.place.clone(),
    }
}

fn told(pod: &PodRecord, problem: &str) -> String {
    format!("pod {}/{}: {problem}", pod.namespace, pod.name)
}

/// The port that a service asks pods for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    /// The service's name.
    name: &'a str,
    protocol: Protocol,
    target: &'a TargetPort,
}

impl Wanted<'_> {
    fn port(self, pod: &PodRecord) -> Result<u16, String> {
        let Self {
            name: service,
            protocol,
            target,
        } = self;
        match target {
            TargetPort::Number(number) => Ok(*number),
            TargetPort::Name(name) => pod.port(name, protocol).ok_or_else(|| {
                format!("no {protocol} port named {name}, which service {service} asks for; left out")
            }),
        }
    }
}

/// The port that most backends have, the lowest of several; without any the service's own.
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
