//! Established flows stay in the kernel: their data arrives byte for byte, whatever happens meanwhile, and all of it is
//! counted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::metrics::Metrics;
use vl3lb_tests::perf::{self, EchoServer};
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
    let target = std::net::SocketAddr::new(Family::V4.balancer(), finance::PORT).to_string();
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

/// What the path column and the status say.
#[test]
fn a_flow_shows_where_its_packets_go() {
    let attachment = Attachment::VETH_COMPANION;
    let topology = Topology::build(&Shape::of(&attachment));
    let _servers = finance::echo_servers(&topology);
    let config =
        finance::config(&topology, attachment.mode).with("fastPath", json!({"mode": "auto", "after": 2}));
    let balancer = Balancer::start(&topology.balancer, &config);
    let address = std::net::SocketAddr::new(Family::V4.balancer(), finance::PORT);
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
