//! One sender's packets do not take service from the others.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::UdpServer;
use vl3lb_tests::socket::receive;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::attacker::{Attacker, Flood, mac};
use crate::finance;

/// NAT ports towards the one server. The default has 352 times as many.
const PORTS: u32 = 64;
const NAT_PORTS: &str = "10240-10303";
/// Of UDP services.
const PORT: u16 = 5000;

fn topology(attachment: &Attachment) -> Topology {
    Topology::build(&Shape {
        clients: 2,
        servers: 1,
        ..Shape::of(attachment)
    })
}

fn echo_config(topology: &Topology, mode: &str) -> Config {
    Config::new(mode).service(service("udp", "UDP", PORT, PORT, &finance::backends(topology)))
}

fn evicted(balancer: &Balancer) -> f64 {
    let labels = [("cause", "evicted")];
    balancer
        .metrics()
        .sum("vl3lb_service_flows_closed_total", &labels)
}

/// As many for each port as 35,000 a second with the default.
#[test]
fn a_trickle_of_syns_with_forged_sources_does_not_keep_a_client_out() {
    let topology = topology(&Attachment::VETH_AUTO);
    let _servers = finance::http_servers(&topology);
    let config = finance::config(&topology, "auto").with("natPorts", json!(NAT_PORTS));
    let balancer = Balancer::start(&topology.balancer, &config);
    let trickle = Flood::of_syns(&topology, finance::PORT, 1, Duration::from_millis(10));
    trickle.wait(2 * PORTS);
    wait::until("half-open flows to make room", wait::STEP, || {
        let evicted = evicted(&balancer);
        (evicted > 0.0).then_some(()).ok_or(evicted)
    });
    let url = client::url(Family::V4.balancer(), finance::PORT, "/");
    let answers = client::curl_many(&topology.clients[0].netns, Family::V4, &url, 10);
    assert_eq!(answers.len(), 10);
    drop(trickle);
    assert_eq!(balancer.metrics().drops("nat_ports_exhausted"), 0.0);
}

/// DNS-like: a source port for each query.
#[test]
fn more_queries_than_nat_ports_are_answered_within_the_timeout_of_udp() {
    let topology = topology(&Attachment::VETH_AUTO);
    let _server = UdpServer::echo(&topology.servers[0].netns, "echo", PORT);
    let config = echo_config(&topology, "auto").with("natPorts", json!(NAT_PORTS));
    let balancer = Balancer::start(&topology.balancer, &config);
    let to = SocketAddr::new(Family::V4.balancer(), PORT);
    let ask = |query: u32| {
        let socket = client::udp(&topology.clients[0], 0, to);
        let question = query.to_be_bytes();
        socket.send(&question).expect("send");
        let mut answer = [0; 100];
        let length = receive(&socket, &mut answer).expect("an answer");
        assert!(answer[..length].ends_with(&question), "query {query}");
    };
    (0..4 * PORTS).for_each(ask);
    wait::until("the evicted flows to be counted", wait::STEP, || {
        let evicted = evicted(&balancer);
        // All but the first ones, and some whose source port has come again.
        (evicted >= f64::from(2 * PORTS)).then_some(()).ok_or(evicted)
    });
    assert_eq!(balancer.metrics().drops("nat_ports_exhausted"), 0.0);
    let is_eviction = |warning: &Value| warning["code"] == "flows_evicted";
    wait::until("the warning", wait::STEP, || {
        (0..PORTS).for_each(ask);
        let status = balancer.cli_json(&["status"]);
        let warnings = status["items"][0]["warnings"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let found = warnings.iter().any(is_eviction);
        found.then_some(()).ok_or_else(|| format!("{warnings:?}"))
    });
}

on_attachments!(curl_succeeds_beside_a_flood_of_syns_and_after_it:
    veth_native = Attachment::VETH_NATIVE,
    veth_native_two_queues = Attachment::VETH_NATIVE.two_queues(),
    veth_generic = Attachment::VETH_GENERIC,
    veth_companion = Attachment::VETH_COMPANION,
);

/// Whether curl needs a second attempt at its SYN depends on the machine; that it succeeds does not.
fn curl_succeeds_beside_a_flood_of_syns_and_after_it(attachment: &Attachment) {
    const FLOOD: u32 = 40_000;
    let topology = topology(attachment);
    let _servers = finance::http_servers(&topology);
    // Less than the flood's flows.
    let config = finance::config(&topology, attachment.mode).with("flows", json!(10_000));
    let balancer = Balancer::start(&topology.balancer, &config);
    let client = &topology.clients[0].netns;
    let url = client::url(Family::V4.balancer(), finance::PORT, "/");
    let flood = Flood::of_syns(&topology, finance::PORT, 100, Duration::from_millis(2));
    flood.wait(100);
    while flood.sent() < FLOOD {
        assert_eq!(client::curl_many(client, Family::V4, &url, 5).len(), 5);
    }
    drop(flood);
    assert_eq!(client::curl_many(client, Family::V4, &url, 5).len(), 5);
    let metrics = balancer.metrics();
    let opened = metrics.sum("vl3lb_service_flows_opened_total", &[]);
    let refused = metrics.drops("overload");
    assert!(
        opened + refused > 10_000.0,
        "the flood arrived: {opened} flows, {refused} refused"
    );
    assert_eq!(metrics.drops("internal"), 0.0);
}

on_attachments!(fragments_pass_beside_a_flood_of_fragments:
    veth_native = Attachment::VETH_NATIVE,
    veth_generic = Attachment::VETH_GENERIC,
    veth_companion = Attachment::VETH_COMPANION,
);

/// Ten times as many as fill the table within its timeout: first fragments, and others that wait for their first one.
fn fragments_pass_beside_a_flood_of_fragments(attachment: &Attachment) {
    let topology = topology(attachment);
    let server = &topology.servers[0].netns;
    // First fragments are forwarded, and the server's kernel keeps them for 30 s, those of all clients in 4 MB.
    server.run(|| {
        std::fs::write("/proc/sys/net/ipv4/ipfrag_high_thresh", "1000000000").expect("set a limit");
    });
    let _server = UdpServer::echo(server, "echo", PORT);
    let balancer = Balancer::start(&topology.balancer, &echo_config(&topology, attachment.mode));
    let to = SocketAddr::new(Family::V4.balancer(), PORT);
    let flood = {
        let attacker = Attacker::new(&topology);
        let node = &topology.clients[1];
        let (source, source_mac) = (node.address(Family::V4), mac(&node.netns));
        Flood::start(20, Duration::from_millis(3), move |number| {
            let from = SocketAddr::new(source, 40_000);
            #[expect(clippy::cast_possible_truncation, reason = "identifications wrap around")]
            let id = number as u16;
            let offset = if number.is_multiple_of(2) { 0 } else { 1_480 };
            attacker.fragment(source_mac, from, to, id, offset);
        })
    };
    flood.wait(5_000);
    let payload: Vec<u8> = (0..=250).cycle().take(8_000).collect();
    for _ in 0..20 {
        let socket = client::udp(&topology.clients[0], 0, to);
        socket.send(&payload).expect("send a datagram");
        let mut answer = vec![0; 65_536];
        let length = receive(&socket, &mut answer).expect("an echo");
        assert!(answer[..length] == *[b"echo:", &payload[..]].concat());
    }
    drop(flood);
    wait::until("the flood to have found no room", wait::STEP, || {
        let metrics = balancer.metrics();
        let dropped = metrics.drops("fragment_table_full");
        (dropped > 0.0)
            .then_some(())
            .ok_or_else(|| format!("{:?}", metrics.all_drops()))
    });
}
