//! From what the API server knows to services and backends, and the watches against a scripted one.

mod cluster;
mod connected;
mod convergence;
mod conversion;
mod declared;
mod denied;
mod edited;
mod endpoints;
mod following;
mod fuzz;
mod incumbents;
mod locality;
mod pools;
mod refusal;
mod storm;
mod tenancy;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::assembly::{Assembled, Assembly};
use super::cache::{Change, Record};
use super::claims::Surroundings;
use super::node::NodeRecord;
use super::pod::PodRecord;
use super::service::ServiceRecord;
use super::slice::SliceRecord;
use crate::config::{AddressFrom, Config};
use crate::discovery::BackendSpec;

/// A ready pod in namespace `web` with the label `app=finance`, its uid that of its name.
pub(super) fn ready(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "web",
            "uid": format!("uid-{name}"),
            "creationTimestamp": "2026-11-24T08:00:00Z",
            "labels": {"app": "finance"},
            "annotations": {},
        },
        "spec": {"containers": [{"name": "server", "ports": [{"name": "http", "containerPort": 8081}]}]},
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// `pod` with the value at `pointer` (RFC 6901) replaced or added.
fn with(mut pod: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer with a slash");
    let key = key.replace("~1", "/");
    pod.pointer_mut(parent).expect("the parent is there")[key] = value;
    pod
}

fn unready(pod: Value) -> Value {
    with(pod, "/status/conditions/0/status", json!("False"))
}

fn read_from(pod: &Value, address_from: AddressFrom) -> PodRecord {
    let pod: Pod = serde_json::from_value(pod.clone()).expect("a pod");
    PodRecord::read(&pod, &address_from)
}

/// Reads objects of which nothing is to be configured; those that do not count are left out.
fn kept<T: Record<Options = ()>>(objects: &[Value]) -> Vec<Arc<T>> {
    let read = |object: &Value| {
        let object: T::Object = serde_json::from_value(object.clone()).expect("an object of that kind");
        T::read(&object, &()).map(Arc::new)
    };
    objects.iter().filter_map(read).collect()
}

pub(super) fn member(pod: &Value) -> Arc<PodRecord> {
    Arc::new(read_from(pod, AddressFrom::PodIp))
}

/// A configuration with discovery by Kubernetes and these services.
fn config(kubernetes: &str, services: &str) -> Config {
    config_at(kubernetes, services, &|_: &str| None)
}

/// As `config`, with an environment.
fn config_at(kubernetes: &str, services: &str, env: &impl Fn(&str) -> Option<String>) -> Config {
    let text = format!("{{discovery: kubernetes, kubernetes: {kubernetes}, services: [{services}]}}");
    Config::parse(Some(&text), "lb.yaml", env, &(32_768..=60_999))
        .expect("a good configuration")
        .config
}

/// Everything that is known, in any order.
#[derive(Debug, Default)]
struct Inventory {
    pods: Vec<Arc<PodRecord>>,
    services: Vec<Arc<ServiceRecord>>,
    slices: Vec<Arc<SliceRecord>>,
    nodes: Vec<Arc<NodeRecord>>,
}

/// The balancer at 172.16.1.103, with routes to the networks of the tests.
fn surroundings() -> Surroundings {
    let networks = ["10.0.0.0/8", "172.16.0.0/12", "2001:db8::/32"];
    let networks = networks.iter().map(|network| network.parse().expect("a network"));
    Surroundings::new(
        vec!["172.16.1.103".parse().expect("an address")],
        networks.collect(),
    )
}

/// For this configuration, with nothing known.
fn assembly(config: &Config) -> Assembly {
    let kubernetes = config.kubernetes.as_ref().expect("discovery by Kubernetes");
    let mut assembly = Assembly::new(kubernetes, &super::listening(config), &config.services);
    assembly.replace_surroundings(surroundings());
    assembly
}

/// The desired set for this configuration.
fn collected(config: &Config, known: &Inventory) -> Assembled {
    let mut assembly = assembly(config);
    assembly.replace_nodes(new(&known.nodes));
    assembly.replace_slices(new(&known.slices));
    assembly.replace_services(new(&known.services));
    assembly.replace_pods(new(&known.pods));
    assembly.assemble()
}

/// Objects that were not known before.
fn new<T>(objects: &[Arc<T>]) -> Vec<Change<T>> {
    let new = |object: &Arc<T>| Change {
        old: None,
        new: Some(Arc::clone(object)),
    };
    objects.iter().map(new).collect()
}

/// The desired set for services of the file and pods.
fn selected(services: &str, pods: &[Arc<PodRecord>]) -> Assembled {
    let known = Inventory {
        pods: pods.to_vec(),
        ..Inventory::default()
    };
    collected(&config("{}", services), &known)
}

/// `address:port weight takes`
fn shown(backend: &BackendSpec) -> String {
    let socket = std::net::SocketAddr::new(backend.address, backend.port);
    format!("{socket} {} {:?}", backend.weight, backend.eligibility)
}

/// A Service in namespace `web` with `spec`, its uid that of its name.
fn service(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": "web",
            "uid": format!("uid-{name}"),
            "creationTimestamp": "2026-11-24T08:00:00Z",
            "annotations": {},
        },
        "spec": spec,
    })
}

/// A Service of the balancer's class with one TCP port.
fn load_balancer(name: &str, port: u16) -> Value {
    service(
        name,
        json!({
            "type": "LoadBalancer",
            "loadBalancerClass": "vl3-lb.io/vl3-lb",
            "selector": {"app": "finance"},
            "ports": [{"port": port, "targetPort": 8081}],
        }),
    )
}

/// An EndpointSlice of Service `service` with one unnamed port, 8081.
fn slice(name: &str, service: &str, endpoints: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "web",
            "uid": format!("uid-{name}"),
            "labels": {"kubernetes.io/service-name": service},
            "annotations": {},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "protocol": "TCP", "port": 8081}],
        "endpoints": endpoints,
    })
}

/// A ready endpoint that is the pod of that name.
fn endpoint(pod: &str, address: &str) -> Value {
    json!({
        "addresses": [address],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "targetRef": {"kind": "Pod", "name": pod, "namespace": "web", "uid": format!("uid-{pod}")},
    })
}

const FINANCE: &str = "{name: finance, port: 8080, targetPort: 8081, selector: {app: finance}}";
/// The same with pods of all namespaces.
const FINANCE_OF_ALL: &str =
    "{name: finance, port: 8080, targetPort: 8081, selector: {app: finance}, namespaces: all}";
