//! One report in all of its forms.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::environment::Environment;
use super::header::Header;
use super::{Focus, Report, Verdict};
use crate::load::interval::Interval;
use crate::load::latency::{Latency, Percentiles};
use crate::load::run::{Bound, Run, Used};
use crate::load::tally::{Errors, Tally};

const GOLDEN: &str = include_str!("golden.json");

/// A run of 10 s with 999 of 1,000 packets back, after 1 to 999 us.
fn run() -> Run {
    let tally = Tally {
        sent: 1000,
        received: 999,
        duplicated: 2,
        reordered: 3,
        bytes_sent: 64_000,
        bytes_received: 63_936,
        connected: 0,
        errors: Errors {
            payload: 1,
            ..Errors::default()
        },
    };
    let mut latency = Latency::new();
    (1..1000).for_each(|micros| latency.record(0, 500, micros * 1000));
    Run {
        started: SystemTime::UNIX_EPOCH,
        duration: Duration::from_secs(10),
        tally,
        intervals: vec![Interval {
            start: Duration::ZERO,
            end: Duration::from_secs(10),
            tally,
            latency: Percentiles::of(&latency.corrected),
        }],
        latency,
        busy_ratio: 0.71,
        overrun: 0,
        target_cpu: Some(Duration::from_millis(9200)),
        wanted_rate: Some(100.0),
        bound: None,
        interrupted: false,
        used: Used {
            engine: "socket",
            reason: "asked for".to_owned(),
            interface: None,
            mode: None,
        },
    }
}

fn report(runs: Vec<Run>) -> Report {
    Report {
        header: Header::new(Environment {
            engine: Some("socket".to_owned()),
            engine_reason: Some("asked for".to_owned()),
            ..Environment::example()
        }),
        parameters: json!({"target": "172.16.1.103:5000"}),
        title: "172.16.1.103:5000 udp 64B".to_owned(),
        runs,
        fail_if: Vec::new(),
        focus: Focus::Throughput,
    }
}

#[test]
fn json_is_as_documented() {
    let mut document: Value = serde_json::from_str(&report(vec![run()]).to_json()).unwrap();
    document["tool"]["version"] = "VERSION".into();
    document["tool"]["revision"] = "REVISION".into();
    document["command"] = json!(["vl3-perf", "load"]);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/report/golden.json");
        std::fs::write(path, format!("{document:#}\n")).unwrap();
        return;
    }
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    assert_eq!(
        format!("{document:#}"),
        format!("{golden:#}"),
        "UPDATE_GOLDEN=1 cargo test -p vl3lb-perf writes it anew"
    );
}

#[test]
fn text_has_the_figures_and_where_they_come_from() {
    let text = report(vec![run()]).to_text();
    for part in [
        "generator busy 71% (ok)    target 0.92 CPU",
        "sent 1.00k  received 999  lost 1 (0.10%)  duplicated 2  reordered 3  wrong payload 1",
        "99.9/s of 100/s",
        "p50 500us",
        "(from the intended send time)",
        "Example, 2 cores, Linux 6.18.0, socket",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
}

#[test]
fn latency_comes_first_where_it_is_the_question() {
    let report = Report {
        focus: Focus::Latency,
        ..report(vec![run()])
    };
    let text = report.to_text();
    assert!(
        text.find("latency").unwrap() < text.find("sent").unwrap(),
        "{text}"
    );
}

#[test]
fn the_median_of_the_runs_is_judged() {
    let with_loss = |received| {
        let mut run = run();
        run.tally.received = received;
        run
    };
    let mut report = report(vec![with_loss(1000), with_loss(900), with_loss(999)]);
    report.fail_if = vec!["lost>1".parse().unwrap(), "lost>0".parse().unwrap()];
    assert_eq!(report.failed(), ["lost 1 > 0"]);
    assert_eq!(report.verdict(), Verdict::Fail);
    assert!(report.to_text().contains("FAIL lost 1 > 0"));
}

#[test]
fn verdicts_have_their_exit_status() {
    let bound = Run {
        bound: Some(Bound::Busy),
        ..run()
    };
    let interrupted = Run {
        interrupted: true,
        ..run()
    };
    for (runs, verdict, code) in [
        (vec![run()], Verdict::Pass, 0),
        (vec![run(), bound], Verdict::GeneratorBound, 0),
        (vec![run(), interrupted], Verdict::Interrupted, 130),
    ] {
        let report = report(runs);
        assert_eq!((report.verdict(), report.verdict().code()), (verdict, code));
        let document: Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(document["verdict"], json!(verdict));
    }
}

#[test]
fn nothing_that_came_back_has_no_latency_and_is_still_a_report() {
    let silent = Run {
        tally: Tally {
            sent: 10,
            ..Tally::default()
        },
        latency: Latency::new(),
        intervals: Vec::new(),
        ..run()
    };
    let report = report(vec![silent]);
    assert!(
        report.to_text().contains("lost 10 (100%)"),
        "{}",
        report.to_text()
    );
    let document: Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(document["runs"][0]["latencySeconds"], Value::Null);
    assert!(super::plot::svg(&report).unwrap().contains("no reply"));
}

#[test]
fn the_plot_names_its_load_and_its_machine() {
    let svg = super::plot::svg(&report(vec![run(), run()])).unwrap();
    for part in ["<svg", "172.16.1.103:5000 udp 64B", "Linux 6.18.0", "99.9%"] {
        assert!(svg.contains(part), "{part}");
    }
}
