//! The report's text.

use std::fmt::Write as _;

use serde_json::Value;

use crate::compare::metric::Metric;
use crate::report::number;

use super::results::{Comparison, Results};
use super::targets::Target;

/// How the cores were shared; it decides what the figures of `compare` mean.
const SHARING: &str = "The peer has one core to itself: its threads are pinned there, and what the kernel does for it is \
                       steered there (RPS) if it is a kernel's or a proxy's. The packet tester has the other core. \
                       wrk, iperf3, nginx as the web server and the clients may run on both cores, the peer's included. \
                       CPU time per packet is all time of the peer's core and the interrupt time of the others; the \
                       tester's receiving end is in it, alike for all.";
/// Whose latency it is.
const WAITING: &str = "Typical p99 is the median of the p99 of windows of 100 ms: it leaves out what happens now and then. \
                       Waiting is the time in which a thread was ready to run and another one had the core, as a share of \
                       the measurement, all threads of a peer together. From about 1% on it is in the p99, whatever the peer \
                       does. Peers in the kernel work in interrupts, which outrank threads.";
/// Headings of [`Metric::tables`], and what to know about each.
const TABLES: [(&str, &str); 3] = [
    ("Packets", ""),
    (
        "Latency of a request and its reply at half of the loss-free rate",
        WAITING,
    ),
    ("Connections, idle CPU, memory", ""),
];

/// The report. `pictures` are file names and titles.
pub(super) fn write(
    title: &str,
    results: &Results,
    targets: &[Target],
    pictures: &[(String, String)],
) -> String {
    let mut text = format!("# {title}\n\n");
    machine(&mut text, results);
    text.push_str("\n## Targets\n\n| measure | target | measured | |\n|---|---|---|---|\n");
    for target in targets {
        let verdict = match target.met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        line(
            &mut text,
            &format!(
                "| {} | {} | {} | {verdict} |",
                target.measure, target.wanted, target.measured
            ),
        );
    }
    for (heading, comparison) in [
        ("Compare", &results.compare),
        ("Compare, TUN link", &results.compare_tun),
    ] {
        if !comparison.0.is_null() {
            compare(&mut text, heading, comparison);
        }
    }
    for (heading, document) in [
        ("Pipeline, packets of any flow", &results.pipeline),
        ("Pipeline, one flow after the other", &results.sequential),
    ] {
        if !document.is_null() {
            pipeline(&mut text, heading, document);
        }
    }
    if !results.churn.is_null() {
        churn(&mut text, &results.churn);
    }
    if !pictures.is_empty() {
        text.push_str("\n## Pictures\n\n");
        for (name, title) in pictures {
            line(&mut text, &format!("![{title}]({name})"));
        }
    }
    text.push_str(
        "\nEvery number is explained in perf/README.md; the JSON documents beside this file hold all runs.\n",
    );
    text
}

fn machine(text: &mut String, results: &Results) {
    let documents = results.documents();
    let environment = |key: &str| {
        let of = documents
            .iter()
            .map(|(_, document)| &document["environment"][key]);
        of.filter_map(plain)
            .next()
            .unwrap_or_else(|| "unknown".to_owned())
    };
    line(
        text,
        &format!(
            "- Processor: {}, {} cores",
            environment("cpu"),
            environment("cores")
        ),
    );
    line(text, &format!("- Kernel: Linux {}", environment("kernel")));
    for (name, document) in documents {
        if let Some(command) = words(&document["command"]) {
            line(text, &format!("- {name}: `{command}`"));
        } else if let Some(parameters) = document.get("parameters") {
            line(text, &format!("- {name}: `{parameters}`"));
        } else if document.is_null() {
            line(text, &format!("- {name}: not measured"));
        }
    }
}

fn compare(text: &mut String, heading: &str, comparison: &Comparison) {
    let parameters = &comparison.0["parameters"];
    line(text, &format!("\n## {heading}"));
    line(
        text,
        &format!(
            "\nOne-armed, the link is {}, {} flows of {} B, medians of {} rounds (smallest..largest), each measurement {} s; \
             tester on core {}, peer on core {}.\n\n{SHARING}",
            plain(&parameters["link"]).unwrap_or_else(|| "veth".to_owned()),
            parameters["flows"],
            parameters["frameBytes"],
            parameters["rounds"],
            parameters["durationSeconds"],
            parameters["testerCore"],
            parameters["peerCore"],
        ),
    );
    for ((heading, note), metrics) in TABLES.into_iter().zip(Metric::tables()) {
        line(text, &format!("\n### {heading}\n"));
        if !note.is_empty() {
            line(text, &format!("{note}\n"));
        }
        let titles: Vec<&str> = metrics.iter().map(|metric| metric.title()).collect();
        line(text, &format!("| peer | {} |", titles.join(" | ")));
        line(text, &format!("|---|{}", "---|".repeat(metrics.len())));
        for peer in comparison.peers() {
            let cells: Vec<Option<String>> = metrics
                .iter()
                .map(|&metric| cell(comparison, metric, peer))
                .collect();
            if cells.iter().any(Option::is_some) {
                let cells: Vec<String> = cells.into_iter().map(Option::unwrap_or_default).collect();
                let name = peer["name"].as_str().unwrap_or_default();
                line(text, &format!("| {name} | {} |", cells.join(" | ")));
            }
        }
    }
    line(text, "\n### Peers\n");
    for peer in comparison.peers() {
        let of = |key: &str| peer[key].as_str().unwrap_or_default();
        line(text, &format!("- **{}**: {}", of("name"), of("about")));
        if let Some(reason) = peer["absent"].as_str() {
            line(text, &format!("  - not measured: {reason}"));
        }
        for failure in peer["failures"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            line(
                text,
                &format!(
                    "  - failed in one round: {}",
                    failure.lines().next().unwrap_or_default()
                ),
            );
        }
        for command in peer["commands"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            line(
                text,
                &format!("\n  ```\n  {}\n  ```", command.replace('\n', "\n  ")),
            );
        }
    }
}

fn cell(comparison: &Comparison, metric: Metric, peer: &Value) -> Option<String> {
    let summary = comparison.summary(peer["name"].as_str()?, metric)?;
    let [median, min, max] = [summary.median, summary.min, summary.max].map(|value| metric.show(value));
    Some(format!("{median} ({min}..{max})"))
}

fn pipeline(text: &mut String, heading: &str, document: &Value) {
    line(
        text,
        &format!("\n## {heading}\n\nCycles of the time stamp counter per packet.\n"),
    );
    line(
        text,
        "| flows | request | reply | new UDP flow | new TCP flow | new UDP flows/s | B/flow |\n|---|---|---|---|---|---|---|",
    );
    for result in document["results"].as_array().into_iter().flatten() {
        let cycles = |key: &str| {
            result[key]["cycles"]
                .as_f64()
                .map_or_else(String::new, |cycles| format!("{cycles:.0}"))
        };
        let rate = result["newFlow"]["ns"]
            .as_f64()
            .map_or_else(String::new, |nanos| number::short(1e9 / nanos));
        line(
            text,
            &format!(
                "| {} | {} | {} | {} | {} | {rate} | {} |",
                result["flows"],
                cycles("request"),
                cycles("reply"),
                cycles("newFlow"),
                cycles("newFlowTcp"),
                result["bytesPerFlow"],
            ),
        );
    }
}

fn churn(text: &mut String, document: &Value) {
    let parameters = &document["parameters"];
    let time = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), number::time);
    let run = &document["runs"][0];
    let times = &run["changeSeconds"];
    line(
        text,
        &format!(
            "\n## Churn\n\n{} changes that replace {} of {} backends each, {} requests/s in {} flows meanwhile, {} mode.\n\n\
             | from the file's rename to every worker | p50 | p90 | p99 | max |\n|---|---|---|---|---|\n\
             | | {} | {} | {} | {} |\n\nOf that vl3-lb itself, from the file being read on: {} on average.\n\
             Packets sent {}, lost {}. Flows before {}, after {}, moved to another backend {}.",
            parameters["changes"],
            parameters["replaced"],
            parameters["backends"],
            parameters["requestsPerSecond"],
            parameters["flows"],
            plain(&parameters["mode"]).unwrap_or_default(),
            time(&times["p50"]),
            time(&times["p90"]),
            time(&times["p99"]),
            time(&times["max"]),
            time(&run["appliedSecondsMean"]),
            run["sent"],
            run["lost"],
            run["flowsBefore"],
            run["flowsAfter"],
            run["flowsMoved"],
        ),
    );
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes all text");
}

/// A text or number without quotes.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A command line, the program without its directory.
fn words(command: &Value) -> Option<String> {
    let words = command.as_array()?.iter().filter_map(Value::as_str);
    let words: Vec<&str> = words
        .enumerate()
        .map(|(index, word)| {
            if index == 0 {
                word.rsplit('/').next().unwrap_or(word)
            } else {
                word
            }
        })
        .collect();
    Some(words.join(" "))
}
