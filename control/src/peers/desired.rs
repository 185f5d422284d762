//! The objects that a group should have in Kubernetes. Pure.
//!
//! A Service with `spec.loadBalancerClass: vl3-lb.io/vl3-lb` has the balancers' addresses in its status; those of other
//! groups that serve it stay there (`crate::kubernetes::ingress`). A headless Service without a selector that is
//! labelled `vl3-lb.io/publish: "true"` has EndpointSlices with them, so that its name resolves in the cluster's DNS too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use serde_json::{Map, Value, json};
use vl3lb_common::Protocol;

use super::identity::Identity;
use super::lease::GROUP;
use super::peer_set::PeerSet;
use crate::discovery::{Accepted, StaleStatus};
use crate::kubernetes::ingress;
use crate::kubernetes::names::{CONTROLLER, MANAGED_BY, qualified};

/// The label of Services whose EndpointSlices the balancers write.
pub(super) const PUBLISH: &str = "vl3-lb.io/publish";
/// Endpoints of a slice at most; more would need several slices.
const MOST_ENDPOINTS: usize = 100;

/// One of the balancer's services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BalancedService {
    pub(super) name: String,
    /// The name that all balancers of the group have for it.
    pub(super) group_name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

/// The written objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    ServiceStatus,
    EndpointSlice,
}

/// Kind, namespace and name.
pub(super) type Key = (Kind, String, String);

/// An object as it should be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Object {
    /// The desired content.
    pub(super) value: Value,
    /// The content that withdraws it; `None`: it is deleted.
    pub(super) withdrawal: Option<Value>,
}

pub(super) type Objects = BTreeMap<Key, Object>;

/// The state of the group, as far as this balancer knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) identity: &'a Identity,
    /// This balancer's addresses; none if it serves nothing.
    pub(super) own: &'a [IpAddr],
    /// Those of services that do not listen at all of them.
    pub(super) own_of_services: &'a BTreeMap<String, Vec<IpAddr>>,
    pub(super) peers: &'a PeerSet,
    pub(super) services: &'a [BalancedService],
}

impl Inputs<'_> {
    /// This balancer's addresses at which it serves `service`; none if it serves nothing.
    fn own_of(&self, service: &str) -> &[IpAddr] {
        let restricted = self.own_of_services.get(service).filter(|_| !self.own.is_empty());
        restricted.map_or(self.own, Vec::as_slice)
    }

    /// The status of each of `accepted` that is to have one.
    pub(super) fn statuses(&self, accepted: &[Accepted]) -> Objects {
        let annotation = self.identity.ingress_annotation();
        let status = |service: &Accepted| {
            let services = service.services.iter();
            let services: Vec<String> = services.map(|name| qualified(name, &service.namespace)).collect();
            let own = services.first().map_or(self.own, |first| self.own_of(first));
            let services = services.iter().map(String::as_str);
            let addresses = self.peers.addresses_of_all(services, own);
            let group: BTreeSet<IpAddr> = addresses.into_iter().collect();
            let others = ingress::others(&service.group_ingress, &annotation);
            let write = |group: &BTreeSet<IpAddr>| {
                let addresses: Vec<String> = group.iter().map(ToString::to_string).collect();
                let addresses = (!addresses.is_empty()).then(|| addresses.join(","));
                let annotations = [(annotation.clone(), json!(addresses))].into_iter().collect();
                let mut patch = status_patch(annotations, group.union(&others));
                // Not of another Service of that name.
                patch["metadata"]["uid"] = json!(service.uid);
                patch
            };
            let key = (
                Kind::ServiceStatus,
                service.namespace.clone(),
                service.name.clone(),
            );
            let object = Object {
                value: write(&group),
                withdrawal: Some(write(&BTreeSet::new())),
            };
            (key, object)
        };
        let load_balancers = accepted.iter().filter(|service| service.load_balancer);
        load_balancers.map(status).collect()
    }

    /// The EndpointSlices of those of `published` that are services of the balancer: one for each address family
    /// in use.
    pub(super) fn slices<'a>(&self, published: impl IntoIterator<Item = &'a Service>) -> Objects {
        let mut objects = Objects::new();
        for service in published {
            let name = service.metadata.name.as_deref().unwrap_or_default();
            let mut balanced = self.services.iter().filter(|balanced| balanced.name == name);
            let (Some(first), Ok(())) = (balanced.next(), publishable(service)) else {
                continue;
            };
            // All endpoints of a slice have the same ports.
            if balanced.any(|other| (other.protocol, other.port) != (first.protocol, first.port)) {
                continue;
            }
            let balanced = first;
            for (suffix, address_type, is_in) in [
                ("ipv4", "IPv4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
                ("ipv6", "IPv6", IpAddr::is_ipv6),
            ] {
                let endpoints = self.endpoints(&balanced.group_name, is_in);
                if endpoints.is_empty() {
                    continue;
                }
                // The slice of another group that publishes the same Service has another name.
                let slice = format!("{name}-{}-{suffix}", self.identity.group);
                let value = json!({
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
                objects.insert(
                    key,
                    Object {
                        value,
                        withdrawal: None,
                    },
                );
            }
        }
        objects
    }

    /// One endpoint for each address of each balancer of `service`, by balancer.
    fn endpoints(&self, service: &str, is_in: fn(&IpAddr) -> bool) -> Vec<Value> {
        let all = self.peers.addresses_of(service, self.own_of(service));
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
        let peers = self.peers.peers.iter().flat_map(|peer| {
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

/// The patch that withdraws the addresses of `identity`'s group from a status, and all addresses if no group is to
/// serve the Service. `None` if there is nothing of the group.
pub(super) fn withdrawal(stale: &StaleStatus, identity: &Identity) -> Option<Value> {
    let own = identity.ingress_annotation();
    if stale.unserved {
        let names = stale
            .group_ingress
            .iter()
            .map(|ingress| ingress.annotation.clone());
        let annotations = names.map(|annotation| (annotation, Value::Null)).collect();
        return Some(status_patch(annotations, []));
    }
    let contributed = stale
        .group_ingress
        .iter()
        .any(|ingress| ingress.annotation == own);
    let others = ingress::others(&stale.group_ingress, &own);
    contributed.then(|| status_patch([(own, Value::Null)].into_iter().collect(), &others))
}

/// A merge patch (RFC 7396) of a Service's status; annotations that are null are removed.
fn status_patch<'a>(
    annotations: Map<String, Value>,
    addresses: impl IntoIterator<Item = &'a IpAddr>,
) -> Value {
    let ingress: Vec<Value> = addresses
        .into_iter()
        // `Proxy`: nodes send packets for it there, and do not take them themselves.
        .map(|address| json!({"ip": address.to_string(), "ipMode": "Proxy"}))
        .collect();
    json!({
        "metadata": {"annotations": annotations},
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

/// The name of the Service's port that the balancer serves; EndpointSlices have to repeat it.
fn port_name(service: &Service, balanced: &BalancedService) -> String {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let protocol = balanced.protocol.to_string();
    let mut same = ports.filter(|port| {
        port.port == i32::from(balanced.port) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    same.next().and_then(|port| port.name.clone()).unwrap_or_default()
}

/// The balancers' addresses cannot be endpoints of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotPublishable {
    #[error("it has no spec")]
    NoSpec,
    #[error("it has a selector, so its endpoints are pods")]
    Selector,
    #[error("it is not headless (clusterIP: None), and nodes do not reach the balancers' addresses")]
    ClusterIp,
}

/// Whether the balancers' addresses can be endpoints of `service`.
pub(super) fn publishable(service: &Service) -> Result<(), NotPublishable> {
    let Some(spec) = &service.spec else {
        return Err(NotPublishable::NoSpec);
    };
    if spec
        .selector
        .as_ref()
        .is_some_and(|selector| !selector.is_empty())
    {
        return Err(NotPublishable::Selector);
    }
    if spec.cluster_ip.as_deref() != Some("None") {
        return Err(NotPublishable::ClusterIp);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::ingress::GroupIngress;

    fn identity() -> Identity {
        Identity {
            group: "finance".to_owned(),
            namespace: "lb".to_owned(),
            pod: "lb-a".to_owned(),
            uid: None,
            node: None,
        }
    }

    fn group_ingress(group: &str, addresses: &[&str]) -> GroupIngress {
        GroupIngress {
            annotation: format!("{group}.lb.vl3-lb.io/ingress"),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    fn ingress(patch: &Value) -> Vec<&str> {
        let ingress = patch["status"]["loadBalancer"]["ingress"].as_array().unwrap();
        ingress
            .iter()
            .map(|entry| entry["ip"].as_str().unwrap())
            .collect()
    }

    #[test]
    fn a_status_keeps_the_addresses_of_other_groups() {
        let accepted = Accepted {
            namespace: "web".to_owned(),
            name: "front".to_owned(),
            uid: "u1".to_owned(),
            load_balancer: true,
            services: vec!["front".to_owned()],
            group_ingress: vec![
                group_ingress("finance", &["172.16.1.9"]),
                group_ingress("ledger", &["172.16.1.2", "2001:db8::2"]),
            ],
        };
        let inputs = Inputs {
            identity: &identity(),
            own: &["172.16.1.5".parse().unwrap()],
            own_of_services: &BTreeMap::new(),
            peers: &PeerSet::default(),
            services: &[],
        };
        let objects = inputs.statuses(&[accepted]);
        let object = objects.values().next().unwrap();
        assert_eq!(
            ingress(&object.value),
            ["172.16.1.2", "172.16.1.5", "2001:db8::2"]
        );
        let annotations = &object.value["metadata"]["annotations"];
        assert_eq!(
            annotations,
            &json!({"finance.lb.vl3-lb.io/ingress": "172.16.1.5"})
        );
        let withdrawal = object.withdrawal.as_ref().unwrap();
        assert_eq!(ingress(withdrawal), ["172.16.1.2", "2001:db8::2"]);
        let annotations = &withdrawal["metadata"]["annotations"];
        assert_eq!(annotations, &json!({"finance.lb.vl3-lb.io/ingress": null}));
    }

    #[test]
    fn the_status_has_the_addresses_at_which_the_service_listens() {
        let accepted = |name: &str| Accepted {
            namespace: "web".to_owned(),
            name: name.to_owned(),
            uid: "u1".to_owned(),
            load_balancer: true,
            services: vec![name.to_owned()],
            group_ingress: Vec::new(),
        };
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let at = |text: &str| [("front.web".to_owned(), vec![ip(text)])].into();
        let peer = super::super::peer_set::Peer {
            name: "lb-b".to_owned(),
            ready: true,
            addresses: vec![ip("172.16.1.7"), ip("172.16.1.8")],
            services: ["front.web".to_owned(), "back.web".to_owned()].into(),
            service_addresses: at("172.16.1.8"),
            since: std::time::SystemTime::UNIX_EPOCH,
        };
        let peers = PeerSet {
            peers: vec![peer],
            ..PeerSet::default()
        };
        let own = at("172.16.1.6");
        let of = |name: &str, own_addresses: &[IpAddr]| {
            let inputs = Inputs {
                identity: &identity(),
                own: own_addresses,
                own_of_services: &own,
                peers: &peers,
                services: &[],
            };
            let objects = inputs.statuses(&[accepted(name)]);
            let ingress = ingress(&objects.values().next().unwrap().value);
            ingress.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let own_addresses = [ip("172.16.1.5"), ip("172.16.1.6")];
        assert_eq!(of("front", &own_addresses), ["172.16.1.6", "172.16.1.8"]);
        assert_eq!(
            of("back", &own_addresses),
            ["172.16.1.5", "172.16.1.6", "172.16.1.7", "172.16.1.8"]
        );
        assert_eq!(of("front", &[]), ["172.16.1.8"], "this balancer serves nothing");
    }

    #[test]
    fn a_stale_status_loses_the_addresses_of_this_group_or_of_all() {
        let stale = |unserved, group_ingress| StaleStatus {
            namespace: "web".to_owned(),
            name: "front".to_owned(),
            group_ingress,
            unserved,
        };
        let (own, other) = (
            group_ingress("finance", &["172.16.1.1"]),
            group_ingress("ledger", &["172.16.1.2"]),
        );
        let identity = identity();
        let refused_here = withdrawal(&stale(false, vec![own.clone(), other.clone()]), &identity).unwrap();
        assert_eq!(ingress(&refused_here), ["172.16.1.2"]);
        assert_eq!(withdrawal(&stale(false, vec![other.clone()]), &identity), None);
        let unserved = withdrawal(&stale(true, vec![own, other]), &identity).unwrap();
        assert!(ingress(&unserved).is_empty());
        assert_eq!(unserved["metadata"]["annotations"].as_object().unwrap().len(), 2);
        // Written by a version without annotations.
        assert!(withdrawal(&stale(true, vec![]), &identity).is_some());
    }
}
