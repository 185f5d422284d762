//! CPU profiles of a balancer under load: Go's own tool reads them, and the traffic goes on.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client::text;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::perf::{self, EchoServer};
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance::{self, PORT, TARGET_PORT};

const URL: &str = "http://127.0.0.1:9090/debug/pprof/profile?seconds=4";

/// One service over UDP, whose packets the workers forward.
fn config(topology: &Topology, allowed: bool) -> Config {
    let backends: Vec<IpAddr> = finance::backends(topology);
    Config::new("generic")
        .service(service("finance", "UDP", PORT, TARGET_PORT, &backends))
        .with("fastPath", json!({"mode": "off"}))
        .with("admin", json!({"profile": allowed}))
}

/// The result of `profile` under load, and the run of the load.
fn under_load<T>(topology: &Topology, profile: impl FnOnce() -> T) -> (T, Value) {
    let target = SocketAddr::new(Family::V4.balancer(), PORT).to_string();
    let words = [
        "load", &target, "-R", "10000", "-d", "6s", "-O", "200ms", "--flows", "50",
    ];
    let mut command = perf::command(&topology.clients[0].netns, &[&words[..], &["--json"]].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let load = command.spawn().expect("run vl3-perf");
    let profile = profile();
    let output = load.wait_with_output().expect("its report");
    assert!(output.status.success(), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    (profile, report["runs"][0].clone())
}

/// Panics if packets were lost, but for the few that a busy machine loses anyway.
fn assert_undisturbed(run: &Value) {
    let count = |key: &str| run[key].as_u64().unwrap_or_else(|| panic!("{key} in {run}"));
    assert!(count("received") * 100 >= count("sent") * 99, "{run}");
    assert_eq!(count("duplicated"), 0, "{run}");
}

#[test]
fn a_profile_under_load_has_the_worker_and_loses_no_packets() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_GENERIC));
    let _servers: Vec<_> = topology
        .servers
        .iter()
        .map(|node| EchoServer::serve(&node.netns, TARGET_PORT))
        .collect();
    let balancer = Balancer::start(&topology.balancer, &config(&topology, true));
    let (output, run) = under_load(&topology, || balancer.cli(&["profile", "--duration", "3s"]));
    assert_undisturbed(&run);
    assert!(output.status.success(), "{}", text(&output));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        table.trim_start().starts_with("SELF") && table.contains("vl3lb_dataplane::"),
        "{table}"
    );
    let summary = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        summary.contains(" of CPU time in 3.") && summary.contains("worker-0 "),
        "{summary}"
    );
    // Nothing is left of it.
    let metrics = balancer.metrics();
    assert_eq!(metrics.sum("vl3lb_ready", &[]), 1.0);
    let (_, run) = under_load(&topology, || ());
    assert_undisturbed(&run);
}

#[test]
fn profiles_are_refused_unless_the_configuration_allows_them() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_GENERIC));
    let balancer = Balancer::start(&topology.balancer, &config(&topology, false));
    let output = balancer.cli(&["profile", "--duration", "1s"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    for part in ["profiles are switched off", "admin: {profile: true}"] {
        assert!(text(&output).contains(part), "{}", text(&output));
    }
}

/// Whether a table of go tool pprof has the loop of a worker. In an optimized build it has names without their paths.
fn has_the_workers_loop(table: &str) -> bool {
    table.lines().any(|line| line.ends_with("step"))
}

#[test]
fn go_tool_pprof_fetches_and_reads_a_profile() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_GENERIC));
    let _servers: Vec<_> = topology
        .servers
        .iter()
        .map(|node| EchoServer::serve(&node.netns, TARGET_PORT))
        .collect();
    let balancer = Balancer::start(&topology.balancer, &config(&topology, true));
    // Built before the load begins.
    let go = std::env::var_os("VL3LB_GO").expect("VL3LB_GO, the path of go: `./run test netns` sets it");
    let built = Command::new(&go).args(["tool", "pprof", "-h"]).output();
    built.expect("run go: `./run test netns` leaves this test out where Go is not");
    let folder = tempfile::tempdir().expect("a folder");
    let (output, run) = under_load(&topology, || {
        let mut command = topology.balancer.netns.command(&go);
        command.env("PPROF_TMPDIR", folder.path());
        command.args(["tool", "pprof", "-top", "-nodecount=100", URL]);
        command.output().expect("run go tool pprof")
    });
    assert_undisturbed(&run);
    let report = text(&output);
    assert!(output.status.success(), "{report}");
    for part in ["File: vl3-lb", "Type: cpu", "Duration: 4", "flat%"] {
        assert!(report.contains(part), "{part}: {report}");
    }
    assert!(has_the_workers_loop(&report), "{report}");
    // It keeps what it fetched.
    let kept = std::fs::read_dir(folder.path()).expect("the folder").next();
    let kept = kept.expect("a file").expect("its name").path();
    let mut command = Command::new(&go);
    command.args(["tool", "pprof", "-top", "-tagfocus=thread=worker-0"]);
    let threads = command.arg(kept).output().expect("run go tool pprof");
    assert!(threads.status.success(), "{}", text(&threads));
    assert!(has_the_workers_loop(&text(&threads)), "{}", text(&threads));
    drop(balancer);
}
