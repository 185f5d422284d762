//! From pods to backends, and the watches against a scripted API server.

mod convergence;
mod conversion;
mod following;
mod server;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::pod::{Member, Reading};
use crate::config::{AddressFrom, Config, Service};

/// A ready pod in namespace `web` with the label `app=finance`, its uid that of its name.
fn ready(name: &str, address: &str) -> Value {
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

fn reading(address_from: AddressFrom) -> Reading {
    Reading {
        address_from,
        labels: ["app".to_owned(), "tier".to_owned()].into(),
    }
}

fn read_from(pod: &Value, address_from: AddressFrom) -> Member {
    let pod: Pod = serde_json::from_value(pod.clone()).expect("a pod");
    Member::read(&pod, &reading(address_from))
}

fn member(pod: &Value) -> Arc<Member> {
    Arc::new(read_from(pod, AddressFrom::PodIp))
}

/// A configuration with discovery by Kubernetes and these services.
fn config(kubernetes: &str, services: &str) -> Config {
    let text = format!("{{discovery: kubernetes, kubernetes: {kubernetes}, services: [{services}]}}");
    Config::parse(Some(&text), "lb.yaml", &|_: &str| None, &(32_768..=60_999))
        .expect("a good configuration")
        .config
}

fn services(services: &str) -> Vec<Service> {
    config("{}", services).services
}

const FINANCE: &str = "{name: finance, port: 8080, targetPort: 8081, selector: {app: finance}}";
