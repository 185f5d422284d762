//! The record of an EndpointSlice.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{self, EndpointConditions, EndpointPort, EndpointSlice};
use kube::{Api, Client};
use vl3lb_common::Protocol;

use super::cache::Record;
use super::inventory::Key;
use super::service::protocol;
use crate::config::unicast;
use crate::discovery::{Eligibility, PodPlace};

/// The label that names the Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// The annotation with the time of the last change, in RFC 3339.
const CHANGED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Some or all endpoints of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SliceRecord {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The Service's name.
    pub(super) service: String,
    pub(super) ports: Vec<Port>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) changed: Option<SystemTime>,
}

/// The port of the slice's endpoints for one port of the Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    /// The name of the Service's port.
    name: String,
    protocol: Protocol,
    number: u16,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: IpAddr,
    /// The uid of its pod, if it has one.
    pub(super) uid: Option<Arc<str>>,
    pub(super) place: Option<Arc<PodPlace>>,
    pub(super) node: Option<String>,
    pub(super) zone: Option<String>,
    pub(super) eligibility: Eligibility,
    /// Whether it can serve, also while it terminates.
    pub(super) serving: bool,
    pub(super) terminating: bool,
}

impl SliceRecord {
    /// The Service that it belongs to.
    pub(super) fn service_key(&self) -> Key {
        (self.namespace.clone(), self.service.clone())
    }

    /// The endpoints' port for the Service's port `name`.
    pub(super) fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let mut ports = self.ports.iter();
        let port = ports.find(|port| port.name == name && port.protocol == protocol)?;
        Some(port.number)
    }
}

impl Record for SliceRecord {
    type Object = EndpointSlice;
    type Options = ();

    fn api(client: Client, namespace: Option<&str>) -> Api<EndpointSlice> {
        match namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        }
    }

    /// `None` if it belongs to no Service.
    fn read(slice: &EndpointSlice, (): &()) -> Option<Self> {
        let metadata = &slice.metadata;
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let annotations = metadata.annotations.as_ref();
        let changed = annotations.and_then(|annotations| annotations.get(CHANGED));
        let endpoints = slice.endpoints.iter().flatten();
        Some(Self {
            service: metadata.labels.as_ref()?.get(SERVICE)?.clone(),
            ports: slice.ports.iter().flatten().filter_map(port).collect(),
            endpoints: endpoints
                .filter_map(|endpoint| read_endpoint(endpoint, &namespace))
                .collect(),
            namespace,
            name: metadata.name.clone().unwrap_or_default(),
            changed: changed.and_then(|text| humantime::parse_rfc3339(text).ok()),
        })
    }
}

/// A port without a number means all ports, which no Service uses.
fn port(port: &EndpointPort) -> Option<Port> {
    Some(Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: protocol(port.protocol.as_deref())?,
        number: u16::try_from(port.port?).ok().filter(|number| *number > 0)?,
    })
}

/// Only the first address has a meaning, as the API defines it. Host names (`addressType: FQDN`) are skipped. A pod of
/// another namespace counts as none, since it may not be watched.
fn read_endpoint(endpoint: &v1::Endpoint, namespace: &str) -> Option<Endpoint> {
    let target = endpoint.target_ref.as_ref();
    let is_near = |of: &ObjectReference| of.namespace.as_deref().is_none_or(|name| name == namespace);
    let pod = target.filter(|target| target.kind.as_deref() == Some("Pod") && is_near(target));
    let place = pod.and_then(|pod| pod.name.as_ref()).map(|name| PodPlace {
        pod: format!("{namespace}/{name}"),
        node: endpoint.node_name.clone(),
    });
    let ready = conditions(endpoint, |conditions| conditions.ready).unwrap_or(true);
    Some(Endpoint {
        address: unicast(endpoint.addresses.first()?)?,
        uid: pod.and_then(|pod| pod.uid.as_deref()).map(Arc::from),
        place: place.map(Arc::new),
        node: endpoint.node_name.clone(),
        zone: endpoint.zone.clone(),
        // An endpoint that is not ready may still serve existing flows.
        eligibility: if ready {
            Eligibility::NewFlows
        } else {
            Eligibility::ExistingFlows
        },
        serving: conditions(endpoint, |conditions| conditions.serving).unwrap_or(ready),
        terminating: conditions(endpoint, |conditions| conditions.terminating).unwrap_or(false),
    })
}

/// Defaults are: ready, serving if ready, and not terminating.
fn conditions(endpoint: &v1::Endpoint, which: fn(&EndpointConditions) -> Option<bool>) -> Option<bool> {
    endpoint.conditions.as_ref().and_then(which)
}
