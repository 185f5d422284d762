//! How balancers find each other, and part.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::server::ApiServer;
use super::{Balancer, current};

#[tokio::test]
async fn balancers_of_a_group_find_each_other() {
    let server = ApiServer::start().await;
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    a.sees(&["lb-b"]).await;
    b.sees(&["lb-a"]).await;
    let own = ["172.16.1.1".parse().unwrap()];
    let balancers = a.membership.peers().borrow().clone();
    let addresses = balancers.addresses_of("finance", &own);
    assert_eq!(addresses, [own[0], "172.16.1.2".parse().unwrap()]);
    assert_eq!(balancers.addresses_of("unknown", &own), own);

    // Of another group in the same namespace.
    let mut stranger = server.object("leases", "lb-b").unwrap();
    stranger["metadata"]["name"] = "lb-x".into();
    stranger["metadata"]["labels"]["vl3-lb.io/group"] = "ledger".into();
    server.put("leases", stranger);
    b.current
        .send_replace(Some(Arc::new(current([172, 16, 1, 9].into()))));
    server
        .wait("the new address", |server| {
            let lease = server.object("leases", "lb-b")?;
            (lease["metadata"]["annotations"]["vl3-lb.io/addresses"] == "172.16.1.9").then_some(())
        })
        .await;
    a.sees(&["lb-b"]).await;
}

#[tokio::test]
async fn a_balancer_that_is_not_ready_is_not_answered_with() {
    let server = ApiServer::start().await;
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    a.sees(&["lb-b"]).await;
    b.ready.store(false, Ordering::Relaxed);
    a.sees(&[]).await;
    b.ready.store(true, Ordering::Relaxed);
    a.sees(&["lb-b"]).await;
}

#[tokio::test]
async fn a_balancer_that_leaves_is_gone_from_every_answer_when_that_is_done() {
    let server = ApiServer::start().await;
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    a.sees(&["lb-b"]).await;
    b.sees(&["lb-a"]).await;
    assert!(b.membership.leave().await, "somebody is there to take over");
    assert_eq!(server.object("leases", "lb-b"), None);
    a.sees(&[]).await;
    let own = ["172.16.1.2".parse().unwrap()];
    let balancers = b.membership.peers().borrow().clone();
    let addresses = balancers.addresses_of("finance", &own);
    assert_eq!(addresses, ["172.16.1.1".parse::<std::net::IpAddr>().unwrap()]);
    assert!(!a.membership.leave().await, "nobody is left");
}

#[tokio::test]
async fn who_joins_and_who_leaves_are_events() {
    let server = ApiServer::start().await;
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let mut told = a.events.subscribe();
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    a.sees(&["lb-b"]).await;
    b.ready.store(false, Ordering::Relaxed);
    a.sees(&[]).await;
    b.ready.store(true, Ordering::Relaxed);
    a.sees(&["lb-b"]).await;
    b.membership.leave().await;
    a.sees(&[]).await;
    let mut texts = Vec::new();
    while texts.len() < 4 {
        let batch = told.next().await;
        let events = batch.events.iter();
        texts.extend(events.map(|event| format!("{}: {}", event.code.name(), event.text)));
    }
    assert_eq!(
        texts,
        [
            "balancer_joined: balancer lb-b of the group is ready, at 172.16.1.2",
            "balancer_left: balancer lb-b of the group is not ready any more",
            "balancer_joined: balancer lb-b of the group is ready, at 172.16.1.2",
            "balancer_left: balancer lb-b of the group is gone",
        ]
    );
}

#[tokio::test]
async fn a_lease_that_may_not_be_written_is_told_and_others_are_still_found() {
    let server = ApiServer::start().await;
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    server
        .wait("a lease", |server| server.object("leases", "lb-b"))
        .await;
    server.refuse("patch", "leases", 403);
    server.refuse("delete", "leases", 403);
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    server
        .wait("three attempts", |server| {
            let asked = server.requests("patch", "leases");
            (asked.iter().filter(|name| *name == "lb-a").count() >= 3).then_some(())
        })
        .await;
    let reason = a.trouble("apply lease lb-a in namespace web").unwrap();
    assert!(reason.contains("forbidden (it is 403)"), "{reason}");
    let writes = a.membership.report().writes;
    assert!(
        writes
            .iter()
            .all(|count| count.result != "ok" || count.writes_total == 0)
    );
    // It says so, and comes to an end all the same.
    a.membership.leave().await;

    server.refuse("patch", "leases", 0);
    let c = Balancer::start(&server, "lb-c", [172, 16, 1, 3]);
    b.sees(&["lb-c"]).await;
    c.sees(&["lb-b"]).await;
}

#[tokio::test]
async fn a_lease_that_somebody_deletes_comes_back() {
    let server = ApiServer::start().await;
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let _b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    a.sees(&["lb-b"]).await;
    server.remove("leases", "web", "lb-b");
    a.sees(&[]).await;
    a.sees(&["lb-b"]).await;
}

#[tokio::test]
async fn a_watch_that_is_refused_is_told_until_it_works() {
    let server = ApiServer::start().await;
    server.refuse("list", "leases", 403);
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let watch = "watch leases in namespace web";
    server
        .wait("two lists", |server| {
            (server.requests("list", "leases").len() >= 2).then_some(())
        })
        .await;
    assert!(a.trouble(watch).unwrap().contains("Role"));
    server.refuse("list", "leases", 0);
    let _b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    a.sees(&["lb-b"]).await;
    assert_eq!(a.trouble(watch), None);
}
