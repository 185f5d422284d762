//! `vl3-perf load` through a balancer: with each engine and protocol the data returns undamaged, and the exit status
//! names the outcome.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use serde_json::Value;
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client::text;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::perf::{self, EchoServer};
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance::{self, PORT, TARGET_PORT};

/// Slow and short: CI has two cores.
const SHORT: [&str; 6] = ["-R", "500", "-d", "1s", "-O", "200ms"];

/// One service over UDP and TCP.
fn config(topology: &Topology, mode: &str) -> Config {
    let backends: Vec<IpAddr> = finance::backends(topology);
    let service = |name, protocol| service(name, protocol, PORT, TARGET_PORT, &backends);
    Config::new(mode)
        .service(service("udp", "UDP"))
        .service(service("tcp", "TCP"))
}

fn servers(topology: &Topology) -> Vec<EchoServer> {
    let servers = topology.servers.iter();
    servers
        .map(|node| EchoServer::serve(&node.netns, TARGET_PORT))
        .collect()
}

fn load(topology: &Topology, family: Family, more: &[&str]) -> Value {
    let target = SocketAddr::new(family.balancer(), PORT).to_string();
    let words = [&["load", &target][..], &SHORT, more].concat();
    perf::report(&topology.clients[0].netns, &words, 0)
}

/// Panics unless at least 90% returned, undamaged and without duplicates. A busy machine may lose some packets.
fn assert_undamaged(report: &Value, what: &str) {
    let run = &report["runs"][0];
    let count = |key: &str| {
        run[key]
            .as_u64()
            .unwrap_or_else(|| panic!("{what}: {key} in {run}"))
    };
    assert!(count("sent") > 0, "{what}: {run}");
    assert!(count("received") * 10 > count("sent") * 9, "{what}: {run}");
    assert_eq!(count("duplicated"), 0, "{what}: {run}");
    for (error, count) in run["errors"].as_object().expect("a map") {
        assert_eq!(count, 0, "{what}: {error}: {run}");
    }
}

on_attachments!(packets_and_connections_return_undamaged:
    veth_native = Attachment::VETH_NATIVE,
    veth_generic = Attachment::VETH_GENERIC,
    tun_auto = Attachment::TUN_AUTO,
);

fn packets_and_connections_return_undamaged(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &config(&topology, attachment.mode));
    for family in Family::BOTH {
        for more in [
            &["--flows", "50", "--engine", "socket"][..],
            &["--flows", "50", "--engine", "xdp", "--zipf", "1"],
            &[
                "--flows", "50", "--engine", "xdp", "--size", "1400", "--mode", "generic",
            ],
            &["-p", "tcp", "--size", "2000"],
            &["-p", "tcp", "--keep", "-c", "20"],
        ] {
            let report = load(&topology, family, more);
            assert_undamaged(&report, &format!("{family:?} {more:?}"));
            let engine = if more.contains(&"xdp") { "xdp" } else { "socket" };
            assert_eq!(report["environment"]["engine"], engine, "{more:?}");
        }
    }
    assert_eq!(balancer.metrics().drops("malformed"), 0.0);
    assert_eq!(balancer.metrics().drops("bad_checksum"), 0.0);
}

#[test]
fn synthetic_tcp_connections_open_flows() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_NATIVE));
    let _reflectors: Vec<_> = topology
        .servers
        .iter()
        .map(|node| {
            let listen = Family::BOTH.map(|family| SocketAddr::new(node.address(family), TARGET_PORT));
            EchoServer::reflect(&node.netns, "auto", &listen)
        })
        .collect();
    let balancer = Balancer::start(&topology.balancer, &config(&topology, "native"));
    for family in Family::BOTH {
        for protocol in ["tcp-packets", "udp"] {
            let more = ["-p", protocol, "--flows", "30", "--engine", "xdp"];
            let report = load(&topology, family, &more);
            assert_undamaged(&report, &format!("{family:?} {more:?}"));
        }
    }
    let opened = balancer
        .metrics()
        .sum("vl3lb_service_flows_opened_total", &[("service", "tcp")]);
    assert_eq!(opened, 60.0, "a flow for each connection");
}

#[test]
fn a_failed_condition_has_exit_status_4() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_NATIVE));
    let _servers = servers(&topology);
    let client = &topology.clients[0].netns;
    let target = SocketAddr::new(topology.servers[0].address(Family::V4), TARGET_PORT).to_string();
    let words = [
        &[
            "latency",
            &target,
            "--fail-if",
            "rate<1M",
            "--fail-if",
            "payload>0",
        ][..],
        &SHORT,
    ]
    .concat();
    let report = perf::report(client, &words, 4);
    assert_eq!(report["verdict"], "fail");
    let failed = report["failed"].as_array().expect("a list");
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(
        failed[0].as_str().is_some_and(|text| text.starts_with("rate ")),
        "{failed:?}"
    );
}

#[test]
fn unusable_targets_have_exit_status_2_or_3() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_NATIVE));
    let client = &topology.clients[0].netns;
    let server = topology.servers[0].address(Family::V4);
    let silent = SocketAddr::new(server, TARGET_PORT).to_string();
    for (words, status, why) in [
        (vec!["load", &silent, "--engine", "socket"], 3, "unreachable"),
        (vec!["load", &silent, "--engine", "xdp"], 3, "no answer"),
        (vec!["load", &silent, "-p", "tcp"], 3, "refused"),
        (vec!["load", &silent, "-p", "tcp-packets"], 3, "handshakes"),
        (
            vec!["load", "172.16.1.255:5000", "--engine", "socket"],
            2,
            "broadcast",
        ),
        (
            vec!["load", "172.16.1.255:5000", "--engine", "xdp"],
            2,
            "not the address of another host",
        ),
        (vec!["load", "224.0.0.1:5000"], 2, "multicast"),
        (vec!["load", "9.9.9.9:5000"], 2, "--allow-public"),
        (vec!["load", "finance.vl3-lb:8080"], 2, "a name is not looked up"),
        (
            vec!["load", "127.0.0.1:5000", "--engine", "xdp"],
            2,
            "not the address of another host",
        ),
    ] {
        let output = perf::run(client, &words);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(status), "{words:?}: {text}");
        assert!(text.contains(why), "{words:?}: {text}");
    }
}

#[test]
fn an_interrupted_run_reports_its_results_so_far() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_NATIVE));
    let _servers = servers(&topology);
    let client = &topology.clients[0].netns;
    let target = SocketAddr::new(topology.servers[0].address(Family::V4), TARGET_PORT).to_string();
    let words = [
        "load", &target, "-R", "500", "-d", "1h", "-O", "0s", "-i", "100ms", "--json",
    ];
    let mut child = perf::command(client, &words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run vl3-perf");
    // At the second line of progress there are measurements.
    let mut progress = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
    let seen = progress
        .by_ref()
        .map_while(Result::ok)
        .filter(|line| line.starts_with("run 1/1"));
    assert_eq!(seen.take(2).count(), 2, "no progress");
    perf::interrupt(&child);
    let drain = std::thread::spawn(move || progress.map_while(Result::ok).for_each(drop));
    let output = child.wait_with_output().expect("it ends");
    drain.join().expect("reading does not panic");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["interrupted"], true);
    assert_eq!(report["verdict"], "interrupted");
    assert!(report["runs"][0]["received"].as_u64() > Some(0), "{report}");
}
