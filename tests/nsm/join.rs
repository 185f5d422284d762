//! The balancer joins the vL3 network by itself, and leaves it.

use std::time::Duration;

use serde_json::{Value, json};

use vl3lb_testbed::addresses::Family;
use vl3lb_tests::client::{curl_many, dig, ping};
use vl3lb_tests::mesh::balancer::{MeshBalancer, NAME, PORT, TARGET_PORT};
use vl3lb_tests::mesh::client::{MeshClient, service_url};
use vl3lb_tests::mesh::server::{MeshServer, addresses};
use vl3lb_tests::mesh::traffic::{Traffic, wait_all_answer};
use vl3lb_tests::mesh::{DNS, ENDPOINT, Mesh, SERVICE, Sdk};
use vl3lb_tests::server::TcpServer;
use vl3lb_tests::wait;

/// The seed's picture: a client asks by the vL3 network's name, and three servers answer.
fn environment_alone_is_enough(sdk: Sdk, options: &[&str]) {
    let mesh = Mesh::start_with(sdk, options);
    let client = MeshClient::connect(&mesh, "client");
    let pods: Vec<MeshClient<'_>> = (1..=3)
        .map(|number| MeshClient::labelled(&mesh, &format!("server-{number}"), "app=finance"))
        .collect();
    let _servers: Vec<TcpServer> = pods
        .iter()
        .map(|pod| TcpServer::http(&pod.netns, &pod.name, TARGET_PORT))
        .collect();
    let balancer = MeshBalancer::join(&mesh);
    let servers: Vec<_> = pods.iter().map(MeshClient::address).collect();
    balancer.wait_up(&servers);

    let url = format!("http://{NAME}.{SERVICE}:{PORT}/");
    let mut missing: Vec<&MeshClient<'_>> = pods.iter().collect();
    wait::until("an answer of each server", wait::STEP, || {
        let answers = curl_many(&client.netns, Family::V4, &url, 6);
        missing.retain(|pod| !answers.contains(&format!("Hello! I'm {}", pod.name)));
        missing
            .is_empty()
            .then_some(())
            .ok_or_else(|| format!("{missing:?}"))
    });
}

#[test]
fn environment_alone_is_enough_over_veth() {
    environment_alone_is_enough(Sdk::V1_13, &[]);
}

#[test]
fn environment_alone_is_enough_over_tun() {
    environment_alone_is_enough(Sdk::V1_13, &["--link", "tun"]);
}

#[test]
fn environment_alone_is_enough_with_the_next_sdk() {
    environment_alone_is_enough(Sdk::V1_14, &[]);
}

#[test]
fn request_carries_the_labels_of_url_and_environment() {
    let mesh = Mesh::start(&[]);
    let url = service_url("tier=web&podName=money");
    let balancer = MeshBalancer::join_with(
        &mesh,
        &[
            ("NSM_NETWORK_SERVICES", &url),
            ("NSM_LABELS", "zone:a"),
            ("CLUSTER_NAME", "one"),
        ],
    );
    let connection = own_connection(&mesh).expect("the manager has the connection");
    let labels = &connection["labels"];
    assert_eq!(labels["tier"], "web", "{labels}");
    assert_eq!(labels["zone"], "a", "{labels}");
    assert_eq!(labels["podName"], "money", "the URL's label wins: {labels}");
    assert_eq!(labels["nodeName"], "node-0", "{labels}");
    assert_eq!(labels["clusterName"], "one", "{labels}");
    let client = MeshClient::connect(&mesh, "client");
    let answer = dig(&client.netns, DNS.parse().unwrap(), &["money.vl3-lb", "A"]);
    assert_eq!(answer.records, [(3600, balancer.address().to_string())]);
}

#[test]
fn interface_has_the_address_and_mtu_of_the_network() {
    let mesh = Mesh::start(&[]);
    let _small = MeshClient::connect_with(&mesh, "small", 0, json!({"mtu": 1400}));
    let balancer = MeshBalancer::join(&mesh);
    assert_eq!(balancer.nsm()["mtu"], 1400);
    assert_eq!(
        balancer.cli_json(&["status"])["items"][0]["interface"]["mtu"],
        1400
    );
    ping(&balancer.pod().netns, ENDPOINT.parse().unwrap());
}

/// The network then asks all its clients to request again.
#[test]
fn a_lower_mtu_of_the_network_is_taken_while_connections_are_open() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let servers = MeshServer::several(&mesh, 1);
    let balancer = MeshBalancer::join(&mesh);
    let address = balancer.address();
    balancer.wait_up(&addresses(&servers));
    assert_eq!(balancer.nsm()["mtu"], 9000);
    let traffic = Traffic::start(&client.netns, address);
    let _small = MeshClient::connect_with(&mesh, "small", 0, json!({"mtu": 1400}));
    wait::until("the lower MTU", wait::STEP, || {
        let status = balancer.cli_json(&["status"])["items"][0].clone();
        let mtus = [status["nsm"]["mtu"].clone(), status["interface"]["mtu"].clone()];
        (mtus == [1400, 1400])
            .then_some(())
            .ok_or_else(|| format!("{mtus:?}"))
    });
    traffic.goes_on(20);
    traffic.finish();
    assert_eq!(balancer.addresses(), [address]);
    assert_eq!(balancer.nsm()["replacementsTotal"], 0);
    wait_all_answer(&client.netns, address, &servers);
}

/// P1: after a restart of its container the predecessor had its address and balanced nothing.
#[test]
fn a_restarted_container_keeps_its_address_and_balances() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let servers = MeshServer::several(&mesh, 2);
    let mut balancer = MeshBalancer::join(&mesh);
    let address = balancer.address();
    balancer.wait_up(&addresses(&servers));

    balancer.kill();
    balancer.restart();
    balancer.wait_connected();
    assert_eq!(balancer.addresses(), [address]);
    balancer.wait_up(&addresses(&servers));
    wait_all_answer(&client.netns, address, &servers);
}

/// P21: the predecessor closed its connection at once, with all flows.
#[test]
fn sigterm_drains_before_the_connection_is_closed() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let servers = MeshServer::several(&mesh, 1);
    let mut balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    let traffic = Traffic::start(&client.netns, balancer.address());
    balancer.signal_terminate();
    wait::until("the balancer to drain", wait::STEP, || {
        let draining = balancer.cli_json(&["status"])["items"][0]["draining"].clone();
        (draining == true)
            .then_some(())
            .ok_or_else(|| draining.to_string())
    });
    traffic.goes_on(20);
    assert!(
        own_connection(&mesh).is_some(),
        "the connection is closed while flows are open"
    );
    traffic.finish();
    assert!(balancer.wait_end().success());
    assert_eq!(own_connection(&mesh), None);
    let answer = dig(&client.netns, DNS.parse().unwrap(), &["finance.vl3-lb", "A"]);
    assert_eq!(answer.records, [], "the name is still there");
    let links = balancer
        .pod()
        .netns
        .run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    assert!(!links.contains("nsm-1"), "the interface is still there: {links}");
}

#[test]
fn the_connection_is_refreshed_at_a_fifth_of_the_tokens_life() {
    let mesh = Mesh::start(&["--token-lifetime", "30s"]);
    let balancer = MeshBalancer::join_with(&mesh, &[("NSM_MAX_TOKEN_LIFETIME", "30s")]);
    let address = balancer.address();
    let expiry = |connection: &Value| connection["path"]["path_segments"][0]["expires"].clone();
    let first = expiry(&own_connection(&mesh).unwrap());
    // Without a refresh the manager would close the connection after 15 s: 30 s less the request timeout.
    wait::until("the third refresh", Duration::from_secs(40), || {
        let refreshes = balancer.calls("refresh", "ok");
        (refreshes >= 3)
            .then_some(())
            .ok_or_else(|| format!("{refreshes} refreshes"))
    });
    assert_ne!(expiry(&own_connection(&mesh).unwrap()), first);
    assert_eq!(balancer.addresses(), [address]);
    assert_eq!(balancer.nsm()["replacementsTotal"], 0);
}

/// The balancer's connection at the manager of the first node.
fn own_connection(mesh: &Mesh) -> Option<Value> {
    let connections = mesh.connections(0);
    connections
        .into_iter()
        .find(|connection| connection["path"]["path_segments"][0]["name"] == NAME)
}
