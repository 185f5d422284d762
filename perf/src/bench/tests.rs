//! Reports of made-up results.

use std::fs;

use super::chart::Chart;
use super::targets::Target;
use super::*;
use crate::compare::metric::Metric;
use crate::report::header::document;
use crate::{churn, compare, flood, pipeline};

fn results() -> Results {
    use Metric::{CpuFull, IdleCpu, LatencyP99, LatencyTypicalP99, LossFree, NewConnections, Requests};
    let steps = [(1_000, 90.0), (64_000, 110.0), (1_000_000, 250.0)];
    let ours = [
        (LossFree, 760e3),
        (CpuFull, 1.5e-6),
        (LatencyP99, 140e-6),
        (LatencyTypicalP99, 50e-6),
        (NewConnections, 30e3),
        (Requests, 50e3),
        (IdleCpu, 0.001),
    ];
    let nftables = [
        (CpuFull, 1.2e-6),
        (LatencyP99, 130e-6),
        (LatencyTypicalP99, 90e-6),
    ];
    Results {
        pipeline: Some(pipeline::report(&[&steps[..], &[(10_000_000, 400.0)]].concat())),
        sequential: Some(pipeline::report(&steps)),
        compare: Some(compare::test_report(&[
            ("vl3-lb-native", &ours),
            ("reflector-native", &[(LossFree, 780e3)]),
            ("nftables", &nftables),
            ("haproxy", &[(NewConnections, 14e3), (Requests, 40e3)]),
            ("routing", &[(LatencyP99, 90e-6), (LatencyTypicalP99, 70e-6)]),
        ])),
        compare_tun: Some(compare::test_report(&[("vl3-lb-generic", &[(LossFree, 284e3)])])),
        churn: Some(churn::report([2, 3, 4])),
        flood: Some(flood::test_report()),
    }
}

fn find<'a>(targets: &'a [Target], measure: &str) -> &'a Target {
    let mut targets = targets.iter();
    targets
        .find(|target| target.measure.starts_with(measure))
        .unwrap_or_else(|| panic!("no target {measure}"))
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
        ("churn, established flows lost", Some(false)),
        ("flood syn, vl3-lb-fastpath", None),
        ("flood syn, vl3-lb-native", Some(false)),
        ("flood udp, vl3-lb-native", None),
        ("flood ports, vl3-lb-native", Some(true)),
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
    assert_eq!(
        find(&targets, "flood syn, vl3-lb-native").measured,
        "99%, 50%, 400ms; nftables: 99%, 25%, never"
    );
}

#[test]
fn latency_that_no_peer_adds_is_not_judged() {
    let p99 = |seconds| [(Metric::LatencyP99, seconds)];
    let results = Results {
        compare: Some(compare::test_report(&[
            ("vl3-lb-native", &p99(140e-6)),
            ("nftables", &p99(130e-6)),
            ("routing", &p99(150e-6)),
        ])),
        ..Results::default()
    };
    let targets = targets::all(&results);
    let target = find(&targets, "added p99 latency");
    assert_eq!((&*target.measured, target.met), ("none to none", None));
}

#[test]
fn without_results_no_target_is_judged() {
    for target in targets::all(&Results::default()) {
        assert_eq!((&*target.measured, target.met), ("not measured", None));
    }
}

#[test]
fn the_report_has_machine_commands_targets_and_every_peer() {
    let results = results();
    let targets = targets::all(&results);
    let plots = [("a.svg".to_owned(), "a plot".to_owned())];
    let text = markdown::write("A title", &results, &targets, &plots);
    for part in [
        "# A title\n",
        "- Processor: Example, 2 cores\n",
        "\nvl3-lb-native     760k (760k..760k)",
        "\n## Compare, TUN link\n\n```\ncompare  veth, ",
        "\nvl3-lb-generic  284k (284k..284k)",
        "\nvpp: not measured: vpp is not installed\n",
        "  start haproxy\n",
        "\n64000        64  110 (109..112)",
        "p50 3.00ms  p90 4.00ms  p99 4.00ms",
        "\n## Flood\n\n```\nflood  5.00s from ",
        "![a plot](a.svg)\n",
        "**missed**",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn every_plot_has_a_bar_for_each_measured_peer() {
    let charts = chart::all(&results());
    let names: Vec<String> = charts.iter().map(Chart::file_name).collect();
    assert!(
        names.contains(&"compare-lossFreePacketsPerSecond.svg".to_owned()),
        "{names:?}"
    );
    assert!(names.contains(&"pipeline.svg".to_owned()), "{names:?}");
    // Bulk was not measured.
    assert!(
        !names.contains(&"compare-bulkBitsPerSecond.svg".to_owned()),
        "{names:?}"
    );
    for chart in charts {
        let svg = chart.svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("Example"), "{svg}");
    }
}

#[test]
fn a_directory_of_results_becomes_a_report_there() {
    let directory = tempfile::tempdir().unwrap();
    let args = ReportArgs {
        directory: directory.path().to_owned(),
        title: "T".to_owned(),
    };
    assert!(run(&args).is_err(), "there are no results");
    fs::write(directory.path().join("churn.json"), document(&churn::report([2]))).unwrap();
    let text = run(&args).unwrap();
    assert!(text.contains("report.md: 1 of 2 targets met"), "{text}");
    let report = fs::read_to_string(directory.path().join("report.md")).unwrap();
    assert!(report.contains("- compare: not measured"), "{report}");
}
