//! Assembles the desired set from services, pods and endpoints. A change rebuilds only the services that it affects.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::admission::{
    Accepted, Admission, Admitted, Capabilities, Decision, Listening, Refused, StaleStatus,
};
use super::backends::{AssembledService, View};
use super::cache::{Change, Scope};
use super::connections::Connections;
use super::inventory::Inventory;
use super::locality::Location;
use super::node::NodeRecord;
use super::pod::PodRecord;
use super::selection::{Owner, Selections};
use super::service::{Reason, ServiceRecord};
use super::slice::SliceRecord;
use crate::config::{self, AddressFrom, Service};
use crate::discovery::Desired;

/// The desired set and the report about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Assembled {
    pub(super) desired: Desired,
    /// Faults of pods, in words.
    pub(super) problems: BTreeSet<String>,
    pub(super) accepted: Vec<Accepted>,
    pub(super) refused: Vec<Refused>,
    pub(super) stale_statuses: Vec<StaleStatus>,
}

/// Collections that the API server refuses to list, so that their objects are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unlisted {
    pub(super) pods: BTreeSet<Scope>,
    pub(super) slices: BTreeSet<Scope>,
}

/// All records, and the services assembled from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assembly {
    kubernetes: config::Kubernetes,
    listening: Vec<Listening>,
    file: Vec<Service>,
    /// Where pods are, if that comes from their connections.
    connections: Arc<Connections>,
    inventory: Inventory,
    unlisted: Unlisted,
    selections: Selections,
    /// The Services that are served, as of the last set.
    pub(super) decision: Decision,
    /// Whether the next set needs a new decision.
    undecided: bool,
    services: BTreeMap<Owner, Vec<AssembledService>>,
    /// Owners whose services the next set rebuilds.
    dirty: BTreeSet<Owner>,
}

impl Assembly {
    /// No records yet. `listening` lists the balancer's own servers.
    pub(super) fn new(kubernetes: &config::Kubernetes, listening: &[Listening], file: &[Service]) -> Self {
        let mut assembly = Self {
            kubernetes: kubernetes.clone(),
            listening: listening.to_vec(),
            file: Vec::new(),
            connections: Arc::default(),
            inventory: Inventory::default(),
            unlisted: Unlisted::default(),
            selections: Selections::default(),
            decision: Decision::default(),
            undecided: true,
            services: BTreeMap::new(),
            dirty: BTreeSet::new(),
        };
        assembly.replace_file(file);
        assembly
    }

    /// Takes over the services of the file. Cost: O(services x pods).
    pub(super) fn replace_file(&mut self, services: &[Service]) {
        self.file = services.to_vec();
        self.selections.remove_file();
        for (position, service) in services.iter().enumerate() {
            let owner = Owner::File(position);
            let pods = self.inventory.pods.values();
            self.selections.insert(&owner, &service.selector, None, pods);
        }
        // Services of the cluster get the names and ports that remain.
        self.rebuild_all();
    }

    /// Follows changes of pods. Cost for each: O(labels + services that select it or have it as an endpoint).
    pub(super) fn replace_pods(&mut self, pods: Vec<Change<PodRecord>>) {
        for mut pod in pods {
            if self.kubernetes.address_from == AddressFrom::Nsm {
                self.locate(&mut pod);
            }
            self.replace_pod(&pod);
        }
    }

    /// Takes over the connections of all pods. Cost: O(pods).
    pub(super) fn replace_connections(&mut self, connections: Arc<Connections>) {
        self.connections = connections;
        let pods: Vec<_> = self.inventory.pods.values().cloned().collect();
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

    /// Replaces the addresses in `pod` by those of its connection.
    fn locate(&self, pod: &mut Change<PodRecord>) {
        if let Some(old) = &mut pod.old
            && let Some(located) = self.inventory.pods.get(&old.uid)
        {
            *old = Arc::clone(located);
        }
        if let Some(new) = &mut pod.new {
            let addresses = self.connections.addresses(&new.place);
            Arc::make_mut(new).addresses = addresses;
        }
    }

    fn replace_pod(&mut self, pod: &Change<PodRecord>) {
        let affected = self.inventory.replace_pod(pod);
        self.dirty.extend(self.selections.replace(pod));
        for uid in &affected.pods {
            self.dirty.extend(self.selections.of_pod(uid).cloned());
        }
        self.dirty
            .extend(affected.services.into_iter().map(Owner::Service));
    }

    /// Follows changes of Services.
    pub(super) fn replace_services(&mut self, services: Vec<Change<ServiceRecord>>) {
        for service in services {
            for record in service.old.iter().chain(&service.new) {
                let owner = Owner::Service(record.key());
                self.selections.remove(&owner);
                self.dirty.insert(owner);
            }
            if let Some(record) = &service.new
                && let Some(selector) = &record.selector
                && record.enabled
                && !self.has_endpoints()
            {
                let owner = Owner::Service(record.key());
                let pods = self.inventory.pods.values();
                self.selections
                    .insert(&owner, selector, Some(&record.namespace), pods);
            }
            self.inventory.replace_service(service);
            self.undecided = true;
        }
    }

    /// Follows changes of EndpointSlices.
    pub(super) fn replace_slices(&mut self, slices: Vec<Change<SliceRecord>>) {
        for slice in slices {
            let records = slice.old.iter().chain(&slice.new);
            self.dirty
                .extend(records.map(|record| Owner::Service(record.service_key())));
            self.inventory.replace_slice(slice);
        }
    }

    /// Follows changes of nodes. Zones seldom change: every service is rebuilt.
    pub(super) fn replace_nodes(&mut self, nodes: Vec<Change<NodeRecord>>) {
        for node in nodes {
            self.inventory.replace_node(node);
            self.rebuild_all();
        }
    }

    /// Sets the collections that cannot be listed. Whether they changed.
    pub(super) fn set_unlisted(&mut self, unlisted: Unlisted) -> bool {
        let changed = self.unlisted != unlisted;
        self.unlisted = unlisted;
        changed
    }

    /// Each service with its backends: the pods that it selects, or the endpoints of the Service.
    ///
    /// Cost: O(services + backends of the services that changed).
    pub(super) fn assemble(&mut self) -> Assembled {
        if std::mem::take(&mut self.undecided) {
            self.decide();
        }
        for owner in std::mem::take(&mut self.dirty) {
            self.rebuild(&owner);
        }
        let services = || self.services.values().flatten();
        let waiting: BTreeSet<&String> = services().flat_map(|service| &service.waiting).collect();
        let mut assembled = Assembled {
            desired: Desired {
                services: services().map(|service| Arc::clone(&service.spec)).collect(),
                instances: Arc::clone(&self.inventory.instances),
                problems: Vec::new(),
                observed: None,
            },
            problems: services()
                .flat_map(|service| &service.problems)
                .cloned()
                .collect(),
            accepted: self.decision.admitted.values().map(Admitted::accepted).collect(),
            refused: self.decision.refused.clone(),
            stale_statuses: self.decision.stale_statuses.clone(),
        };
        let mut problems = Vec::new();
        if self.unlisted != Unlisted::default() {
            problems = self.leave_out_unknown(&mut assembled);
        }
        let refused = assembled.refused.iter().map(ToString::to_string);
        problems.extend(refused.chain(describe_waiting(&waiting)));
        assembled.desired.problems = problems;
        assembled
    }

    /// Leaves out services whose backends are unknown. Served without backends they would reject clients that another
    /// balancer of the group can serve. Returns the problems of the file's services.
    fn leave_out_unknown(&self, assembled: &mut Assembled) -> Vec<String> {
        let mut problems = Vec::new();
        let mut known = Vec::new();
        // Names are unique among all services.
        let mut unknown = HashSet::new();
        for (owner, services) in &self.services {
            let Some(cause) = self.unlisted.cause(owner) else {
                known.extend(services.iter().map(|service| Arc::clone(&service.spec)));
                continue;
            };
            for AssembledService { spec, .. } in services {
                if !spec.backends.is_empty() {
                    known.push(Arc::clone(spec));
                    continue;
                }
                let name = &spec.name;
                let message = format!("not served: no backend of {name} is known, and {cause}");
                match owner {
                    Owner::File(_) => problems.push(format!("service {name}: {message}")),
                    Owner::Service(key) => {
                        unknown.insert(name);
                        let admitted = self.decision.admitted.get(key);
                        let reason = Reason::new("BackendsUnknown", message);
                        assembled
                            .refused
                            .extend(admitted.map(|admitted| Refused::new(&admitted.record, reason)));
                    }
                }
            }
        }
        assembled.accepted.retain_mut(|accepted| {
            accepted.services.retain(|service| !unknown.contains(service));
            !accepted.services.is_empty()
        });
        assembled.desired.services = known;
        problems
    }

    /// Decides which Services are served. Those of the last decision keep their names and ports.
    fn decide(&mut self) {
        let location = self.view().location;
        let capabilities = Capabilities {
            node: location.node.is_some(),
            zone: location.zone.is_some(),
            endpoints: self.has_endpoints(),
        };
        let admission = Admission::new(&self.file, &self.listening, capabilities);
        let decision = admission.decide(self.inventory.services.values(), &self.decision.admitted);
        let (before, now) = (&self.decision.admitted, &decision.admitted);
        let changed = before
            .keys()
            .chain(now.keys())
            .filter(|key| before.get(*key) != now.get(*key));
        self.dirty.extend(changed.cloned().map(Owner::Service));
        self.decision = decision;
    }

    /// Rebuilds the services of `owner`. Those that stay the same keep their allocation.
    fn rebuild(&mut self, owner: &Owner) {
        let view = self.view();
        let selection = self.selections.get(owner);
        let mut rebuilt = match owner {
            Owner::File(position) => {
                let service = self.file.get(*position);
                let rebuilt = service.map(|service| view.file_service(service, selection));
                rebuilt.into_iter().collect::<Vec<_>>()
            }
            Owner::Service(key) => {
                let admitted = self.decision.admitted.get(key);
                let ports = admitted.into_iter().flat_map(|admitted| {
                    let ports = admitted.ports.iter();
                    ports.map(|(port, name)| view.port(&admitted.record, port, name, selection))
                });
                ports.collect()
            }
        };
        let former = self.services.remove(owner).unwrap_or_default();
        for (service, former) in rebuilt.iter_mut().zip(former) {
            if service.spec == former.spec {
                service.spec = former.spec;
            }
        }
        if !rebuilt.is_empty() {
            self.services.insert(owner.clone(), rebuilt);
        }
    }

    fn view(&self) -> View<'_> {
        let topology = &self.kubernetes.topology;
        let node = topology.node.as_deref();
        let label = node.and_then(|node| self.inventory.zones.get(node));
        View {
            inventory: &self.inventory,
            location: Location {
                node,
                zone: topology.zone.as_ref().or(label).map(String::as_str),
                prefer: topology.prefer,
            },
            connected: self.kubernetes.address_from == AddressFrom::Nsm,
        }
    }

    /// Whether the backends of a Service are its endpoints: those have the addresses of pods, or others that their
    /// author wrote.
    fn has_endpoints(&self) -> bool {
        self.kubernetes.address_from == AddressFrom::PodIp
    }

    /// Makes the next set a complete rebuild.
    pub(super) fn rebuild_all(&mut self) {
        self.undecided = true;
        let admitted = self.decision.admitted.keys().cloned().map(Owner::Service);
        let file = (0..self.file.len()).map(Owner::File);
        let built = self.services.keys().cloned();
        self.dirty.extend(admitted.chain(file).chain(built));
    }
}

impl Unlisted {
    /// Why backends of `owner` may be unknown; `None` if all are known.
    fn cause(&self, owner: &Owner) -> Option<String> {
        let concerns = |scope: &&Scope| match owner {
            Owner::File(_) => true,
            Owner::Service((namespace, _)) => scope.as_ref().is_none_or(|scope| scope == namespace),
        };
        let pods = self.pods.iter().find(concerns).map(|scope| ("pods", scope));
        let slices = || {
            let is_service = matches!(owner, Owner::Service(_));
            let mut slices = self.slices.iter().filter(|_| is_service);
            slices.find(concerns).map(|scope| ("endpointslices", scope))
        };
        let (kind, scope) = pods.or_else(slices)?;
        let scope = scope
            .as_ref()
            .map_or_else(|| "all namespaces".to_owned(), |name| format!("namespace {name}"));
        Some(format!("{kind} in {scope} cannot be listed"))
    }
}

/// The problem of pods that are ready and have no known connection.
fn describe_waiting(pods: &BTreeSet<&String>) -> Option<String> {
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
