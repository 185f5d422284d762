//! What the leader of a group writes for all.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Balancer;
use super::server::ApiServer;
use crate::discovery::{Accepted, StaleStatus};

fn service(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": "web",
            "uid": format!("uid-{name}"),
            "labels": {"vl3-lb.io/publish": "true"},
        },
        "spec": spec,
    })
}

fn headless() -> Value {
    json!({"clusterIP": "None", "ports": [{"name": "http", "port": 8080}]})
}

/// Addresses of all endpoints of a slice.
fn endpoints(slice: &Value) -> Vec<String> {
    let endpoints = slice["endpoints"].as_array().unwrap().iter();
    endpoints
        .map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned())
        .collect()
}

/// Waits until the slice of finance has these.
async fn published(server: &ApiServer, addresses: &[&str]) {
    let found = |server: &ApiServer| {
        let slice = server.object("endpointslices", "finance-vl3-lb-ipv4");
        let now = slice.as_ref().map(endpoints).unwrap_or_default();
        (now == addresses).then_some(())
    };
    server
        .wait(&format!("{addresses:?} to be published"), found)
        .await;
}

fn holder(server: &ApiServer) -> Option<String> {
    let lease = server.object("leases", "finance-leader")?;
    let holder = lease["spec"]["holderIdentity"].as_str()?;
    (!holder.is_empty()).then(|| holder.to_owned())
}

#[tokio::test]
async fn the_leader_publishes_every_balancer_and_the_next_one_goes_on() {
    let server = ApiServer::start().await;
    server.put("services", service("finance", &headless()));
    // Has pods as its endpoints.
    server.put(
        "services",
        service("dns", &json!({"clusterIP": "None", "selector": {"app": "dns"}})),
    );
    // Left by a leader of long ago.
    server.put(
        "endpointslices",
        json!({"metadata": {"name": "old-vl3-lb-ipv4", "namespace": "web", "labels": {
            "endpointslice.kubernetes.io/managed-by": "vl3-lb.io",
            "vl3-lb.io/group": "finance",
        }}}),
    );
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    published(&server, &["172.16.1.1"]).await;
    assert_eq!(holder(&server).as_deref(), Some("lb-a"));
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    published(&server, &["172.16.1.1", "172.16.1.2"]).await;
    let slice = server.object("endpointslices", "finance-vl3-lb-ipv4").unwrap();
    assert_eq!(slice["addressType"], "IPv4");
    assert_eq!(
        slice["ports"],
        json!([{"name": "http", "protocol": "TCP", "port": 8080}])
    );
    assert_eq!(
        slice["metadata"]["labels"]["kubernetes.io/service-name"],
        "finance"
    );
    assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "uid-finance");
    assert_eq!(slice["endpoints"][1]["targetRef"]["name"], "lb-b");
    assert_eq!(server.objects("endpointslices").len(), 1, "of nothing else");
    let reason = a.trouble("publish services").unwrap();
    assert!(reason.contains("service dns: it has a selector"), "{reason}");
    assert!(a.membership.report().leads);

    b.sees(&["lb-a"]).await;
    a.membership.leave().await;
    assert_ne!(
        holder(&server).as_deref(),
        Some("lb-a"),
        "given up, not waited for"
    );
    server
        .wait("another leader", |server| {
            (holder(server).as_deref() == Some("lb-b")).then_some(())
        })
        .await;
    published(&server, &["172.16.1.2"]).await;
    b.membership.leave().await;
    assert_eq!(server.objects("endpointslices").len(), 0);
}

#[tokio::test]
async fn a_service_that_is_not_to_be_published_any_more_loses_its_slices() {
    let server = ApiServer::start().await;
    server.put("services", service("finance", &headless()));
    let _a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    published(&server, &["172.16.1.1"]).await;
    let mut finance = service("finance", &headless());
    finance["metadata"]["labels"] = json!({});
    server.put("services", finance);
    published(&server, &[]).await;
}

#[tokio::test]
async fn the_status_of_a_service_has_every_balancer() {
    let server = ApiServer::start().await;
    server.put(
        "services",
        service("front", &json!({"loadBalancerClass": "vl3-lb.io/vl3-lb"})),
    );
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let front = Accepted {
        namespace: "web".to_owned(),
        name: "front".to_owned(),
        uid: "uid-front".to_owned(),
        load_balancer: true,
        services: vec!["finance".to_owned()],
    };
    a.accepted.send_replace(Arc::new(vec![front]));
    let ingress = async |expected: &[&str]| {
        let expected: Vec<_> = expected
            .iter()
            .map(|address| json!({"ip": address, "ipMode": "Proxy"}))
            .collect();
        let found = |server: &ApiServer| {
            let service = server.object("services", "front").unwrap();
            (service["status"]["loadBalancer"]["ingress"] == json!(expected)).then_some(())
        };
        server.wait("the status", found).await;
    };
    ingress(&["172.16.1.1"]).await;
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    ingress(&["172.16.1.1", "172.16.1.2"]).await;
    b.membership.leave().await;
    ingress(&["172.16.1.1"]).await;
    // Not ours any more.
    a.accepted.send_replace(Arc::default());
    ingress(&[]).await;
}

#[tokio::test]
async fn a_status_that_a_leader_before_has_left_is_cleared_once_there_is_a_leader() {
    let server = ApiServer::start().await;
    let mut front = service("front", &json!({"loadBalancerClass": "vl3-lb.io/vl3-lb"}));
    front["status"] = json!({"loadBalancer": {"ingress": [{"ip": "172.16.1.9"}]}});
    server.put("services", front);
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let left = StaleStatus {
        namespace: "web".to_owned(),
        name: "front".to_owned(),
    };
    a.left.send_replace(Arc::new(vec![left]));
    let cleared = |server: &ApiServer| {
        let service = server.object("services", "front")?;
        (service["status"]["loadBalancer"]["ingress"] == json!([])).then_some(())
    };
    server.wait("the status to be cleared", cleared).await;
}

#[tokio::test]
async fn without_the_permission_to_publish_the_rest_goes_on() {
    let server = ApiServer::start().await;
    server.put("services", service("finance", &headless()));
    server.refuse("patch", "endpointslices", 403);
    server.refuse("list", "endpointslices", 403);
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    server
        .wait("two attempts", |server| {
            (server.requests("patch", "endpointslices").len() >= 2).then_some(())
        })
        .await;
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    a.sees(&["lb-b"]).await;
    b.sees(&["lb-a"]).await;
    assert_eq!(a.membership.report().troubles.len(), 2);
    server.refuse("patch", "endpointslices", 0);
    published(&server, &["172.16.1.1", "172.16.1.2"]).await;
}
