//! A server that refuses to list some collections: the balancer serves the others.

use serde_json::json;

use super::following::{Following, seen};
use super::*;
use crate::discovery::Desired;
use crate::kubernetes::testing::{ApiServer, Cut, Reply};

/// The collections that the set in use lacks.
async fn missing(following: &mut Following) -> Vec<String> {
    let status = following.status(|status| !status.missing.is_empty()).await;
    assert!(!status.synced && status.error.is_none(), "{status:?}");
    assert!(status.loaded.is_some(), "the rest is known");
    let missing = status.missing.iter();
    missing
        .map(|missing| format!("{} {}", missing.kind, missing.namespace.as_deref().unwrap_or("-")))
        .collect()
}

fn names(desired: &Desired) -> Vec<&str> {
    let services = desired.services.iter();
    services.map(|service| service.name.as_str()).collect()
}

#[tokio::test]
async fn a_namespace_whose_pods_may_not_be_listed_does_not_stop_the_others() {
    let server = ApiServer::start().await;
    server.apply(&ready("a", "10.0.0.1"));
    server.apply(&with(
        with(ready("b", "10.0.0.2"), "/metadata/namespace", json!("api")),
        "/metadata/labels/app",
        json!("ledger"),
    ));
    server.reply("list", "/api/pods", Reply::Refused(403));
    let ledger = "{name: ledger, port: 9090, targetPort: 8081, selector: {app: ledger}, namespaces: all}";
    let config = config("{namespaces: [web, api]}", &format!("{FINANCE_OF_ALL}, {ledger}"));
    let mut following = Following::start(server, config, None);
    following.backends(&["10.0.0.1"]).await;
    assert_eq!(missing(&mut following).await, ["pods api"]);
    let desired = following.desired.borrow().clone().unwrap();
    // Another balancer of the group may serve it: it gets no answer from this one instead of a refusal.
    assert_eq!(names(&desired), ["finance"]);
    assert_eq!(
        desired.problems,
        [
            "service ledger: not served: no backend of ledger is known, and pods in namespace api cannot be \
          listed"
        ]
    );

    following.server.reply("list", "/api/pods", Reply::Good);
    let both = |desired: &Option<Arc<Desired>>| names(desired.as_ref().unwrap()) == ["finance", "ledger"];
    seen(&mut following.desired, both).await;
    let status = following.synced().await;
    assert!(status.missing.is_empty());
}

#[tokio::test]
async fn without_the_rule_for_nodes_backends_are_balanced_without_zones() {
    let server = ApiServer::start().await;
    server.apply(&ready("a", "10.0.0.1"));
    server.reply("list", "/nodes?", Reply::Refused(403));
    let env = |name: &str| (name == "NODE_NAME").then(|| "worker-1".to_owned());
    let config = config_at("{topology: {prefer: zone}}", FINANCE, &env);
    let mut following = Following::start(server, config, None);
    following.backends(&["10.0.0.1"]).await;
    assert_eq!(missing(&mut following).await, ["nodes -"]);
    let status = following.status(|status| !status.missing.is_empty()).await;
    assert_eq!(
        status.missing[0].to_string(),
        "list nodes in the cluster: forbidden (it is Forbidden); allow this service account to list and watch \
         nodes there"
    );
}

#[tokio::test]
async fn services_whose_endpoints_may_not_be_listed_are_left_out() {
    let server = ApiServer::start().await;
    server.apply(&load_balancer("finance", 8080));
    server.apply(&ready("a", "10.0.0.1"));
    server.apply(&slice("finance-1", "finance", json!([endpoint("a", "10.0.0.1")])));
    server.reply("list", "/endpointslices?", Reply::Refused(403));
    let mut following = Following::start(server, config("{services: true}", ""), None);
    assert_eq!(missing(&mut following).await, ["endpointslices web"]);
    let refused = seen(&mut following.refused, |refused| !refused.is_empty()).await;
    assert_eq!(refused[0].reason, "BackendsUnknown");
    assert!(following.accepted.borrow().is_empty());
    assert!(following.desired.borrow().as_ref().unwrap().services.is_empty());

    following.server.reply("list", "/endpointslices?", Reply::Good);
    following.backends(&["10.0.0.1"]).await;
    seen(&mut following.accepted, |accepted| accepted.len() == 1).await;
    assert!(following.refused.borrow().is_empty());
}

#[tokio::test]
async fn a_list_that_was_complete_once_stays_when_the_permission_is_withdrawn() {
    let server = ApiServer::start().await;
    server.apply(&ready("a", "10.0.0.1"));
    let mut following = Following::start(server, config("{}", FINANCE), None);
    following.backends(&["10.0.0.1"]).await;
    following.server.watching(1).await;
    following.server.reply("list", "/pods", Reply::Refused(403));
    // So that the next watch is too late, and has to list.
    following
        .server
        .apply(&with(ready("b", "10.0.0.2"), "/metadata/namespace", json!("api")));
    following.server.compact(true);
    following.server.cut(Cut::Orderly);
    let error = following.error().await;
    assert!(
        error.starts_with("list pods in namespace web: forbidden"),
        "{error}"
    );
    let status = following.status(|status| status.errors.total() >= 2).await;
    assert!(status.missing.is_empty() && !status.synced);
    following.backends(&["10.0.0.1"]).await;
}
