//! The text of the report.

use std::path::Path;

use super::results::Results;
use super::targets::Target;
use crate::compare;

/// Notes on every comparison.
const NOTES: &str = "The peer has one core: its threads are pinned to it, and receive packet steering (RPS) moves the \
                     kernel's work for kernel peers and proxies there. The packet tester has the other core. wrk, iperf3, \
                     nginx and their kernel work run on both cores. CPU time per packet is all time of the peer's core \
                     and the interrupt time of the others, with the tester's reception, which is the same for all.\n\n\
                     The typical p99 is the median of the p99 of windows of 100 ms: rare disturbances are not in it. Wait \
                     is the time in which a thread was ready to run without a core, as a share of the measurement, all \
                     threads of a peer together. From about 1% on, P99 shows the wait and not the peer. Kernel peers work \
                     in interrupts, which no thread delays.\n";

/// The report. `plots` are file names and titles.
pub(super) fn write(
    title: &str,
    results: &Results,
    targets: &[Target],
    plots: &[(String, String)],
) -> String {
    let mut text = format!("# {title}\n\n{}", machine(results));
    text.push_str("\n## Targets\n\n| measure | target | measured | |\n|---|---|---|---|\n");
    for target in targets {
        let verdict = match target.met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        let Target {
            measure,
            wanted,
            measured,
            ..
        } = target;
        text.push_str(&format!("| {measure} | {wanted} | {measured} | {verdict} |\n"));
    }
    for (heading, report) in [
        ("Compare", &results.compare),
        ("Compare, TUN link", &results.compare_tun),
    ] {
        if let Some(report) = report {
            text.push_str(&section(heading, &report.to_text()));
            text.push_str(&peers(report));
        }
    }
    for (heading, report) in [
        ("Pipeline, random flows", &results.pipeline),
        ("Pipeline, one flow after the other", &results.sequential),
    ] {
        if let Some(report) = report {
            text.push_str(&section(heading, &report.to_text()));
        }
    }
    if let Some(report) = &results.churn {
        text.push_str(&section("Churn", &report.to_text()));
    }
    if let Some(report) = &results.flood {
        text.push_str(&section("Flood", &report.to_text()));
    }
    if !plots.is_empty() {
        text.push_str("\n## Plots\n\n");
    }
    for (name, title) in plots {
        text.push_str(&format!("![{title}]({name})\n"));
    }
    text.push_str(
        "\nperf/README.md explains every number; the JSON documents beside this file have all runs.\n",
    );
    text
}

/// The machine, and the command of each document.
fn machine(results: &Results) -> String {
    let headers = results.headers();
    let machine = headers.iter().find_map(|(_, header)| *header);
    let machine = machine.map_or_else(String::new, |header| {
        let environment = &header.environment;
        format!(
            "- Processor: {}, {} cores\n- Kernel: Linux {}\n",
            environment.cpu, environment.cores, environment.kernel
        )
    });
    let commands = headers.iter().map(|(name, header)| match header {
        Some(header) => format!("- {name}: `{}`\n", command(&header.command)),
        None => format!("- {name}: not measured\n"),
    });
    machine + &commands.collect::<String>()
}

/// A command line, the program without its directory.
fn command(words: &[String]) -> String {
    let program = words.first().map_or("", String::as_str);
    let program = Path::new(program).file_name().unwrap_or_default();
    let arguments = words.iter().skip(1).map(String::as_str);
    let words: Vec<_> = [program.to_str().unwrap_or_default()]
        .into_iter()
        .chain(arguments)
        .collect();
    words.join(" ")
}

fn section(heading: &str, text: &str) -> String {
    format!("\n## {heading}\n\n```\n{text}```\n")
}

/// Descriptions, failures, commands and configurations of all peers.
fn peers(report: &compare::Report) -> String {
    let mut text = format!("\n{NOTES}\n### Peers\n\n");
    for peer in &report.peers {
        text.push_str(&format!("- **{}**: {}\n", peer.name, peer.about));
        for failure in &peer.failures {
            let line = failure.lines().next().unwrap_or_default();
            text.push_str(&format!("  - failed in one round: {line}\n"));
        }
        for command in &peer.commands {
            let command = command.trim_end().replace('\n', "\n  ");
            text.push_str(&format!("\n  ```\n  {command}\n  ```\n"));
        }
    }
    text
}
