//! The report as text.

use std::fmt::Write;

use super::metric::{Metric, Quantile};
use super::{Focus, Report, Verdict, number};
use crate::load::run::Bound;
use crate::load::tally::Tally;
use crate::summary::Summary;

pub(super) fn write(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |words: String| writeln!(text, "{words}").expect("a String takes all text");
    line(heading(report));
    let (counts, rate) = (counts(report), rate(report));
    let latency = latency(report);
    match report.focus {
        Focus::Throughput => [counts, rate, latency].into_iter().flatten().for_each(&mut line),
        Focus::Latency => [latency, counts, rate].into_iter().flatten().for_each(&mut line),
    }
    line(format!("  on       {}", report.header.environment.line()));
    for advice in advice(report) {
        line(advice);
    }
    for failed in report.failed() {
        line(format!("FAIL {failed}"));
    }
    if report.verdict() == Verdict::Interrupted {
        line("INTERRUPTED: measured until the signal".to_owned());
    }
    text
}

fn heading(report: &Report) -> String {
    let runs = match report.runs.len() {
        1 => "RESULT".to_owned(),
        runs => format!("RESULT (median of {runs} runs, min..max)"),
    };
    let busy = report.summary(Metric::Busy).map_or(0.0, |summary| summary.max);
    let judgement = if report.runs.iter().any(|run| run.bound.is_some()) {
        "generator-bound"
    } else {
        "ok"
    };
    let target = report
        .summary(Metric::TargetCpu)
        .map_or_else(String::new, |summary| {
            format!("    target {}", spread(Metric::TargetCpu, summary))
        });
    format!(
        "{runs}    generator busy {} ({judgement}){target}",
        number::percent(busy)
    )
}

fn counts(report: &Report) -> Vec<String> {
    let mut all = Tally::default();
    report.runs.iter().for_each(|run| all += run.tally);
    let sum = if report.runs.len() > 1 { "  (all runs)" } else { "" };
    let mut lines = vec![format!(
        "  sent {}  received {}  lost {} ({})  duplicated {}  reordered {}  wrong payload {}{sum}",
        number::count(all.sent),
        number::count(all.received),
        number::count(all.lost()),
        number::percent(all.loss()),
        number::count(all.duplicated),
        number::count(all.reordered),
        number::count(all.errors.payload),
    )];
    let errors = all.errors;
    if errors.connect + errors.timeout + errors.reset > 0 {
        lines.push(format!(
            "  errors   refused {}  timed out {}  reset {}",
            number::count(errors.connect),
            number::count(errors.timeout),
            number::count(errors.reset),
        ));
    }
    lines
}

fn rate(report: &Report) -> Vec<String> {
    let show = |metric: Metric| report.summary(metric).map(|summary| spread(metric, summary));
    let mut lines = Vec::new();
    if let (Some(rate), Some(throughput)) = (show(Metric::Rate), show(Metric::Throughput)) {
        let wanted = report.runs.first().and_then(|run| run.wanted_rate);
        let wanted = wanted.map_or_else(
            || "flat out".to_owned(),
            |wanted| format!("of {}/s", number::short(wanted)),
        );
        lines.push(format!("  rate     {rate} {wanted}   {throughput}"));
    }
    let connected: u64 = report.runs.iter().map(|run| run.tally.connected).sum();
    if connected > 0
        && let Some(connections) = show(Metric::ConnectionRate)
    {
        lines.push(format!("  opened   {connections} connections"));
    }
    lines
}

fn latency(report: &Report) -> Vec<String> {
    const SHOWN: [Quantile; 6] = [
        Quantile::P50,
        Quantile::P90,
        Quantile::P99,
        Quantile::P999,
        Quantile::P9999,
        Quantile::Max,
    ];
    let figures = |metric: fn(Quantile) -> Metric| {
        let shown: Option<Vec<_>> = SHOWN
            .into_iter()
            .map(|quantile| {
                let metric = metric(quantile);
                let median = report.summary(metric)?.median;
                let name = Metric::Latency(quantile).to_string();
                Some(format!("{name} {}", metric.show(median)))
            })
            .collect();
        shown.map(|shown| shown.join("  "))
    };
    let mut lines = Vec::new();
    if let Some(corrected) = figures(Metric::Latency) {
        lines.push(format!("  latency  {corrected}    (from the intended send time)"));
    }
    if let Some(service) = figures(Metric::Service) {
        lines.push(format!("  service  {service}    (from the actual send time)"));
    }
    lines
}

fn advice(report: &Report) -> Vec<String> {
    let mut bounds: Vec<_> = report.runs.iter().filter_map(|run| run.bound).collect();
    bounds.dedup();
    bounds
        .into_iter()
        .map(|bound| {
            let why = match bound {
                Bound::Busy => {
                    "the generator was busy all the time, so the target may be capable of more: use more threads and \
                     cores, or AF_XDP instead of sockets"
                }
                Bound::Overrun => {
                    "the generator was too slow to take what came back, so that not all of what is lost was lost on \
                     the way: use a lower rate, or give it a core of its own"
                }
                Bound::MissedRate => {
                    "the generator did not send all that was due: use a lower rate, more threads or cores"
                }
                Bound::Connections => {
                    "all connections waited for answers while requests were due: the target is slower than the \
                     rate, or more connections (-c) are needed"
                }
            };
            format!("GENERATOR-BOUND {why}")
        })
        .collect()
}

/// `499k/s`, with several runs `499k/s (498k/s..500k/s)`.
fn spread(metric: Metric, summary: Summary) -> String {
    let median = metric.show(summary.median);
    if (summary.max - summary.min).abs() < f64::EPSILON {
        return median;
    }
    format!(
        "{median} ({}..{})",
        metric.show(summary.min),
        metric.show(summary.max)
    )
}
