//! The whole source, with scripted managers at unix sockets.

use tokio::sync::watch;

use super::manager::{Manager, PlainDial};
use super::source::{Following, LOCAL, manager, server};
use super::*;
use crate::discovery::nsm::NsmClients;
use crate::discovery::nsm::follower::Scope;
use crate::discovery::{Origin, SourceStatus};

#[tokio::test]
async fn clients_become_backends_and_leave() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1"]).await;
    let spec = following.desired.borrow().clone().unwrap().services[0].clone();
    assert_eq!(spec.backends[0].port, 80);
    assert_eq!(
        spec.health_check,
        Some(HealthCheck::tcp()),
        "checks are on by default"
    );
    assert_eq!(spec.backends[0].pod.as_ref().unwrap().pod, "web/server-1");
    manager.request("nse-0", [server(2)]);
    following.backends(&["172.16.1.1", "172.16.1.2"]).await;
    manager.close("nse-0", "at-manager-server-1");
    following.backends(&["172.16.1.2"]).await;
    // An endpoint that appears later.
    manager.register("nse-1", LOCAL);
    manager.request("nse-1", [Wire::new("server-3", "nse-1", &["172.16.2.1/32"])]);
    following.backends(&["172.16.1.2", "172.16.2.1"]).await;
    let discovery = following.synced().await;
    let names: Vec<_> = discovery
        .endpoints
        .iter()
        .map(|endpoint| endpoint.name.clone())
        .collect();
    assert_eq!(names, ["nse-0", "nse-1"]);
}

#[tokio::test]
async fn a_network_service_without_endpoints_is_a_complete_set() {
    let manager = Manager::start();
    let mut following = Following::start(&manager);
    following.backends(&[]).await;
    following.synced().await;
    manager.register("nse-0", LOCAL);
    manager.request("nse-0", [server(1)]);
    following.backends(&["172.16.1.1"]).await;
}

#[tokio::test]
async fn an_endpoint_that_is_deleted_and_registered_has_one_monitor() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1"]).await;
    for _ in 0..5 {
        manager.unregister("nse-0");
        manager.register("nse-0", "inode://65024/7");
    }
    manager.request("nse-0", [server(2)]);
    following.backends(&["172.16.1.1", "172.16.1.2"]).await;
    assert_eq!(manager.monitors("nse-0"), (1, 1));
    assert_eq!(
        manager.open_connections(),
        2,
        "one for the registry, one for the monitor"
    );
}

#[tokio::test]
async fn an_endpoint_elsewhere_is_monitored_at_its_own_manager() {
    let (local, remote) = (manager(), Manager::start());
    let url = "tcp://10.0.0.2:5001";
    local.register("nse-1", url);
    local.request("nse-0", [server(1)]);
    remote.request("nse-1", [Wire::new("server-2", "nse-1", &["172.16.2.2/32"])]);
    let dial = PlainDial {
        remotes: [(url.parse().unwrap(), remote.target.clone())].into(),
    };
    let mut following = Following::start_with(&local, dial);
    following.backends(&["172.16.1.1", "172.16.2.2"]).await;
    assert_eq!(remote.monitors("nse-1"), (1, 1));
    assert_eq!(local.monitors("nse-1"), (0, 0));
    // It moves here: the connection to the other manager is closed.
    local.request("nse-1", [Wire::new("server-2", "nse-1", &["172.16.2.2/32"])]);
    local.register("nse-1", LOCAL);
    following.status(|_| local.monitors("nse-1").0 == 1).await;
    while remote.open_connections() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    following.backends(&["172.16.1.1", "172.16.2.2"]).await;
}

#[tokio::test]
async fn conflicts_are_events_counted_and_shown() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1"]).await;
    let mut view = crate::observe::report::fixture::network();
    view.addresses = vec!["172.16.1.103".parse().unwrap()];
    following.network.send_replace(Some(Arc::new(view)));
    manager.request("nse-0", [Wire::new("thief", "nse-0", &["172.16.1.1/32"])]);
    let conflicts = |status: &SourceStatus, count: usize| {
        status
            .nsm
            .as_ref()
            .is_some_and(|nsm| nsm.conflicts.len() == count)
    };
    let status = following.status(|status| conflicts(status, 1)).await;
    let nsm = status.nsm.unwrap();
    let text =
        "address 172.16.1.1 is claimed by client thief (thief-0) and belongs to client server-1 (server-1-0)";
    assert_eq!(nsm.conflicts[0].text, text);
    assert_eq!(nsm.conflicts_total[0].total, 1);
    manager.close("nse-0", "at-manager-thief");
    let status = following.status(|status| conflicts(status, 0)).await;
    assert_eq!(
        status.nsm.unwrap().conflicts_total[0].total,
        1,
        "counters only grow"
    );
    let events = following.event_texts();
    assert!(events.contains(&text.to_owned()), "{events:?}");
    assert!(
        events.contains(&"address 172.16.1.1: the conflict is over".to_owned()),
        "{events:?}"
    );
    // The balancer's own address.
    manager.request("nse-0", [server(103)]);
    following
        .status(|status| {
            status
                .nsm
                .as_ref()
                .is_some_and(|nsm| nsm.endpoints[0].connections == 2)
        })
        .await;
    following.backends(&["172.16.1.1"]).await;
}

#[tokio::test]
async fn tokens_of_clients_are_nowhere_to_be_seen() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1"]).await;
    manager.request("nse-0", [Wire::new("thief", "nse-0", &["172.16.1.1/32"])]);
    let status = following
        .status(|status| status.nsm.as_ref().is_some_and(|nsm| !nsm.conflicts.is_empty()))
        .await;
    let shown = format!(
        "{status:?} {:?} {:?} {}",
        following.events.kept(),
        following.desired.borrow(),
        serde_json::to_string(&*status.nsm.clone().unwrap()).unwrap()
    );
    assert!(shown.contains("server-1"), "{shown}");
    assert!(!shown.contains("eyJ"), "{shown}");
}

#[tokio::test]
async fn changes_of_many_endpoints_at_once_end_in_the_last_state_of_each() {
    let manager = Manager::start();
    let mut following = Following::start(&manager);
    following.backends(&[]).await;
    let endpoint = |number: u8| format!("nse-{number}");
    let client = |endpoint: u8, name: u8, address: u8| {
        let name = format!("server-{endpoint}-{name}");
        Wire::new(
            &name,
            &format!("nse-{endpoint}"),
            &[&format!("172.16.{endpoint}.{address}/32")],
        )
    };
    for number in 0..8 {
        manager.register(&endpoint(number), LOCAL);
    }
    for address in 1..50 {
        for number in 0..8 {
            manager.request(
                &endpoint(number),
                [client(number, 1, address), client(number, 2, 100 + address)],
            );
            manager.close(&endpoint(number), &format!("at-manager-server-{number}-2"));
        }
    }
    let expected: Vec<String> = (0..8).map(|number| format!("172.16.{number}.49")).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    following.backends(&expected).await;
}

#[tokio::test]
async fn pods_get_the_addresses_of_their_connections() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    let following = Following::start(&manager);
    let clients = NsmClients {
        dial: PlainDial::default(),
        scope: Scope {
            service: SERVICE.to_owned(),
            manager: manager.target.clone(),
            limit: Duration::from_secs(5),
            own_name: "finance-lb".to_owned(),
        },
        network: following.network.subscribe(),
        events: Arc::default(),
    };
    let (status, _kept) = watch::channel(SourceStatus::new(Origin::Nsm));
    let (mut connections, task) = clients.connections(status);
    let task = tokio::spawn(task);
    let place = crate::discovery::PodPlace {
        pod: "web/server-1".to_owned(),
        node: None,
    };
    let mut expect = async |address: &str| {
        let address: std::net::IpAddr = address.parse().unwrap();
        let found = connections.wait_for(|connections| {
            let connections = connections.as_ref();
            connections.is_some_and(|connections| connections.addresses(&place) == [address])
        });
        tokio::time::timeout(Duration::from_secs(20), found)
            .await
            .unwrap()
            .unwrap();
    };
    expect("172.16.1.1").await;
    manager.request("nse-0", [Wire::new("server-1", "nse-0", &["172.16.1.9/32"])]);
    expect("172.16.1.9").await;
    task.abort();
}
