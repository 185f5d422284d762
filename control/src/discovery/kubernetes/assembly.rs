//! Assembles the desired set from services, pods and endpoints. A change rebuilds only the services that it affects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::admission::{
    Accepted, Admission, Admitted, Capabilities, Decision, Listening, Refused, StaleStatus,
};
use super::backends::{self, AssembledService, View};
use super::cache::Change;
use super::claims::{Claims, Surroundings};
use super::connections::Connections;
use super::denied::{self, Denied};
use super::inventory::Inventory;
use super::locality::Location;
use super::node::NodeRecord;
use super::pod::PodRecord;
use super::quota;
use super::selection::{Owner, Selections};
use super::service::ServiceRecord;
use super::slice::SliceRecord;
use super::unlisted::Unlisted;
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
    /// Pods and endpoints that were left out, in words, with the number of all by reason.
    pub(super) denied: BTreeSet<Denied>,
    pub(super) left_out: BTreeMap<&'static str, u64>,
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
    surroundings: Surroundings,
    /// Whether the next set needs all claims to be judged again.
    unjudged: bool,
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
            surroundings: Surroundings::default(),
            unjudged: false,
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
            self.recall(&mut pod);
            if self.kubernetes.address_from == AddressFrom::Nsm {
                self.locate(&mut pod);
            }
            self.judge(&mut pod);
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

    /// Takes over the balancer's network. Cost if it is another one: O(pods + services).
    pub(super) fn replace_surroundings(&mut self, surroundings: Surroundings) -> bool {
        let changed = self.surroundings != surroundings;
        if changed {
            self.surroundings = surroundings;
            self.unjudged = true;
            // Services with addresses of a pool may get others.
            self.undecided = true;
        }
        changed
    }

    /// Replaces the former record of `pod` by the one in use, whose addresses may be others.
    fn recall(&self, pod: &mut Change<PodRecord>) {
        if let Some(old) = &mut pod.old
            && let Some(used) = self.inventory.pods.get(&old.uid)
        {
            *old = Arc::clone(used);
        }
    }

    /// Separates the addresses that `pod` claims into those that it may have and the others.
    fn judge(&self, pod: &mut Change<PodRecord>) {
        let Some(new) = &mut pod.new else { return };
        let Some(claim) = &new.claim else { return };
        let claims = self.claims();
        let mut addresses = Vec::new();
        let mut denied = Vec::new();
        for &address in &claim.addresses {
            match claims.judge(&new.namespace, address) {
                Ok(()) => addresses.push(address),
                Err(denial) => denied.push(denial),
            }
        }
        if new.denied != denied || new.addresses != addresses {
            let new = Arc::make_mut(new);
            (new.addresses, new.denied) = (addresses, denied);
        }
    }

    /// Judges all claims again.
    fn judge_all(&mut self) {
        let pods: Vec<_> = self.inventory.pods.values().cloned().collect();
        for pod in pods {
            let mut judged = Change {
                old: Some(Arc::clone(&pod)),
                new: Some(pod),
            };
            self.judge(&mut judged);
            if judged.old != judged.new {
                self.replace_pod(&judged);
            }
        }
    }

    fn claims(&self) -> Claims<'_> {
        Claims {
            rules: &self.kubernetes.claims,
            surroundings: &self.surroundings,
            inventory: &self.inventory,
        }
    }

    /// Replaces the addresses in `pod` by those of its connection.
    fn locate(&self, pod: &mut Change<PodRecord>) {
        if let Some(new) = &mut pod.new {
            let addresses = self.connections.addresses(&new.place);
            Arc::make_mut(new).addresses = addresses;
        }
    }

    fn replace_pod(&mut self, pod: &Change<PodRecord>) {
        let affected = self.inventory.replace_pod(pod);
        self.unjudged |= affected.holders_changed && self.has_claims();
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
        if std::mem::take(&mut self.unjudged) {
            self.judge_all();
            // Judging moves no address in the status of a pod.
            self.unjudged = false;
            self.rebuild_endpoints();
        }
        if std::mem::take(&mut self.undecided) {
            self.decide();
        }
        for owner in std::mem::take(&mut self.dirty) {
            self.rebuild(&owner);
        }
        let granted = quota::granted(&self.services, &self.kubernetes);
        let services = || self.services.values().flatten();
        let waiting: BTreeSet<&String> = services().flat_map(|service| &service.waiting).collect();
        let mut assembled = Assembled {
            desired: Desired {
                services: granted
                    .iter()
                    .map(|(_, granted)| Arc::clone(&granted.spec))
                    .collect(),
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
            denied: BTreeSet::new(),
            left_out: BTreeMap::new(),
        };
        let mut problems = denied::report(
            &self.services,
            &granted,
            &self.file,
            &self.decision,
            &mut assembled,
        );
        if self.unlisted != Unlisted::default() {
            problems.extend(
                self.unlisted
                    .leave_out(&self.services, &self.decision, &mut assembled),
            );
        }
        for refused in &assembled.refused {
            *assembled.left_out.entry(refused.reason).or_default() += 1;
        }
        let refused = assembled.refused.iter().map(ToString::to_string);
        problems.extend(refused.chain(backends::describe_waiting(&waiting)));
        assembled.desired.problems = problems;
        assembled
    }

    /// Decides which Services are served. Those of the last decision keep their names and ports.
    fn decide(&mut self) {
        let location = self.view().location;
        let capabilities = Capabilities {
            node: location.node.is_some(),
            zone: location.zone.is_some(),
            endpoints: self.has_endpoints(),
        };
        let own = self.surroundings.own();
        let admission = Admission::new(&self.file, &self.listening, &self.kubernetes, own, capabilities);
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
                    ports.map(|(port, name)| view.port(admitted, port, name, selection))
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
            claims: self.claims(),
            connected: self.kubernetes.address_from == AddressFrom::Nsm,
        }
    }

    /// Whether the backends of a Service are its endpoints: those have the addresses of pods, or others that their
    /// author wrote.
    fn has_endpoints(&self) -> bool {
        self.kubernetes.address_from == AddressFrom::PodIp
    }

    /// Whether the addresses of pods are claims.
    const fn has_claims(&self) -> bool {
        matches!(
            self.kubernetes.address_from,
            AddressFrom::NetworkStatus(_) | AddressFrom::Annotation(_)
        )
    }

    /// Makes the next set rebuild all services with endpoints.
    fn rebuild_endpoints(&mut self) {
        let services = self.inventory.slices.keys().cloned();
        self.dirty.extend(services.map(Owner::Service));
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
