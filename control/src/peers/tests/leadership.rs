//! What the leader of a group writes for it.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::sleep;
use vl3lb_common::Duration;

use super::Balancer;
use crate::discovery::{Accepted, GroupIngress, StaleStatus};
use crate::kubernetes::testing::{ApiServer, Reply};

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

/// The addresses of all endpoints of a slice.
fn endpoints(slice: &Value) -> Vec<String> {
    let endpoints = slice["endpoints"].as_array().unwrap().iter();
    endpoints
        .map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned())
        .collect()
}

/// Waits until the slice of finance has `addresses`.
async fn published(server: &ApiServer, addresses: &[&str]) {
    let found = |server: &ApiServer| {
        let slice = server.object("endpointslices", "finance-finance-ipv4");
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
async fn the_leader_publishes_all_balancers_and_its_successor_continues() {
    let server = ApiServer::start().await;
    server.apply(&service("finance", &headless()));
    // Has pods as its endpoints.
    server.apply(&service(
        "dns",
        &json!({"clusterIP": "None", "selector": {"app": "dns"}}),
    ));
    // Of an earlier leader.
    server.apply(&json!({"kind": "EndpointSlice", "metadata": {"name": "old-vl3-lb-ipv4", "namespace": "web", "labels": {
            "endpointslice.kubernetes.io/managed-by": "vl3-lb.io",
            "vl3-lb.io/group": "finance",
        }}}),
    );
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    published(&server, &["172.16.1.1"]).await;
    assert_eq!(holder(&server).as_deref(), Some("lb-a"));
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    published(&server, &["172.16.1.1", "172.16.1.2"]).await;
    let slice = server.object("endpointslices", "finance-finance-ipv4").unwrap();
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
    assert_eq!(server.objects("endpointslices").len(), 1, "and no other");
    let reason = a.trouble("publish services").unwrap();
    assert!(reason.contains("service dns: it has a selector"), "{reason}");
    assert!(a.membership.report().leads);

    b.sees(&["lb-a"]).await;
    a.membership.leave().await;
    assert_ne!(holder(&server).as_deref(), Some("lb-a"), "released, not expired");
    server
        .wait("another leader", |server| {
            (holder(server).as_deref() == Some("lb-b")).then_some(())
        })
        .await;
    published(&server, &["172.16.1.2"]).await;
    b.sees(&[]).await;
    b.membership.leave().await;
    assert_eq!(server.objects("endpointslices"), Vec::<Value>::new());
}

#[tokio::test]
async fn a_service_without_the_label_loses_its_slices() {
    let server = ApiServer::start().await;
    server.apply(&service("finance", &headless()));
    let _a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    published(&server, &["172.16.1.1"]).await;
    let mut finance = service("finance", &headless());
    finance["metadata"]["labels"] = json!({});
    server.apply(&finance);
    published(&server, &[]).await;
}

#[tokio::test]
async fn the_status_of_a_service_has_every_balancer() {
    let server = ApiServer::start().await;
    server.apply(&service(
        "front",
        &json!({"loadBalancerClass": "vl3-lb.io/vl3-lb"}),
    ));
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    a.accepted.send_replace(Arc::new(vec![front(&server)]));
    ingress(&server, &["172.16.1.1"]).await;
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    ingress(&server, &["172.16.1.1", "172.16.1.2"]).await;
    b.membership.leave().await;
    ingress(&server, &["172.16.1.1"]).await;
    // No longer served.
    a.accepted.send_replace(Arc::default());
    ingress(&server, &[]).await;
}

#[tokio::test]
async fn two_groups_that_serve_one_service_keep_each_others_addresses() {
    let server = ApiServer::start().await;
    server.apply(&service(
        "front",
        &json!({"loadBalancerClass": "vl3-lb.io/vl3-lb"}),
    ));
    let finance = Balancer::start_in("finance", &server, "lb-a", [172, 16, 1, 1]);
    let ledger = Balancer::start_in("ledger", &server, "lb-b", [172, 16, 1, 2]);
    let leads = |balancer: &Balancer| balancer.membership.report().leads;
    server
        .wait("a leader of each group", |_| {
            (leads(&finance) && leads(&ledger)).then_some(())
        })
        .await;
    // Discovery's part: each group sees the Service as it is.
    let deliver = || {
        for balancer in [&finance, &ledger] {
            balancer.accepted.send_replace(Arc::new(vec![front(&server)]));
        }
    };
    let writes = || server.names("patch", "services/status").len();
    // Both write without knowledge of the other, then once more with it, and then no more.
    deliver();
    server
        .wait("both groups", |server| {
            (writes() >= 2 && front(server).group_ingress.len() == 2).then_some(())
        })
        .await;
    deliver();
    ingress(&server, &["172.16.1.1", "172.16.1.2"]).await;
    deliver();
    sleep(Duration::from_secs(2)).await;
    let before = writes();
    deliver();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(writes(), before, "the groups agree");
    ingress(&server, &["172.16.1.1", "172.16.1.2"]).await;
    // A group that leaves withdraws its own addresses only.
    ledger.membership.leave().await;
    ingress(&server, &["172.16.1.1"]).await;
    assert_eq!(front(&server).group_ingress.len(), 1);
}

#[tokio::test]
async fn calls_without_a_response_do_not_cost_leadership() {
    let server = ApiServer::start().await;
    server.apply(&service("finance", &headless()));
    server.reply("list", "/endpointslices", Reply::Silent);
    server.reply("patch", "/endpointslices", Reply::Silent);
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let leader_writes = |server: &ApiServer| {
        let writes = server.names("patch", "leases");
        writes.iter().filter(|name| *name == "finance-leader").count()
    };
    for renewals in 1..=3 {
        server
            .wait("a renewal", |server| {
                (leader_writes(server) >= renewals).then_some(())
            })
            .await;
        assert!(a.membership.report().leads, "{renewals}");
    }
    let slice = a.trouble("write endpointslice finance-finance-ipv4 in namespace web");
    assert_eq!(slice.as_deref(), Some("no answer within 5s"));
    let list = a.trouble("list endpointslices in namespace web");
    assert_eq!(list.as_deref(), Some("no answer within 5s"));
}

#[tokio::test]
async fn failures_of_a_leader_and_a_candidate_end_with_the_role() {
    let server = ApiServer::start().await;
    server.apply(&service("finance", &headless()));
    server.apply(&service("dns", &json!({"clusterIP": "10.0.0.1"})));
    server.reply("patch", "/endpointslices", Reply::Refused(403));
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    server
        .wait("the leader", |_| a.membership.report().leads.then_some(()))
        .await;
    server.reply("create", "/leases", Reply::Refused(403));
    let b = Balancer::start_in("ledger", &server, "lb-b", [172, 16, 1, 2]);
    let write = "write lease ledger-leader in namespace web";
    let failures = |_: &ApiServer| {
        let leader = a.membership.report().troubles.len() == 2;
        (leader && b.trouble(write).is_some()).then_some(())
    };
    server.wait("failures", failures).await;
    for group in ["finance", "ledger"] {
        server.apply(&json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": format!("{group}-leader"),
                "namespace": "web",
                "labels": {"vl3-lb.io/group": group},
            },
            "spec": {"holderIdentity": "lb-x", "leaseDurationSeconds": 600},
        }));
    }
    let none = |_: &ApiServer| {
        let troubles = [&a, &b].map(|balancer| balancer.membership.report().troubles);
        troubles.iter().all(Vec::is_empty).then_some(())
    };
    server.wait("no failures", none).await;
    assert!(!a.membership.report().leads);
}

/// What discovery makes of the Service front.
fn front(server: &ApiServer) -> Accepted {
    let service = server.object("services", "front").unwrap();
    let annotations = service["metadata"]["annotations"].clone();
    let annotations = serde_json::from_value(annotations).unwrap_or_default();
    Accepted {
        namespace: "web".to_owned(),
        name: "front".to_owned(),
        uid: "uid-front".to_owned(),
        load_balancer: true,
        services: vec!["finance".to_owned()],
        group_ingress: GroupIngress::read_all(&annotations),
    }
}

/// Waits until the status of front has `addresses`.
async fn ingress(server: &ApiServer, addresses: &[&str]) {
    let expected: Vec<_> = addresses
        .iter()
        .map(|address| json!({"ip": address, "ipMode": "Proxy"}))
        .collect();
    let found = |server: &ApiServer| {
        let service = server.object("services", "front").unwrap();
        (service["status"]["loadBalancer"]["ingress"] == json!(expected)).then_some(())
    };
    server.wait("the status", found).await;
}

#[tokio::test]
async fn a_stale_status_is_cleared_by_the_leader() {
    let server = ApiServer::start().await;
    let mut front = service("front", &json!({"loadBalancerClass": "vl3-lb.io/vl3-lb"}));
    front["status"] = json!({"loadBalancer": {"ingress": [{"ip": "172.16.1.9"}]}});
    server.apply(&front);
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let stale = StaleStatus {
        namespace: "web".to_owned(),
        name: "front".to_owned(),
        group_ingress: Vec::new(),
        unserved: true,
    };
    a.stale.send_replace(Arc::new(vec![stale]));
    let cleared = |server: &ApiServer| {
        let service = server.object("services", "front")?;
        (service["status"]["loadBalancer"]["ingress"] == json!([])).then_some(())
    };
    server.wait("the status to be cleared", cleared).await;
}

#[tokio::test]
async fn without_permission_for_slices_the_rest_works() {
    let server = ApiServer::start().await;
    server.apply(&service("finance", &headless()));
    server.reply("patch", "/endpointslices", Reply::Refused(403));
    server.reply("list", "/endpointslices", Reply::Refused(403));
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    server
        .wait("two attempts", |server| {
            (server.names("patch", "endpointslices").len() >= 2).then_some(())
        })
        .await;
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    a.sees(&["lb-b"]).await;
    b.sees(&["lb-a"]).await;
    assert_eq!(a.membership.report().troubles.len(), 2);
    server.reply("patch", "/endpointslices", Reply::Good);
    published(&server, &["172.16.1.1", "172.16.1.2"]).await;
}
