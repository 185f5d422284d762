//! Services, pods and endpoints become the desired set.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use vl3lb_common::Protocol;

use super::admission::{Accepted, Admitted, Claims, Means, Refused};
use super::locality::{Here, Nearness, Placed};
use super::pod::Member;
use super::service::Port;
use super::slice::{Endpoint, Slice};
use super::watches::Known;
use crate::config::{self, AddressFrom, Selector, Service, TargetPort};
use crate::discovery::{BackendSpec, Desired, Instances, Origin, ServiceSpec, Takes};

/// A protocol and port that a server of the balancer itself listens on, and which one that is.
pub(super) type Listening = (Protocol, u16, &'static str);

/// What the configuration says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) services: &'a [Service],
    pub(super) kubernetes: &'a config::Kubernetes,
    pub(super) listening: &'a [Listening],
}

/// The desired set, and what is to be said about it.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) desired: Desired,
    /// What is wrong with pods, in words.
    pub(super) problems: BTreeSet<String>,
    pub(super) accepted: Vec<Accepted>,
    pub(super) refused: Vec<Refused>,
}

/// Each service with its backends: the pods that it selects, or the endpoints of the Service. The order
/// of what is known does not matter.
///
/// Cost: O(services x pods + endpoints).
pub(super) fn collect(rules: Rules<'_>, known: &Known) -> Collected {
    let view = View::new(rules, known);
    let mut problems = BTreeSet::new();
    let mut services: Vec<ServiceSpec> = rules
        .services
        .iter()
        .map(|service| view.file_service(service, &mut problems))
        .collect();
    let means = Means {
        node: view.here.node.is_some(),
        zone: view.here.zone.is_some(),
        endpoints: view.has_endpoints(),
    };
    let decided = Claims::new(rules.services, rules.listening, means).decide(&known.services);
    for admitted in &decided.admitted {
        let ports = admitted.ports.iter();
        services.extend(ports.map(|(port, name)| view.port(admitted, port, name, &mut problems)));
    }
    Collected {
        desired: Desired {
            services,
            instances: Arc::new(instances(&known.pods, &view.owners)),
            problems: decided.refused.iter().map(ToString::to_string).collect(),
        },
        problems,
        accepted: decided.admitted.iter().map(Admitted::accepted).collect(),
        refused: decided.refused,
    }
}

/// What is known, in a form in which it is found.
struct View<'a> {
    rules: Rules<'a>,
    pods: &'a [Arc<Member>],
    by_uid: HashMap<&'a str, &'a Member>,
    owners: HashMap<IpAddr, &'a Member>,
    /// By namespace and Service.
    slices: HashMap<(&'a str, &'a str), Vec<&'a Slice>>,
    /// By node.
    zones: HashMap<&'a str, &'a str>,
    here: Here<'a>,
}

impl<'a> View<'a> {
    fn new(rules: Rules<'a>, known: &'a Known) -> Self {
        let nodes = known.nodes.iter();
        let zones: HashMap<_, _> = nodes.map(|place| (&*place.node, &*place.zone)).collect();
        let mut slices: HashMap<_, Vec<&Slice>> = HashMap::new();
        for slice in &known.slices {
            let service = (&*slice.namespace, &*slice.service);
            slices.entry(service).or_default().push(slice);
        }
        let topology = &rules.kubernetes.topology;
        let node = topology.node.as_deref();
        let label = node.and_then(|node| zones.get(node).copied());
        Self {
            rules,
            pods: &known.pods,
            by_uid: known.pods.iter().map(|pod| (&*pod.uid, &**pod)).collect(),
            owners: owners(&known.pods),
            slices,
            here: Here {
                node,
                zone: topology.zone.as_deref().or(label),
                prefer: topology.prefer,
            },
            zones,
        }
    }

    /// Whether the backends of a Service are its endpoints: those have the addresses of pods, or whatever
    /// somebody wrote into them.
    fn has_endpoints(&self) -> bool {
        self.rules.kubernetes.address_from == AddressFrom::PodIp
    }

    /// A service of the file with the pods that it selects.
    fn file_service(&self, service: &Service, problems: &mut BTreeSet<String>) -> ServiceSpec {
        let wanted = Wanted {
            name: &service.name,
            protocol: service.protocol,
            target: &service.target_port,
        };
        let pods = self.selected(&service.selector);
        let placed = self.pods_of(pods, wanted, problems);
        let backends = self.here.choose(placed, Nearness::AsConfigured);
        let target_port = usual_port(&service.target_port, service.port, &backends);
        ServiceSpec::new(service, target_port, backends)
    }

    /// One port of a Service.
    fn port(
        &self,
        admitted: &Admitted<'a>,
        port: &Port,
        name: &str,
        problems: &mut BTreeSet<String>,
    ) -> ServiceSpec {
        let declared = admitted.declared;
        let placed = match &declared.selector {
            Some(selector) if !self.has_endpoints() => {
                let wanted = Wanted {
                    name,
                    protocol: port.protocol,
                    target: &port.target,
                };
                let selected = self.selected(selector);
                let own = selected.filter(|pod| pod.namespace == declared.namespace);
                self.pods_of(own, wanted, problems)
            }
            _ => {
                let service = (&*declared.namespace, &*declared.name);
                self.endpoints_of(service, port, problems)
            }
        };
        let backends = self.here.choose(placed, declared.nearness);
        ServiceSpec {
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
        }
    }

    fn selected(&self, selector: &Selector) -> impl Iterator<Item = &'a Member> {
        let pods = self.pods.iter().map(Arc::as_ref);
        pods.filter(|pod| selector.matches(&pod.labels))
    }

    fn pods_of(
        &self,
        pods: impl Iterator<Item = &'a Member>,
        wanted: Wanted<'_>,
        problems: &mut BTreeSet<String>,
    ) -> Vec<Placed> {
        let mut placed = Vec::new();
        for pod in pods {
            problems.extend(pod.problems.iter().map(|problem| told(pod, problem)));
            match wanted.port(pod) {
                Ok(port) => placed.extend(pod.addresses.iter().map(|&address| Placed {
                    node: pod.place.node.clone(),
                    zone: self.zone(pod.zone.as_ref(), pod.place.node.as_deref()),
                    backend: self.pod_backend(pod, address, port),
                })),
                Err(problem) if pod.takes == Takes::NewFlows => {
                    problems.insert(told(pod, &problem));
                }
                Err(_) => {}
            }
        }
        placed
    }

    fn pod_backend(&self, pod: &Member, address: IpAddr, port: u16) -> BackendSpec {
        let displaced = self.is_displaced(pod, address);
        BackendSpec {
            address,
            port,
            instance: Some(Arc::clone(&pod.uid)),
            weight: pod.weight,
            takes: if displaced { Takes::Nothing } else { pod.takes },
            changed: pod.changed,
            origin: Origin::Kubernetes,
            pod: Some(Arc::clone(&pod.place)),
        }
    }

    /// All endpoints of a Service's port, some perhaps twice while they move from slice to slice.
    fn endpoints_of(
        &self,
        service: (&'a str, &'a str),
        port: &Port,
        problems: &mut BTreeSet<String>,
    ) -> Vec<Placed> {
        let slices = self.slices.get(&service).into_iter().flatten();
        let mut placed = Vec::new();
        for slice in slices {
            let Some(number) = slice.port(&port.name, port.protocol) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let pod = endpoint.uid.as_deref().map(|uid| self.by_uid.get(uid).copied());
                if pod == Some(None) {
                    // Its pod is gone, or not among those that may be backends.
                    continue;
                }
                let pod = pod.flatten();
                let notes = pod.map_or(&[][..], |pod| &pod.problems);
                problems.extend(notes.iter().zip(pod).map(|(problem, pod)| told(pod, problem)));
                placed.push(Placed {
                    node: endpoint.node.clone(),
                    zone: self.zone(endpoint.zone.as_ref(), endpoint.node.as_deref()),
                    backend: self.endpoint_backend(slice, endpoint, pod, number),
                });
            }
        }
        placed
    }

    /// Whether it is ready is for the cluster to say. Of the pod itself it is known sooner that it is dead,
    /// or on its way out.
    fn endpoint_backend(
        &self,
        slice: &Slice,
        endpoint: &Endpoint,
        pod: Option<&Member>,
        port: u16,
    ) -> BackendSpec {
        let address = endpoint.address;
        let most = match pod {
            Some(pod) if pod.takes == Takes::Nothing || self.is_displaced(pod, address) => Takes::Nothing,
            Some(pod) if pod.leaves => Takes::OldFlows,
            Some(_) | None => Takes::NewFlows,
        };
        let decided_by_pod = pod.filter(|_| most < endpoint.takes);
        BackendSpec {
            address,
            port,
            instance: endpoint.uid.clone(),
            weight: pod.map_or(1, |pod| pod.weight),
            takes: most.min(endpoint.takes),
            changed: decided_by_pod.map_or(slice.changed, |pod| pod.changed),
            origin: Origin::Kubernetes,
            pod: endpoint.place.clone(),
        }
    }

    /// What it says itself, else its node's.
    fn zone(&self, own: Option<&String>, node: Option<&str>) -> Option<String> {
        own.cloned()
            .or_else(|| self.zones.get(node?).map(|zone| (*zone).to_owned()))
    }

    fn is_displaced(&self, pod: &Member, address: IpAddr) -> bool {
        let owner = self.owners.get(&address).filter(|_| !pod.host_network);
        owner.is_some_and(|owner| owner.uid != pod.uid)
    }
}

fn told(pod: &Member, problem: &str) -> String {
    format!("pod {}/{}: {problem}", pod.namespace, pod.name)
}

/// Who has each address, and who is dead.
fn instances(pods: &[Arc<Member>], owners: &HashMap<IpAddr, &Member>) -> Instances {
    let dead = pods.iter().filter(|pod| pod.takes == Takes::Nothing);
    let tenants = owners.iter();
    Instances {
        tenants: tenants
            .map(|(&address, pod)| (address, Arc::clone(&pod.uid)))
            .collect(),
        dead: dead.map(|pod| Arc::clone(&pod.uid)).collect(),
    }
}

/// Who has each address. The network gives one to the next pod as soon as the last one is dead, which
/// may be before that is seen here. Pods of the node's network share theirs and are left out.
fn owners(pods: &[Arc<Member>]) -> HashMap<IpAddr, &Member> {
    let mut owners: HashMap<IpAddr, &Member> = HashMap::new();
    for pod in pods.iter().filter(|pod| !pod.host_network) {
        for &address in &pod.addresses {
            let owner = owners.entry(address).or_insert(pod);
            if pod.displaces(owner) {
                *owner = pod;
            }
        }
    }
    owners
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
    fn port(self, pod: &Member) -> Result<u16, String> {
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
