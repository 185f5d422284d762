//! Established flows stay in the kernel: their data arrives byte for byte, whatever happens meanwhile, and all of it is
//! counted.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use vl3lb_testbed::addresses::{Family, INTERFACE};
use vl3lb_testbed::packet_socket::PacketSocket;
use vl3lb_testbed::tun::VNET_HEADER;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::metrics::Metrics;
use vl3lb_tests::perf::{self, EchoServer};
use vl3lb_tests::socket::receive;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance;

const GIBIBYTE: u64 = 1 << 30;
const LENGTH: u64 = 100_000_000;

fn packets(metrics: &Metrics, direction: &str) -> f64 {
    metrics.sum("vl3lb_fastpath_packets_total", &[("direction", direction)])
}

on_attachments!(bulk_data_stays_in_the_kernel_and_is_counted:
    veth_auto = Attachment::VETH_AUTO,
    veth_companion = Attachment::VETH_COMPANION,
    veth_companion_mtu_9000 = Attachment::VETH_COMPANION.mtu(9000),
    veth_companion_two_queues = Attachment::VETH_COMPANION.two_queues(),
    tun_companion = Attachment::TUN_COMPANION,
    tun_offload_companion = Attachment::TUN_OFFLOAD_COMPANION,
);

fn bulk_data_stays_in_the_kernel_and_is_counted(attachment: &Attachment) {
    let topology = Topology::build(&Shape {
        servers: 2,
        ..Shape::of(attachment)
    });
    let _servers = finance::http_servers(&topology);
    let config = finance::config(&topology, attachment.mode).with("fastPath", json!({"mode": "auto"}));
    let balancer = Balancer::start(&topology.balancer, &config);
    let client = &topology.clients[0].netns;
    for family in Family::BOTH {
        client::download(client, family.balancer(), finance::PORT, LENGTH);
        client::upload(client, family.balancer(), finance::PORT, LENGTH);
    }
    let status = balancer.cli_json(&["status"]);
    let path = &status["items"][0]["fastPath"];
    assert!(path["capacity"].as_u64() > Some(0), "{path}");
    // Every byte is counted, once.
    wait::until("all bytes to be counted", wait::STEP, || {
        let metrics = balancer.metrics();
        let bytes = |direction: &str| {
            metrics.sum(
                "vl3lb_service_bytes_total",
                &[("service", "finance"), ("direction", direction)],
            )
        };
        let (inbound, outbound) = (bytes("in"), bytes("out"));
        // Headers and acknowledgments: 60 to 100 bytes for each packet of 1,280 or more.
        let expected = 2.0 * LENGTH as f64;
        let is_right = |bytes: f64| bytes > expected && bytes < 1.25 * expected;
        (is_right(inbound) && is_right(outbound))
            .then_some(())
            .ok_or_else(|| format!("{inbound} in, {outbound} out of {expected}"))
    });
    let metrics = balancer.metrics();
    for direction in ["in", "out"] {
        let all = metrics.sum(
            "vl3lb_service_packets_total",
            &[("service", "finance"), ("direction", direction)],
        );
        let fast = packets(&metrics, direction);
        assert!(
            fast > 0.8 * all && fast <= all,
            "{fast} of {all} packets {direction}"
        );
    }
    assert_eq!(metrics.sum("vl3lb_fastpath_lost_packets_total", &[]), 0.0);
    for reason in ["internal", "malformed", "bad_checksum", "unknown_reply"] {
        assert_eq!(metrics.drops(reason), 0.0, "{reason}");
    }
}

#[test]
fn without_the_fast_path_no_packet_stays_in_the_kernel() {
    let attachment = Attachment::VETH_COMPANION;
    let topology = Topology::build(&Shape::of(&attachment));
    let _servers = finance::http_servers(&topology);
    let config = finance::config(&topology, attachment.mode).with("fastPath", json!({"mode": "off"}));
    let balancer = Balancer::start(&topology.balancer, &config);
    let client = &topology.clients[0].netns;
    client::download(client, Family::V4.balancer(), finance::PORT, 10_000_000);
    let metrics = balancer.metrics();
    assert_eq!(packets(&metrics, "in") + packets(&metrics, "out"), 0.0);
    let text = client::text(&balancer.cli(&["status"]));
    assert!(text.contains("off (set by fastPath: {mode: off})"), "{text}");
}

on_attachments!(a_gibibyte_arrives_while_backends_come_and_go:
    veth_companion = Attachment::VETH_COMPANION,
    tun_offload_companion = Attachment::TUN_OFFLOAD_COMPANION,
);

fn a_gibibyte_arrives_while_backends_come_and_go(attachment: &Attachment) {
    let topology = Topology::build(&Shape {
        servers: 3,
        ..Shape::of(attachment)
    });
    let _servers = finance::http_servers(&topology);
    let all = finance::backends(&topology);
    let config = |backends: &[std::net::IpAddr]| {
        let mut service = service("finance", "TCP", finance::PORT, finance::TARGET_PORT, backends);
        service["drain"] = json!("300s");
        Config::new(attachment.mode)
            .service(service)
            .with("fastPath", json!({"mode": "auto", "after": 1}))
    };
    let balancer = Balancer::start(&topology.balancer, &config(&all));
    let client = &topology.clients[0].netns;
    let is_over = AtomicBool::new(false);
    let changes = thread::scope(|scope| {
        let changes = scope.spawn(|| {
            let mut changes = 0;
            while !is_over.load(Ordering::Relaxed) {
                // Each server goes and comes back, whichever has the download.
                let without = 2 * (changes / 2 % 3);
                let mut some = all.clone();
                if changes % 2 == 0 {
                    some.drain(without..without + 2);
                }
                balancer.replace_config(&config(&some));
                changes += 1;
                thread::sleep(Duration::from_millis(100));
            }
            changes
        });
        let downloads = thread::scope(|downloads| {
            let family = Family::V4.balancer();
            downloads
                .spawn(move || client::download(client, family, finance::PORT, GIBIBYTE))
                .join()
        });
        is_over.store(true, Ordering::Relaxed);
        downloads.expect("the download arrives");
        changes.join().expect("the configurations are accepted")
    });
    assert!(changes > 2, "{changes} changes during the download");
    let metrics = balancer.metrics();
    assert!(packets(&metrics, "out") * 1500.0 > GIBIBYTE as f64 / 2.0);
}

/// A service over TCP and UDP, each flow of which enters the fast path with its first packet.
fn at_once(topology: &Topology, attachment: &Attachment) -> Config {
    let service = |name, protocol| {
        service(
            name,
            protocol,
            finance::PORT,
            finance::TARGET_PORT,
            &finance::backends(topology),
        )
    };
    Config::new(attachment.mode)
        .service(service("tcp", "TCP"))
        .service(service("udp", "UDP"))
        .with("fastPath", json!({"mode": "auto", "after": 1}))
}

fn one_server(attachment: &Attachment) -> Topology {
    Topology::build(&Shape {
        servers: 1,
        ..Shape::of(attachment)
    })
}

/// 64 NAT ports, and connections as fast as they go, each of which enters the fast path with its first packet: ports are
/// used again all the time.
#[test]
fn reused_nat_ports_never_mix_connections() {
    const SECONDS: &str = "60s";
    let attachment = Attachment::VETH_COMPANION;
    let topology = Topology::build(&Shape {
        servers: 1,
        ..Shape::of(&attachment)
    });
    let _server = EchoServer::serve(&topology.servers[0].netns, finance::TARGET_PORT);
    let service = |name, protocol| {
        service(
            name,
            protocol,
            finance::PORT,
            finance::TARGET_PORT,
            &finance::backends(&topology),
        )
    };
    let config = Config::new(attachment.mode)
        .service(service("tcp", "TCP"))
        .service(service("udp", "UDP"))
        .with("natPorts", json!("20000-20063"))
        .with("fastPath", json!({"mode": "auto", "after": 1}));
    let balancer = Balancer::start(&topology.balancer, &config);
    let target = SocketAddr::new(Family::V4.balancer(), finance::PORT).to_string();
    let words = [
        "load", &target, "-p", "tcp", "-c", "24", "--size", "4000", "-d", SECONDS, "-O", "200ms",
    ];
    let report = perf::report(&topology.clients[0].netns, &words, 0);
    let run = &report["runs"][0];
    assert!(run["received"].as_u64() > Some(1_000), "{run}");
    assert_eq!(run["duplicated"], 0, "{run}");
    for (error, count) in run["errors"].as_object().expect("a map") {
        // On a busy machine a connection may take a second; one that gets another's data does not.
        let allowed = if error == "timeout" { 500 } else { 0 };
        assert!(count.as_u64() <= Some(allowed), "{error}: {run}");
    }
    let metrics = balancer.metrics();
    let promoted = metrics.sum("vl3lb_fastpath_promoted_flows_total", &[]);
    let reclaimed = metrics.sum("vl3lb_service_flows_closed_total", &[("service", "tcp")]);
    assert!(
        promoted > 1_000.0 && reclaimed > 1_000.0,
        "{promoted} promoted, {reclaimed} closed"
    );
}

/// Sends a datagram from end to end and checks it. Where it came from.
fn deliver(from: &UdpSocket, to: &UdpSocket, payload: &[u8]) -> SocketAddr {
    from.send(payload).expect("send a datagram");
    let mut received = [0; 2_000];
    let (length, sender) = to.recv_from(&mut received).expect("the datagram");
    assert_eq!(received[..length], *payload);
    sender
}

fn udp_server(topology: &Topology) -> UdpSocket {
    let node = &topology.servers[0];
    let socket = node
        .netns
        .run(|| UdpSocket::bind((node.address(Family::V4), finance::TARGET_PORT)))
        .expect("bind a UDP socket");
    socket.set_read_timeout(Some(wait::STEP)).expect("set a time-out");
    socket
}

fn at_least(balancer: &Balancer, direction: &str, count: f64) {
    wait::until("packets of the fast path to be counted", wait::STEP, || {
        let packets = packets(&balancer.metrics(), direction);
        (packets >= count)
            .then_some(())
            .ok_or_else(|| format!("{packets} {direction}"))
    });
}

on_attachments!(datagrams_in_one_direction_stay_in_the_kernel:
    veth_companion = Attachment::VETH_COMPANION,
    tun_offload_companion = Attachment::TUN_OFFLOAD_COMPANION,
);

fn datagrams_in_one_direction_stay_in_the_kernel(attachment: &Attachment) {
    let topology = one_server(attachment);
    let server = udp_server(&topology);
    let balancer = Balancer::start(&topology.balancer, &at_once(&topology, attachment));
    let to = SocketAddr::new(Family::V4.balancer(), finance::PORT);
    let client = client::udp(&topology.clients[0], 0, to);
    let senders: HashSet<_> = (0..300_u16)
        .map(|number| deliver(&client, &server, &number.to_be_bytes()))
        .collect();
    assert_eq!(senders.len(), 1, "one NAT port: {senders:?}");
    at_least(&balancer, "in", 200.0);
    // The program counts its packets, and the worker adds its counts up at an interval.
    let inbound = [("service", "udp"), ("direction", "in")];
    wait::until("each datagram to be counted once", wait::STEP, || {
        let all = balancer.metrics().sum("vl3lb_service_packets_total", &inbound);
        (all == 300.0)
            .then_some(())
            .ok_or_else(|| format!("{all} packets"))
    });
    // The first reply is the worker's, and others stay in the kernel too.
    for sender in senders {
        server.connect(sender).expect("connect a UDP socket");
    }
    for number in 0..100_u16 {
        deliver(&server, &client, &number.to_be_bytes());
        deliver(&client, &server, &number.to_be_bytes());
    }
    at_least(&balancer, "out", 50.0);
}

/// Routers may fragment them, and all clients share the balancer's address: each gets an identification of its own
/// (RFC 6864 section 5.3.1).
#[test]
fn packets_that_may_be_fragmented_stay_in_the_kernel() {
    const PACKETS: u16 = 300;
    let attachment = Attachment::VETH_COMPANION;
    let topology = one_server(&attachment);
    for node in [&topology.clients[0], &topology.servers[0]] {
        node.netns
            .sysctl("net/ipv4/ip_no_pmtu_disc", "1")
            .expect("a sysctl");
    }
    let server = udp_server(&topology);
    let wire = topology.servers[0]
        .netns
        .run(|| PacketSocket::with_vnet_header(INTERFACE))
        .expect("open a packet socket");
    let balancer = Balancer::start(&topology.balancer, &at_once(&topology, &attachment));
    let to = SocketAddr::new(Family::V4.balancer(), finance::PORT);
    let clients = [0, 0].map(|port| client::udp(&topology.clients[0], port, to));
    let mut identifications = HashSet::new();
    for number in 0..PACKETS {
        let client = &clients[usize::from(number % 2)];
        let payload = [&number.to_be_bytes()[..], &[7; 1_000]].concat();
        let sender = deliver(client, &server, &payload);
        server.send_to(&payload, sender).expect("send a reply");
        let mut answer = [0; 2_000];
        let length = receive(client, &mut answer).expect("the reply");
        assert_eq!(answer[..length], payload);
        let (fragment, identification) = loop {
            let frame = wire.receive(wait::STEP).expect("receive").expect("a frame");
            let packet = &frame[VNET_HEADER + 14..];
            if packet.len() > 1_000 && packet[9] == 17 && packet[28..30] == number.to_be_bytes() {
                break ([packet[6], packet[7]], [packet[4], packet[5]]);
            }
        };
        assert_eq!(fragment, [0, 0], "may be fragmented");
        assert!(identifications.insert(identification), "{identification:?} twice");
    }
    at_least(&balancer, "in", f64::from(PACKETS) / 2.0);
    at_least(&balancer, "out", f64::from(PACKETS) / 2.0);
}

/// What the path column and the status say.
#[test]
fn a_flow_shows_where_its_packets_go() {
    let attachment = Attachment::VETH_COMPANION;
    let topology = Topology::build(&Shape::of(&attachment));
    let _servers = finance::echo_servers(&topology);
    let config =
        finance::config(&topology, attachment.mode).with("fastPath", json!({"mode": "auto", "after": 2}));
    let balancer = Balancer::start(&topology.balancer, &config);
    let address = SocketAddr::new(Family::V4.balancer(), finance::PORT);
    let mut stream = client::tcp(&topology.clients[0], address);
    let name = vl3lb_tests::server::greeting(&mut stream).expect("a greeting");
    assert!(name.starts_with("finance-server-"), "{name}");
    for _ in 0..20 {
        use std::io::{Read, Write};
        stream.write_all(b"echo\n").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    let flows = balancer.cli_json(&["flows"]);
    assert_eq!(flows["items"][0]["fast"], true, "{flows}");
    assert!(
        flows["items"][0]["in"]["packetsTotal"].as_u64() > Some(20),
        "{flows}"
    );
    let text = client::text(&balancer.cli(&["flows", "-o", "wide"]));
    assert!(text.contains("kernel"), "{text}");
    let status = client::text(&balancer.cli(&["status"]));
    assert!(status.contains("fast path  1 of 16.4k flows"), "{status}");
    drop(stream);
    wait::until("the closed flow to leave the kernel", wait::STEP, || {
        let flows = balancer.metrics().sum("vl3lb_fastpath_flows", &[]);
        (flows == 0.0)
            .then_some(())
            .ok_or_else(|| format!("{flows} flows"))
    });
}
