//! `vl3-perf flood` floods the balancer from spoofed sources while legitimate connections go on, and says what became of
//! them. What is checked holds at any speed of the machine.

use std::process::Command;

use serde_json::Value;
use vl3lb_tests::client::text;
use vl3lb_tests::{balancer, perf};

/// A short and small flood.
fn flood(attacks: &str) -> Value {
    let output = Command::new(perf::binary())
        .args([
            "flood",
            "--peer",
            "vl3-lb-native,nftables",
            "--attack",
            attacks,
            "-R",
            "5k",
        ])
        .args([
            "--sources",
            "1000",
            "-d",
            "1s",
            "--before",
            "1500ms",
            "--after",
            "2s",
            "--json",
        ])
        .arg("--balancer")
        .arg(balancer::binary())
        .output()
        .expect("run vl3-perf");
    assert!(output.status.success(), "{attacks}: {}", text(&output));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{attacks}: {error}: {}", text(&output)))
}

/// The sum of all counters of vl3-lb that grew during the flood and whose names begin so.
fn grown(run: &Value, counter: &str) -> f64 {
    let counters = run["counters"].as_object().expect("counters by name");
    let matching = counters.iter().filter(|(name, _)| name.starts_with(counter));
    matching.filter_map(|(_, growth)| growth.as_f64()).sum()
}

#[test]
fn a_flood_arrives_while_legitimate_connections_go_on() {
    let report = flood("syn,udp");
    assert_eq!(report["failed"].as_array().map(Vec::len), Some(0), "{report:#}");
    let runs = report["runs"].as_array().expect("a list of runs");
    let made: Vec<_> = runs
        .iter()
        .filter_map(|run| Some((run["attack"].as_str()?, run["peer"].as_str()?)))
        .collect();
    let expected = ["syn", "udp"].map(|attack| [(attack, "vl3-lb-native"), (attack, "nftables")]);
    assert_eq!(made, expected.concat());
    for run in runs {
        let sent = run["floodPacketsPerSecond"].as_f64();
        assert!(sent > Some(0.0) && sent < Some(5_100.0), "{run:#}");
        for phase in ["before", "during"] {
            for share in ["goodputRatio", "newConnectionsRatio"] {
                assert!(run[phase][share].as_f64() > Some(0.0), "{phase} {share}: {run:#}");
            }
        }
    }
    for run in runs.iter().filter(|run| run["peer"] == "vl3-lb-native") {
        let service = if run["attack"] == "udp" { "packets" } else { "web" };
        let opened = grown(
            run,
            &format!("vl3lb_service_flows_opened_total{{service=\"{service}\""),
        );
        // Legitimate connections are some hundreds.
        assert!(opened > 1_000.0, "{run:#}");
    }
}
