//! `vl3-perf compare` and `churn` build their own network, measure in it, and say what they found.

use std::process::Command;

use serde_json::Value;
use vl3lb_tests::client::text;
use vl3lb_tests::{balancer, perf};

/// Short measurements, the binary under test.
fn run(words: &[&str]) -> Value {
    let output = Command::new(perf::binary())
        .args(words)
        .arg("--balancer")
        .arg(balancer::binary())
        .arg("--json")
        .output()
        .expect("run vl3-perf");
    assert!(output.status.success(), "{words:?}: {}", text(&output));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{words:?}: {error}: {}", text(&output)))
}

#[test]
fn peers_are_measured_in_turn() {
    let names = ["vl3-lb-native", "reflector-native", "nftables"];
    let report = run(&[
        "compare",
        "--peer",
        &names.join(","),
        "--rounds",
        "1",
        "-d",
        "300ms",
    ]);
    let peers = report["peers"].as_array().expect("a list of peers");
    let measured: Vec<&str> = peers.iter().filter_map(|peer| peer["name"].as_str()).collect();
    assert_eq!(measured, names);
    for peer in peers {
        assert_eq!(peer["failures"].as_array().map(Vec::len), Some(0), "{peer:#}");
        for key in [
            "flatOutPacketsPerSecond",
            "fullLoadCpuSecondsPerPacket",
            "halfLoadLatencySecondsP99",
        ] {
            assert!(
                peer["summary"][key]["median"].as_f64() > Some(0.0),
                "{key}: {peer:#}"
            );
        }
    }
}

#[test]
fn over_tun_devices_peers_are_measured_or_say_why_not() {
    let names = ["vl3-lb-native", "vl3-lb-generic", "vl3-lb-companion", "nftables"];
    let peers = names.join(",");
    let report = run(&[
        "compare", "--link", "tun", "--peer", &peers, "--rounds", "1", "-d", "300ms",
    ]);
    let peers = report["peers"].as_array().expect("a list of peers");
    assert_eq!(peers[0]["absent"], "a TUN device has no native XDP");
    for peer in &peers[1..] {
        assert_eq!(peer["failures"].as_array().map(Vec::len), Some(0), "{peer:#}");
        let rate = &peer["summary"]["flatOutPacketsPerSecond"]["median"];
        assert!(rate.as_f64() > Some(0.0), "{peer:#}");
    }
}

#[test]
fn backends_change_under_load_and_no_flow_moves() {
    let report = run(&[
        "churn",
        "--backends",
        "50",
        "--changes",
        "3",
        "--flows",
        "100",
        "-R",
        "1000",
    ]);
    assert_eq!(
        report["changeSeconds"]["all"].as_array().map(Vec::len),
        Some(3),
        "{report:#}"
    );
    assert!(report["sent"].as_u64() > Some(0), "{report:#}");
    assert_eq!(
        (&report["flowsMoved"], &report["flowsBefore"]),
        (&0.into(), &100.into()),
        "{report:#}"
    );
}
