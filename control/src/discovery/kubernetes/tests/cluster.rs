//! Services of the cluster and all that belongs to them, from a scripted API server.

use serde_json::json;

use super::super::Accepted;
use super::following::{Following, seen};
use super::*;
use crate::discovery::{Desired, SourceStatus};
use crate::kubernetes::testing::{ApiServer, Reply};

/// Kinds that are needed where Services are followed and zones count, as in the path of a list.
const KINDS: [&str; 4] = ["/pods?", "/services?", "/endpointslices?", "/nodes?"];

/// Services of the cluster, and zones by the labels of nodes.
fn everything() -> Config {
    let env = |name: &str| (name == "NODE_NAME").then(|| "worker-1".to_owned());
    config_at("{services: true, topology: {prefer: zone}}", "", &env)
}

/// A Service that is served, a pod and an endpoint.
async fn cluster() -> ApiServer {
    let server = ApiServer::start().await;
    server.apply(&load_balancer("finance", 8080));
    server.apply(&ready("a", "10.0.0.1"));
    server.apply(&slice("finance-1", "finance", json!([endpoint("a", "10.0.0.1")])));
    server
}

#[tokio::test]
async fn services_of_the_cluster_and_their_endpoints_are_followed() {
    let server = cluster().await;
    server.apply(&ready("b", "10.0.0.2"));
    server.apply(&ready("c", "10.0.0.3"));
    let mut following = Following::start(server, config("{services: true}", ""), None);
    following.backends(&["10.0.0.1"]).await;
    let accepted = seen(&mut following.accepted, |accepted| !accepted.is_empty()).await;
    let expected = Accepted {
        group_ingress: Vec::new(),
        namespace: "web".to_owned(),
        name: "finance".to_owned(),
        uid: "uid-finance".to_owned(),
        load_balancer: true,
        services: vec!["finance".to_owned()],
    };
    assert_eq!(*accepted, [expected]);

    let both = json!([endpoint("a", "10.0.0.1"), endpoint("b", "10.0.0.2")]);
    following.server.apply(&slice("finance-1", "finance", both));
    following.backends(&["10.0.0.1", "10.0.0.2"]).await;
    following
        .server
        .apply(&slice("finance-2", "finance", json!([endpoint("c", "10.0.0.3")])));
    following.backends(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]).await;
    following.server.delete("endpointslices", "web", "finance-1");
    following.backends(&["10.0.0.3"]).await;

    // A second one asks for the first one's port.
    let mut later = load_balancer("later", 8080);
    later["metadata"]["creationTimestamp"] = json!("2026-11-24T09:00:00Z");
    following.server.apply(&later);
    let refused = seen(&mut following.refused, |refused| !refused.is_empty()).await;
    let reasons: Vec<_> = refused.iter().map(|refused| refused.reason).collect();
    assert_eq!(reasons, ["PortConflict", "NoPorts"]);
    following.server.delete("services", "web", "finance");
    seen(&mut following.refused, |refused| refused.is_empty()).await;
    let named = |desired: &Option<Arc<Desired>>| desired.as_ref().unwrap().services[0].name == "later";
    seen(&mut following.desired, named).await;

    // One that is not to be served any more is not there any more.
    later["metadata"]["annotations"]["vl3-lb.io/enabled"] = json!("false");
    following.server.apply(&later);
    let none = |desired: &Option<Arc<Desired>>| desired.as_ref().unwrap().services.is_empty();
    seen(&mut following.desired, none).await;
    assert!(following.synced().await.errors.total() == 0);
}

#[tokio::test]
async fn nothing_is_sent_before_every_kind_is_listed() {
    for kind in KINDS {
        let server = cluster().await;
        server.reply("list", kind, Reply::Silent);
        let mut following = Following::start(server, everything(), None);
        for other in KINDS.iter().filter(|other| **other != kind) {
            following
                .server
                .requested(&format!("{other}&watch=true"), 1)
                .await;
        }
        following.status(|status| status.events >= 3).await;
        assert_eq!(*following.desired.borrow(), None, "without {kind}");
        following.server.reply("list", kind, Reply::Good);
        following.backends(&["10.0.0.1"]).await;
        following.synced().await;
    }
}

#[tokio::test]
async fn a_collection_that_may_not_be_listed_is_named() {
    for (kind, collection) in KINDS.iter().zip([
        "list pods in namespace web",
        "list services in namespace web",
        "list endpointslices in namespace web",
        "list nodes in the cluster",
    ]) {
        let server = cluster().await;
        server.reply("list", kind, Reply::Refused(403));
        let mut following = Following::start(server, everything(), None);
        let named = |text: &str| text.starts_with(&format!("{collection}: forbidden"));
        if *kind == "/pods?" {
            // Without any pods there is nothing to serve.
            assert!(named(&following.error().await));
            assert_eq!(*following.desired.borrow(), None);
        } else {
            let missing =
                |status: &SourceStatus| status.missing.iter().any(|missing| named(&missing.to_string()));
            following.status(missing).await;
        }
        following.server.reply("list", kind, Reply::Good);
        following.backends(&["10.0.0.1"]).await;
    }
}
