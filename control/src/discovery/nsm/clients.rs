//! All clients of the network service with the addresses that are theirs, and what discovery makes of them.

use std::net::IpAddr;
use std::sync::Arc;

use super::connection::Connection;
use crate::config::{Service, TargetPort};
use crate::discovery::kubernetes;
use crate::discovery::{BackendSpec, Desired, Eligibility, Instances, Origin, PodPlace, ServiceSpec};

/// All clients, without the balancer and the endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Clients {
    /// One for each connection.
    pub(super) members: Vec<Member>,
    /// Owners of all addresses, and clients that have left.
    pub(super) instances: Arc<Instances>,
}

/// A client by one of its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) connection: Arc<Connection>,
    /// The addresses that are its own, each with the instance that has its flows.
    pub(super) addresses: Vec<(IpAddr, Arc<str>)>,
    pub(super) is_long_down: bool,
    /// Whether its pod name belongs to another client.
    pub(super) is_imposter: bool,
    /// Its pod, as far as it is known.
    pub(super) place: Arc<PodPlace>,
}

impl Clients {
    /// Each of `services` with the clients that its selector selects. Unchanged services share their allocation with
    /// `last`. Cost: O(services x clients).
    pub(super) fn desired(&self, services: &[Service], last: &[Arc<ServiceSpec>]) -> Desired {
        let services = services.iter().map(|service| {
            let spec = self.service(service);
            let before = last.iter().find(|before| ***before == spec);
            before.map_or_else(|| Arc::new(spec), Arc::clone)
        });
        Desired {
            services: services.collect(),
            instances: Arc::clone(&self.instances),
            problems: Vec::new(),
            observed: None,
        }
    }

    fn service(&self, service: &Service) -> ServiceSpec {
        let port = match service.target_port {
            TargetPort::Number(port) => port,
            // The configuration refuses this with NSM discovery.
            TargetPort::Name(_) => service.port,
        };
        let selected = || {
            let members = self.members.iter();
            members.filter(|member| service.selector.matches(&member.connection.labels))
        };
        // Without a health check nothing else says whether a connection that is down still works.
        let is_judged = service.health_check.is_none() && selected().any(|member| !member.is_long_down);
        let backends = selected().flat_map(|member| {
            let weight = u16::from(!(is_judged && member.is_long_down));
            let labels = &member.connection.labels;
            let backup = service
                .backup_selector
                .as_ref()
                .is_some_and(|backups| backups.matches(labels));
            member
                .addresses
                .iter()
                .map(move |(address, instance)| BackendSpec {
                    address: *address,
                    port,
                    instance: Some(Arc::clone(instance)),
                    weight,
                    backup,
                    eligibility: Eligibility::NewFlows,
                    changed: None,
                    origin: Origin::Nsm,
                    pod: Some(Arc::clone(&member.place)),
                })
        });
        let mut backends: Vec<BackendSpec> = backends.collect();
        backends.sort_unstable_by_key(|backend| backend.address);
        ServiceSpec::new(service, port, backends)
    }

    /// Where pods are in the vL3 network. A client whose identity names another pod than its name does is left out, as
    /// is one that claims the name of another.
    pub(super) fn connections(&self) -> kubernetes::Connections {
        let members = self.members.iter().filter(|member| !member.is_imposter);
        let members = members.filter(|member| {
            let client = &member.connection.client;
            let pod = client.subject.as_ref().and_then(|subject| subject.pod());
            pod.is_none_or(|pod| pod == client.pod())
        });
        let connections = members.map(|member| {
            let client = &member.connection.client;
            kubernetes::Connection {
                pod: client.pod().to_owned(),
                namespace: client.namespace().map(str::to_owned),
                node: member.place.node.clone(),
                addresses: member.addresses.iter().map(|(address, _)| *address).collect(),
            }
        });
        connections.collect()
    }
}
