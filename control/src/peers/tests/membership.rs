//! How balancers join and leave the group.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use vl3lb_common::Duration;

use super::{Balancer, current};
use crate::config::Config;
use crate::dns::Dns;
use crate::kubernetes::testing::{ApiServer, Reply};

#[tokio::test]
async fn balancers_of_a_group_find_each_other() {
    let server = ApiServer::start().await;
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    a.sees(&["lb-b"]).await;
    b.sees(&["lb-a"]).await;
    let own = ["172.16.1.1".parse().unwrap()];
    let balancers = a.membership.peers().borrow().clone();
    let addresses = balancers.addresses_of("finance.web", &own);
    assert_eq!(addresses, [own[0], "172.16.1.2".parse().unwrap()]);
    assert_eq!(balancers.addresses_of("unknown", &own), own);

    // Of another group in the same namespace.
    let mut stranger = server.object("leases", "lb-b").unwrap();
    stranger["metadata"]["name"] = "lb-x".into();
    stranger["metadata"]["labels"]["vl3-lb.io/group"] = "ledger".into();
    server.apply(&stranger);
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
async fn a_balancer_that_is_not_ready_is_no_ready_peer() {
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
async fn a_balancer_that_has_left_is_in_no_answer() {
    let server = ApiServer::start().await;
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    a.sees(&["lb-b"]).await;
    b.sees(&["lb-a"]).await;
    assert!(b.membership.leave().await, "a peer takes over");
    assert_eq!(server.object("leases", "lb-b"), None);
    a.sees(&[]).await;
    let own = ["172.16.1.2".parse().unwrap()];
    let balancers = b.membership.peers().borrow().clone();
    let addresses = balancers.addresses_of("finance.web", &own);
    assert_eq!(addresses, ["172.16.1.1".parse::<std::net::IpAddr>().unwrap()]);
    assert!(!a.membership.leave().await, "no peer is left");
}

#[tokio::test]
async fn joining_and_leaving_are_events() {
    let server = ApiServer::start().await;
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let mut subscription = a.events.subscribe();
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
        let batch = subscription.next().await;
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
async fn a_forbidden_lease_is_reported_and_peers_are_still_found() {
    let server = ApiServer::start().await;
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    server
        .wait("a lease", |server| server.object("leases", "lb-b"))
        .await;
    server.reply("patch", "/leases", Reply::Refused(403));
    server.reply("delete", "/leases", Reply::Refused(403));
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    server
        .wait("three attempts", |server| {
            let asked = server.names("patch", "leases");
            (asked.iter().filter(|name| *name == "lb-a").count() >= 3).then_some(())
        })
        .await;
    let reason = a.trouble("apply lease lb-a in namespace web").unwrap();
    assert!(reason.contains("forbidden (it is Forbidden)"), "{reason}");
    let writes = a.membership.report().writes;
    assert!(
        writes
            .iter()
            .all(|count| count.result != "ok" || count.writes_total == 0)
    );
    // Leaving ends in spite of it.
    a.membership.leave().await;

    server.reply("patch", "/leases", Reply::Good);
    let c = Balancer::start(&server, "lb-c", [172, 16, 1, 3]);
    b.sees(&["lb-c"]).await;
    c.sees(&["lb-b"]).await;
}

#[tokio::test]
async fn a_lease_that_another_client_deletes_is_written_again() {
    let server = ApiServer::start().await;
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let _b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    a.sees(&["lb-b"]).await;
    server.delete("leases", "web", "lb-b");
    a.sees(&[]).await;
    a.sees(&["lb-b"]).await;
}

#[tokio::test]
async fn a_rejected_watch_is_reported_until_it_works() {
    let server = ApiServer::start().await;
    server.reply("list", "/leases", Reply::Refused(403));
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let watch = "watch leases in namespace web";
    server
        .wait("two lists", |server| {
            (server.names("list", "leases").len() >= 2).then_some(())
        })
        .await;
    assert!(a.trouble(watch).unwrap().contains("Role"));
    server.reply("list", "/leases", Reply::Good);
    let _b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    a.sees(&["lb-b"]).await;
    assert_eq!(a.trouble(watch), None);
}

/// The addresses in the answer of the name server at `server` for finance.
async fn resolve(server: SocketAddr) -> Vec<String> {
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii("finance.vl3-lb.").unwrap();
    question.add_query(Query::query(name, RecordType::A));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&question.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    let mut addresses: Vec<_> = answer
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    addresses.sort_unstable();
    addresses
}

/// The name server of `balancer`, on loopback.
async fn name_server(balancer: &Balancer) -> SocketAddr {
    let free = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let text = format!("{{services: [], natPorts: 1-2, dns: {{listen: '{address}'}}}}");
    let config = Config::parse(Some(&text), "", &|_| None, &(32_768..=60_999)).unwrap();
    // The address is configured, so the network does not matter, as long as it is watched.
    let network = Box::leak(Box::new(watch::channel(None).0)).subscribe();
    let current = balancer.current.subscribe();
    let (dns, stats) = Dns::new(&config.config.dns, current, balancer.membership.peers(), network).unwrap();
    tokio::spawn(dns.run());
    while stats.listeners() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    address
}

#[tokio::test]
async fn a_balancer_that_is_not_ready_leaves_all_dns_answers_within_seconds() {
    let server = ApiServer::start().await;
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let b = Balancer::start(&server, "lb-b", [172, 16, 1, 2]);
    let servers = [name_server(&a).await, name_server(&b).await];
    let expect = async |addresses: &[&str]| {
        let answers = async {
            for server in servers {
                while resolve(server).await != addresses {
                    sleep(Duration::from_millis(50)).await;
                }
            }
        };
        let waited = timeout(Duration::from_secs(10), answers).await;
        assert!(waited.is_ok(), "{addresses:?} expected");
    };
    expect(&["172.16.1.1", "172.16.1.2"]).await;
    // As when the interface is gone or has no carrier.
    b.ready.store(false, Ordering::Relaxed);
    expect(&["172.16.1.1"]).await;
    let lease = server.object("leases", "lb-b").unwrap();
    assert_eq!(lease["metadata"]["annotations"]["vl3-lb.io/ready"], "false");
    b.ready.store(true, Ordering::Relaxed);
    expect(&["172.16.1.1", "172.16.1.2"]).await;
}
