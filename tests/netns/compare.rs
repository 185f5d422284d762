//! `vl3-perf compare` and `churn` build a network, measure in it, and report.

use std::process::Command;

use serde_json::Value;
use vl3lb_tests::client::text;
use vl3lb_tests::{balancer, perf};

/// Runs `vl3-perf WORDS` with the binary under test, and parses its report.
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

/// Measures one round of these peers over `link`: each must pass packets, and nothing may fail.
fn compare(link: &str, names: &[&str]) -> Value {
    let peers = names.join(",");
    let report = run(&[
        "compare", "--link", link, "--peer", &peers, "--rounds", "1", "-d", "300ms",
    ]);
    assert_eq!(report["parameters"]["link"], link);
    assert_eq!(report["failed"].as_array().map(Vec::len), Some(0), "{report:#}");
    let listed = report["peers"].as_array().expect("a list of peers");
    let listed: Vec<&str> = listed.iter().filter_map(|peer| peer["name"].as_str()).collect();
    assert_eq!(listed, names);
    for run in report["runs"].as_array().expect("a list of runs") {
        assert_eq!(run["round"], 1);
        assert!(
            run["startTime"].as_str().is_some_and(|time| time.ends_with('Z')),
            "{run:#}"
        );
        for value in [
            &run["durationSeconds"],
            &run["flatOutPacketsPerSecond"],
            &run["fullLoadCpuSecondsPerPacket"],
            &run["halfLoadLatencySeconds.p99"],
        ] {
            assert!(value.as_f64() > Some(0.0), "{run:#}");
        }
    }
    report
}

/// The peers of the runs, in order.
fn measured(report: &Value) -> Vec<&str> {
    let runs = report["runs"].as_array().expect("a list of runs");
    runs.iter().filter_map(|run| run["peer"].as_str()).collect()
}

#[test]
fn peers_are_measured_in_turn() {
    let names = ["vl3-lb-native", "reflector-native", "nftables"];
    let report = compare("veth", &names);
    assert_eq!(measured(&report), names);
    for name in names {
        let rate = &report["summary"][name]["flatOutPacketsPerSecond"];
        assert!(rate["median"].as_f64() > Some(0.0), "{report:#}");
    }
}

#[test]
fn a_peer_is_measured_while_it_is_captured_from() {
    let name = "vl3-lb-native-captured";
    let report = compare("veth", &[name]);
    assert_eq!(measured(&report), [name]);
    let commands = report["peers"][0]["commands"].to_string();
    assert!(commands.contains("capture --sample 1000"), "{report:#}");
    let measured = |key: &str| report["runs"][0][key].as_f64().unwrap_or(f64::NAN);
    let ratio = measured("flatOutCapturedRatio");
    assert!(ratio > 0.0, "{report:#}");
    let bounds = measured("flatOutCapturedRatio.low")..=measured("flatOutCapturedRatio.high");
    assert!(bounds.contains(&ratio), "{report:#}");
    assert!(measured("flatOutCaptureCpuRatio").is_finite(), "{report:#}");
}

#[test]
fn peers_without_tun_support_are_reported_as_absent() {
    let names = ["vl3-lb-native", "vl3-lb-generic", "vl3-lb-companion", "nftables"];
    let report = compare("tun", &names);
    assert_eq!(measured(&report), names[1..]);
    assert_eq!(report["peers"][0]["absent"], "a TUN device has no native XDP");
}

#[test]
fn churn_under_load_moves_no_flow() {
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
    let run = &report["runs"][0];
    assert_eq!(
        run["changeSeconds"]["all"].as_array().map(Vec::len),
        Some(3),
        "{report:#}"
    );
    assert!(
        report["summary"]["changeSeconds.p99"]["median"].as_f64() > Some(0.0),
        "{report:#}"
    );
    assert!(run["sent"].as_u64() > Some(0), "{report:#}");
    assert_eq!(
        (&run["flowsMoved"], &run["flowsBefore"]),
        (&0.into(), &100.into()),
        "{report:#}"
    );
}
