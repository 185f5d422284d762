//! Services, pods and endpoints become the desired set: again only those services that a change touches.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use vl3lb_common::Protocol;

use super::admission::{Accepted, Admission, Admitted, Capabilities, Decision, Refused, StaleStatus};
use super::backends::{AssembledService, View};
use super::cache::Change;
use super::connections::Connections;
use super::inventory::{Inventory, Key};
use super::locality::Location;
use super::node;
use super::pod::PodRecord;
use super::selection::Selection;
use super::service::ServiceRecord;
use super::slice::SliceRecord;
use crate::config::{self, AddressFrom, Service};
use crate::discovery::Desired;

/// A protocol and port that a server of the balancer itself listens on, and which one that is.
pub(super) type Listening = (Protocol, u16, &'static str);

/// The desired set, and what is to be said about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Assembled {
    pub(super) desired: Desired,
    /// What is wrong with pods, in words.
    pub(super) problems: BTreeSet<String>,
    pub(super) accepted: Vec<Accepted>,
    pub(super) refused: Vec<Refused>,
    pub(super) stale_statuses: Vec<StaleStatus>,
}

/// Who wants services.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Owner {
    /// The configuration file, by the order in it.
    File(usize),
    /// A Service.
    ServiceRecord(Key),
}

/// Where a service is among all: owner, protocol and port.
type PartKey = (Owner, Protocol, u16);

/// What is known, what is wanted, and the services that were put together from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assembly {
    kubernetes: config::Kubernetes,
    listening: Vec<Listening>,
    file: Vec<Service>,
    /// Where pods are, if their connections say it.
    connections: Arc<Connections>,
    known: Inventory,
    selections: BTreeMap<Owner, Selection>,
    /// Which Services are served; `None` if that is to be decided again.
    decided: Option<Decision>,
    parts: BTreeMap<PartKey, AssembledService>,
    /// Whose parts have to be put together again.
    stale: HashSet<Owner>,
}

impl Assembly {
    /// Nothing known yet. `listening` is where the balancer's own servers are.
    pub(super) fn new(kubernetes: &config::Kubernetes, listening: &[Listening], file: &[Service]) -> Self {
        let mut assembly = Self {
            kubernetes: kubernetes.clone(),
            listening: listening.to_vec(),
            file: Vec::new(),
            connections: Arc::default(),
            known: Inventory::default(),
            selections: BTreeMap::new(),
            decided: None,
            parts: BTreeMap::new(),
            stale: HashSet::new(),
        };
        assembly.follow_file(file);
        assembly
    }

    /// Takes over the services of the file. Cost: O(services x pods).
    pub(super) fn follow_file(&mut self, services: &[Service]) {
        self.file = services.to_vec();
        self.selections
            .retain(|owner, _| matches!(owner, Owner::ServiceRecord(_)));
        for (place, service) in services.iter().enumerate() {
            let selection = Selection::new(&service.selector, None, self.known.pods.values());
            self.selections.insert(Owner::File(place), selection);
        }
        // Those of the cluster have the names and ports that are left.
        self.forget_all();
    }

    /// Takes note of pods. Cost: O(services) for each.
    pub(super) fn replace_pods(&mut self, pods: Vec<Change<PodRecord>>) {
        for mut pod in pods {
            if self.kubernetes.address_from == AddressFrom::Nsm {
                self.locate(&mut pod);
            }
            self.replace_pod(&pod);
        }
    }

    /// Takes note of where all pods are. Cost: O(pods).
    pub(super) fn follow_connections(&mut self, connections: Arc<Connections>) {
        self.connections = connections;
        let pods: Vec<_> = self.known.pods.values().cloned().collect();
        for pod in pods {
            let mut moved = Change {
                old: Some(Arc::clone(&pod)),
                new: Some(pod),
            };
            self.locate(&mut moved);
            if moved.old != moved.new {
                self.replace_pod(&moved);
            }
        }
    }

    /// Puts the addresses of the pod's connection in, and what was put in before.
    fn locate(&self, pod: &mut Change<PodRecord>) {
        if let Some(was) = &mut pod.old
            && let Some(known) = self.known.pods.get(&was.uid)
        {
            *was = Arc::clone(known);
        }
        if let Some(is) = &mut pod.new {
            let addresses = self.connections.addresses(&is.place);
            Arc::make_mut(is).addresses = addresses;
        }
    }

    fn replace_pod(&mut self, pod: &Change<PodRecord>) {
        let touched = self.known.replace_pod(pod);
        for (owner, selection) in &mut self.selections {
            if selection.replace(pod) || touched.pods.iter().any(|uid| selection.has(uid)) {
                self.stale.insert(owner.clone());
            }
        }
        self.stale
            .extend(touched.services.into_iter().map(Owner::ServiceRecord));
    }

    /// Takes note of Services.
    pub(super) fn replace_services(&mut self, services: Vec<Change<ServiceRecord>>) {
        for service in services {
            for declared in service.old.iter().chain(&service.new) {
                let owner = Owner::ServiceRecord(declared.key());
                self.selections.remove(&owner);
                self.stale.insert(owner);
            }
            let selector = service
                .new
                .as_ref()
                .and_then(|is| Some((is, is.selector.as_ref()?)));
            if let Some((declared, selector)) = selector.filter(|(is, _)| is.enabled && !self.has_endpoints())
            {
                let namespace = Some(declared.namespace.as_str());
                let selection = Selection::new(selector, namespace, self.known.pods.values());
                self.selections
                    .insert(Owner::ServiceRecord(declared.key()), selection);
            }
            self.known.replace_service(service);
            self.decided = None;
        }
    }

    /// Takes note of EndpointSlices.
    pub(super) fn replace_slices(&mut self, slices: Vec<Change<SliceRecord>>) {
        for slice in slices {
            let services = slice.old.iter().chain(&slice.new);
            self.stale
                .extend(services.map(|slice| Owner::ServiceRecord(slice.of())));
            self.known.replace_slice(slice);
        }
    }

    /// Takes note of nodes. They seldom move: everything is put together again.
    pub(super) fn replace_nodes(&mut self, nodes: Vec<Change<node::NodeRecord>>) {
        for node in nodes {
            self.known.replace_node(node);
            self.forget_all();
        }
    }

    /// Each service with its backends: the pods that it selects, or the endpoints of the Service.
    ///
    /// Cost: O(services + backends of those that are touched).
    pub(super) fn assemble(&mut self) -> Assembled {
        let decided = self.decided.take().unwrap_or_else(|| self.decide());
        let mut former = std::mem::take(&mut self.parts);
        let stale = std::mem::take(&mut self.stale);
        let mut kept = |key: &PartKey| former.remove(key).filter(|_| !stale.contains(&key.0));
        let view = self.view();
        let mut parts = BTreeMap::new();
        for (number, service) in self.file.iter().enumerate() {
            let key = (Owner::File(number), service.protocol, service.port);
            let selection = self.selections.get(&key.0);
            let part = kept(&key).unwrap_or_else(|| view.file_service(service, selection));
            parts.insert(key, part);
        }
        for admitted in &decided.admitted {
            let declared = &admitted.declared;
            let owner = Owner::ServiceRecord(declared.key());
            for (port, name) in &admitted.ports {
                let key = (owner.clone(), port.protocol, port.port);
                let selection = self.selections.get(&owner);
                let part = kept(&key).unwrap_or_else(|| view.port(declared, port, name, selection));
                parts.insert(key, part);
            }
        }
        self.parts = parts;
        let parts = self.parts.values();
        let refused = decided.refused.iter().map(ToString::to_string);
        let waiting: BTreeSet<&String> = parts.clone().flat_map(|part| &part.waiting).collect();
        let collected = Assembled {
            desired: Desired {
                services: parts.clone().map(|part| Arc::clone(&part.spec)).collect(),
                instances: Arc::clone(&self.known.instances),
                problems: refused.chain(told_waiting(&waiting)).collect(),
                observed: None,
            },
            problems: parts.flat_map(|part| &part.problems).cloned().collect(),
            accepted: decided.admitted.iter().map(Admitted::accepted).collect(),
            refused: decided.refused.clone(),
            stale_statuses: decided.stale_statuses.clone(),
        };
        self.decided = Some(decided);
        collected
    }

    fn view(&self) -> View<'_> {
        let topology = &self.kubernetes.topology;
        let node = topology.node.as_deref();
        let label = node.and_then(|node| self.known.zones.get(node));
        View {
            known: &self.known,
            here: Location {
                node,
                zone: topology.zone.as_ref().or(label).map(String::as_str),
                prefer: topology.prefer,
            },
            connected: self.kubernetes.address_from == AddressFrom::Nsm,
        }
    }

    fn decide(&self) -> Decision {
        let here = self.view().here;
        let means = Capabilities {
            node: here.node.is_some(),
            zone: here.zone.is_some(),
            endpoints: self.has_endpoints(),
        };
        Admission::new(&self.file, &self.listening, means).decide(self.known.services.values())
    }

    /// Whether the backends of a Service are its endpoints: those have the addresses of pods, or whatever
    /// somebody wrote into them.
    fn has_endpoints(&self) -> bool {
        self.kubernetes.address_from == AddressFrom::PodIp
    }

    /// Has all services put together again.
    pub(super) fn forget_all(&mut self) {
        self.decided = None;
        self.parts.clear();
    }
}

/// What is to be said of pods that are ready and whose connection is not known.
fn told_waiting(pods: &BTreeSet<&String>) -> Option<String> {
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
