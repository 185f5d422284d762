//! A report of results that are made up.

use serde_json::{Value, json};

use super::chart::Chart;
use super::results::{Comparison, Results};
use super::targets::Target;
use super::*;

fn peer(name: &str) -> Value {
    json!({
        "name": name, "about": format!("what {name} is"), "absent": null, "failures": [],
        "commands": [format!("start {name}")],
    })
}

fn summary(numbers: &[(&str, f64)]) -> Value {
    let summary = numbers.iter().map(|&(key, median)| {
        (
            key.to_owned(),
            json!({"median": median, "min": median * 0.9, "max": median * 1.1}),
        )
    });
    Value::Object(summary.collect())
}

fn pipeline(cycles: &[(u64, f64)]) -> Value {
    let result = |&(flows, cycles): &(u64, f64)| {
        let cost = |cycles: f64| json!({"cycles": cycles, "ns": cycles / 2.5, "cyclesMin": cycles, "cyclesMax": cycles});
        json!({
            "flows": flows, "bytesPerFlow": 116.0, "memoryBytes": flows * 116,
            "request": cost(cycles), "reply": cost(cycles + 10.0), "newFlow": cost(5.0 * cycles),
            "newFlowTcp": cost(5.0 * cycles),
        })
    };
    let environment = json!({"cpu": "Some CPU", "kernel": "6.18", "core": 1});
    json!({"environment": environment, "results": cycles.iter().map(result).collect::<Vec<_>>()})
}

fn results() -> Results {
    let (rate, p99) = ("lossFreePacketsPerSecond", "halfLoadLatencySeconds.p99");
    let typical = "halfLoadLatencySeconds.typicalP99";
    let vpp = json!({"name": "vpp", "about": "VPP", "absent": "vpp is not installed", "failures": [], "commands": []});
    Results {
        pipeline: pipeline(&[
            (1_000, 90.0),
            (64_000, 110.0),
            (1_000_000, 250.0),
            (10_000_000, 400.0),
        ]),
        sequential: pipeline(&[(1_000, 90.0), (64_000, 110.0), (1_000_000, 250.0)]),
        compare: Comparison(json!({
            "command": ["/somewhere/vl3-perf", "compare", "--json"],
            "environment": {"cpu": "Some CPU", "kernel": "6.18", "cores": 2},
            "parameters": {"flows": 1000, "frameBytes": 64, "rounds": 3, "durationSeconds": 2.0, "testerCore": 0, "peerCore": 1},
            "peers": [
                peer("vl3-lb-native"), peer("reflector-native"), peer("nftables"), peer("haproxy"), peer("routing"), vpp,
            ],
            "summary": {
                "vl3-lb-native": summary(&[
                    (rate, 760e3), ("fullLoadCpuSecondsPerPacket", 1.5e-6), (p99, 140e-6), (typical, 50e-6), ("halfLoadTesterWaitRatio", 0.004), ("halfLoadPeerWaitRatio", 0.005),
                    ("newConnectionsPerSecond", 30e3), ("requestsPerSecond", 50e3), ("idleCpuRatio", 0.001),
                ]),
                "reflector-native": summary(&[(rate, 780e3)]),
                "nftables": summary(&[("fullLoadCpuSecondsPerPacket", 1.2e-6), (p99, 130e-6), (typical, 90e-6)]),
                "haproxy": summary(&[("newConnectionsPerSecond", 14e3), ("requestsPerSecond", 40e3)]),
                "routing": summary(&[(p99, 90e-6), (typical, 70e-6)]),
            },
        })),
        compare_tun: Comparison(json!({
            "command": ["/somewhere/vl3-perf", "compare", "--link", "tun", "--json"],
            "parameters": {"link": "tun", "flows": 1000, "frameBytes": 64, "rounds": 3, "durationSeconds": 2.0, "testerCore": 0, "peerCore": 1},
            "peers": [peer("vl3-lb-generic"), peer("nftables")],
            "summary": {
                "vl3-lb-generic": summary(&[(rate, 284e3)]),
                "nftables": summary(&[(rate, 221e3)]),
            },
        })),
        churn: json!({
            "parameters": {"changes": 100, "replaced": 10, "backends": 1000, "requestsPerSecond": 10e3, "flows": 1000, "mode": "native"},
            "runs": [{
                "changeSeconds": {"p50": 0.002, "p90": 0.003, "p99": 0.004, "max": 0.01},
                "appliedSecondsMean": 0.001, "sent": 100, "lost": 0,
                "flowsBefore": 1000, "flowsAfter": 1000, "flowsMoved": 0, "flowsLost": 0,
            }],
        }),
    }
}

fn find<'a>(targets: &'a [Target], measure: &str) -> &'a Target {
    targets
        .iter()
        .find(|target| target.measure.starts_with(measure))
        .unwrap_or_else(|| panic!("no target {measure}: {targets:#?}"))
}

#[test]
fn each_target_is_judged_by_its_own_numbers() {
    let targets = targets::all(&results());
    for (measure, met) in [
        ("pipeline, client to backend, 1.00k", Some(true)),
        ("pipeline, client to backend, 64.0k", Some(false)),
        ("pipeline, backend to client, 1.00M", Some(false)),
        ("pipeline, new flows", Some(false)),
        ("10M flows, memory", Some(true)),
        ("10M flows, cycles", Some(false)),
        ("loss-free packets/s of vl3-lb-native", Some(true)),
        ("loss-free packets/s of vl3-lb-generic", None),
        ("CPU time per packet, full load of vl3-lb-native", Some(false)),
        ("new connections/s", Some(true)),
        ("HTTP requests/s", Some(false)),
        // 50 us added, to 40 us: 1.25 times.
        ("added p99 latency", Some(false)),
        ("idle CPU", Some(true)),
        ("churn, p99", Some(true)),
        ("churn, established flows lost", Some(true)),
    ] {
        assert_eq!(find(&targets, measure).met, met, "{measure}");
    }
    let ratio = find(&targets, "new connections/s");
    assert_eq!(
        (&*ratio.wanted, &*ratio.measured),
        (">= 2x haproxy", "2.14x (30.0k to 14.0k)")
    );
    assert_eq!(
        find(&targets, "added p99 latency").measured,
        "50us to 40us; typical p99: none to 20us"
    );
}

#[test]
fn latency_that_nobody_adds_is_not_judged() {
    let mut results = results();
    let p99 = "halfLoadLatencySeconds.p99";
    results.compare.0["summary"]["routing"][p99] = summary(&[(p99, 150e-6)])[p99].clone();
    let targets = targets::all(&results);
    let target = find(&targets, "added p99 latency");
    assert_eq!(target.met, None);
    assert!(target.measured.starts_with("none to none"), "{}", target.measured);
}

#[test]
fn nothing_measured_is_nothing_judged() {
    let targets = targets::all(&Results::default());
    assert!(
        targets
            .iter()
            .all(|target| target.met.is_none() && target.measured == "not measured")
    );
}

#[test]
fn the_report_has_machine_commands_targets_and_every_peer() {
    let results = results();
    let targets = targets::all(&results);
    let text = markdown::write(
        "A title",
        &results,
        &targets,
        &[("a.svg".to_owned(), "a picture".to_owned())],
    );
    for part in [
        "# A title\n",
        "- Processor: Some CPU, 2 cores\n",
        "- compare: `vl3-perf compare --json`\n",
        "| vl3-lb-native | 760k (684k..836k) |",
        " | 50us (45us..55us) | 0.40% (0.36%..0.44%) | 0.50% (0.45%..0.55%) |\n",
        "\n## Compare, TUN link\n\nOne-armed, the link is tun, ",
        "- compare, TUN link: `vl3-perf compare --link tun --json`\n",
        "| vl3-lb-generic | 284k (256k..312k) |",
        "| 64000 | 110 | 120 | 550 |",
        "  - not measured: vpp is not installed\n",
        "  start haproxy\n",
        "| | 2.00ms | 3.00ms | 4.00ms | 10.0ms |\n",
        "![a picture](a.svg)\n",
        "**missed**",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn every_picture_has_a_bar_for_each_that_was_measured() {
    let charts = chart::all(&results());
    let names: Vec<String> = charts.iter().map(Chart::file_name).collect();
    assert!(
        names.contains(&"compare-lossFreePacketsPerSecond.svg".to_owned()),
        "{names:?}"
    );
    assert!(names.contains(&"pipeline.svg".to_owned()), "{names:?}");
    // Nothing was measured in bulk.
    assert!(
        !names.contains(&"compare-bulkBitsPerSecond.svg".to_owned()),
        "{names:?}"
    );
    for chart in charts {
        let svg = chart.svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("Some CPU"), "{svg}");
    }
}

#[test]
fn a_directory_of_results_becomes_a_report_there() {
    let directory = std::env::temp_dir().join(format!("vl3-perf-report-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let args = ReportArgs {
        directory: directory.clone(),
        title: "T".to_owned(),
    };
    assert!(run(&args).is_err(), "nothing is there");
    fs::write(directory.join("churn.json"), results().churn.to_string()).unwrap();
    let said = run(&args).unwrap();
    assert!(said.contains("report.md: 2 of 2 targets met"), "{said}");
    assert!(
        fs::read_to_string(directory.join("report.md"))
            .unwrap()
            .contains("- compare: not measured")
    );
    fs::remove_dir_all(&directory).unwrap();
}
