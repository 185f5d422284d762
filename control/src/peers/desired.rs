//! What should stand in Kubernetes about the balancers of a group. Pure.
//!
//! A Service with `spec.loadBalancerClass: vl3-lb.io/vl3-lb` gets the balancers' addresses into its status.
//! A headless Service without a selector that is labelled `vl3-lb.io/publish: "true"` gets EndpointSlices
//! with them, so that its name resolves in the cluster's DNS too.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use serde_json::{Value, json};
use vl3lb_common::Protocol;

use super::Identity;
use super::lease::GROUP;
use super::peer_set::PeerSet;
use crate::discovery::Accepted;
use crate::kubernetes::names::{CONTROLLER, MANAGED_BY};

/// The label of Services whose EndpointSlices the balancers write.
pub(super) const PUBLISH: &str = "vl3-lb.io/publish";
/// Endpoints of a slice at most; more would need several slices.
const MOST_ENDPOINTS: usize = 100;

/// One of the balancer's services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Balanced {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

/// An object, or the status of one, that is to be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    ServiceStatus,
    EndpointSlice,
}

/// Kind, namespace and name.
pub(super) type Key = (Kind, String, String);

/// What should be, by what it is.
pub(super) type Objects = BTreeMap<Key, Value>;

/// Who balances what, as far as this balancer knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupServices<'a> {
    pub(super) identity: &'a Identity,
    /// This balancer's own addresses; none if it is not ready.
    pub(super) own: &'a [IpAddr],
    pub(super) balancers: &'a PeerSet,
    pub(super) services: &'a [Balanced],
}

impl GroupServices<'_> {
    /// The status of each Service of `accepted` that is to have one.
    pub(super) fn statuses(&self, accepted: &[Accepted]) -> Objects {
        let status = |service: &Accepted| {
            let services = service.services.iter().map(String::as_str);
            let mut addresses = self.balancers.addresses_of_all(services, self.own);
            addresses.sort_unstable();
            let ingress: Vec<Value> = addresses
                .iter()
                // Nodes are to send packets for it there, and not to take them themselves.
                .map(|address| json!({"ip": address.to_string(), "ipMode": "Proxy"}))
                .collect();
            let object = json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": service.name, "namespace": service.namespace, "uid": service.uid},
                "status": {"loadBalancer": {"ingress": ingress}},
            });
            let key = (
                Kind::ServiceStatus,
                service.namespace.clone(),
                service.name.clone(),
            );
            (key, object)
        };
        let load_balancers = accepted.iter().filter(|service| service.load_balancer);
        load_balancers.map(status).collect()
    }

    /// The EndpointSlices of those of `published` that are services of the balancer, one for each
    /// family that there are addresses of.
    pub(super) fn slices<'a>(&self, published: impl IntoIterator<Item = &'a Service>) -> Objects {
        let mut objects = Objects::new();
        for service in published {
            let name = service.metadata.name.as_deref().unwrap_or_default();
            let balanced = self.services.iter().find(|balanced| balanced.name == name);
            let (Some(balanced), Ok(())) = (balanced, publishable(service)) else {
                continue;
            };
            for (suffix, address_type, is_in) in [
                ("ipv4", "IPv4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
                ("ipv6", "IPv6", IpAddr::is_ipv6),
            ] {
                let endpoints = self.endpoints(name, is_in);
                if endpoints.is_empty() {
                    continue;
                }
                let slice = format!("{name}-vl3-lb-{suffix}");
                let object = json!({
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "name": slice,
                        "namespace": self.identity.namespace,
                        "labels": {
                            "kubernetes.io/service-name": name,
                            MANAGED_BY: CONTROLLER,
                            "service.kubernetes.io/headless": "",
                            GROUP: self.identity.group,
                        },
                        "ownerReferences": [{
                            "apiVersion": "v1",
                            "kind": "Service",
                            "name": name,
                            "uid": service.metadata.uid,
                        }],
                    },
                    "addressType": address_type,
                    "endpoints": endpoints,
                    "ports": [{
                        "name": port_name(service, balanced),
                        "protocol": balanced.protocol.to_string(),
                        "port": balanced.port,
                    }],
                });
                let key = (Kind::EndpointSlice, self.identity.namespace.clone(), slice);
                objects.insert(key, object);
            }
        }
        objects
    }

    /// One for each address of each balancer of `service`, by balancer.
    fn endpoints(&self, service: &str, is_in: fn(&IpAddr) -> bool) -> Vec<Value> {
        let all = self.balancers.addresses_of(service, self.own);
        let endpoint = |address: &IpAddr, pod: &str, node: Option<&str>| {
            let target = ObjectReference {
                kind: Some("Pod".to_owned()),
                name: Some(pod.to_owned()),
                namespace: Some(self.identity.namespace.clone()),
                ..ObjectReference::default()
            };
            let mut endpoint = json!({
                "addresses": [address.to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": target,
            });
            if let Some(node) = node {
                endpoint["nodeName"] = node.into();
            }
            endpoint
        };
        let own = self.own.iter().map(|address| {
            let identity = self.identity;
            (identity.pod.as_str(), *address, identity.node.as_deref())
        });
        let peers = self.balancers.peers.iter().flat_map(|peer| {
            let addresses = peer.addresses.iter();
            addresses.map(|address| (peer.name.as_str(), *address, None))
        });
        let mut holders: Vec<_> = own.chain(peers).collect();
        holders.sort_unstable();
        holders.dedup_by_key(|(_, address, _)| *address);
        holders
            .into_iter()
            .filter(|(_, address, _)| all.contains(address) && is_in(address))
            .take(MOST_ENDPOINTS)
            .map(|(pod, address, node)| endpoint(&address, pod, node))
            .collect()
    }
}

/// The name of the Service's port that is the balancer's, which EndpointSlices have to repeat.
fn port_name(service: &Service, balanced: &Balanced) -> String {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let protocol = balanced.protocol.to_string();
    let mut same = ports.filter(|port| {
        port.port == i32::from(balanced.port) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    same.next().and_then(|port| port.name.clone()).unwrap_or_default()
}

/// Whether the balancers' addresses may be endpoints of `service`. Errors: why not.
pub(super) fn publishable(service: &Service) -> Result<(), &'static str> {
    let Some(spec) = &service.spec else {
        return Err("it has no spec");
    };
    if spec
        .selector
        .as_ref()
        .is_some_and(|selector| !selector.is_empty())
    {
        return Err("it has a selector, so its endpoints are pods");
    }
    if spec.cluster_ip.as_deref() != Some("None") {
        return Err("it is not headless (clusterIP: None), and nodes do not reach the balancers' addresses");
    }
    Ok(())
}
