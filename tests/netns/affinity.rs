//! A client with affinity keeps its server while backends are added and replaced; a client outside the source
//! ranges reaches none.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::node::Node;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::greeting;
use vl3lb_tests::socket::connect_tcp;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance;

const CONNECTIONS: usize = 50;
/// A service with the same backends and without affinity.
const SPREAD_PORT: u16 = 9090;

on_attachments!(a_client_with_affinity_keeps_its_server:
    veth_native_two_queues = Attachment::VETH_NATIVE.two_queues(),
    veth_companion_two_queues = Attachment::VETH_COMPANION.two_queues(),
    tun_auto = Attachment::TUN_AUTO,
);

fn a_client_with_affinity_keeps_its_server(attachment: &Attachment) {
    let topology = Topology::build(&Shape {
        clients: 2,
        ..Shape::of(attachment)
    });
    let _servers = finance::echo_servers(&topology);
    let address = |server: usize| topology.servers[server].address(Family::V4);
    let up = |server: usize| (address(server).to_string(), "up");
    let config = |servers: &[usize]| {
        let backends: Vec<IpAddr> = servers.iter().map(|&server| address(server)).collect();
        let mut finance = service("finance", "TCP", finance::PORT, finance::TARGET_PORT, &backends);
        finance["affinity"] = json!({"clientIP": "1h"});
        finance["sourceRanges"] = json!([format!("{}/32", topology.clients[0].address(Family::V4))]);
        let spread = service("spread", "TCP", SPREAD_PORT, finance::TARGET_PORT, &backends);
        Config::new(attachment.mode).service(finance).service(spread)
    };

    let mut balancer = Balancer::start(&topology.balancer, &config(&[0, 1]));
    balancer.wait_backends("finance", &[up(0), up(1)]);
    let client = &topology.clients[0];
    let first = server_of_new_connection(client, finance::PORT);
    let mut servers = BTreeSet::from([first.clone()]);
    for number in 1..CONNECTIONS {
        if number == CONNECTIONS / 3 {
            balancer.replace_config(&config(&[0, 1, 2]));
            balancer.wait_backends("finance", &[up(0), up(1), up(2)]);
        } else if number == 2 * CONNECTIONS / 3 {
            balancer.swap_config(&config(&[2, 1, 0]));
        }
        servers.insert(server_of_new_connection(client, finance::PORT));
    }
    assert_eq!(servers, BTreeSet::from([first]), "one server for one client");

    let spread: BTreeSet<String> = (0..CONNECTIONS)
        .map(|_| server_of_new_connection(client, SPREAD_PORT))
        .collect();
    assert_eq!(
        spread.len(),
        3,
        "without affinity the client reaches all servers: {spread:?}"
    );

    let outsider = &topology.clients[1];
    let refused = connect(outsider, finance::PORT, Duration::from_secs(2)).expect_err("not in sourceRanges");
    let answers = [
        ErrorKind::ConnectionRefused,
        ErrorKind::ConnectionReset,
        ErrorKind::HostUnreachable,
        ErrorKind::NetworkUnreachable,
    ];
    assert!(!answers.contains(&refused.kind()), "no answer at all: {refused}");
    let metrics = balancer.metrics();
    assert!(metrics.drops("source_not_allowed") >= 1.0);
    assert_eq!(metrics.drops("internal"), 0.0);

    let answer = balancer.cli_json(&["services"]);
    let items = answer["items"].as_array().expect("a list of services");
    let finance = items.iter().find(|item| item["name"] == "finance");
    assert_eq!(
        finance.map(|item| &item["affinitySeconds"]),
        Some(&Value::from(3600.0))
    );
}

/// Opens a connection, closes it again, and returns the name of its server.
fn server_of_new_connection(client: &Node, port: u16) -> String {
    let mut stream = connect(client, port, wait::STEP).expect("connect to the service");
    greeting(&mut stream).expect("the backend greets")
}

fn connect(client: &Node, port: u16, limit: Duration) -> std::io::Result<std::net::TcpStream> {
    let from = SocketAddr::new(client.address(Family::V4), 0);
    let to = SocketAddr::new(Family::V4.balancer(), port);
    client.netns.run(|| connect_tcp(from, to, limit))
}
