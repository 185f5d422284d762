//! The report as JSON. Base units: seconds, bytes, packets.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::Value;

use super::header::{self, Header};
use super::histogram::base64;
use super::metric::Metric;
use super::{Report, Verdict};
use crate::load::interval::Interval;
use crate::load::latency::Percentiles;
use crate::load::run::{Bound, Run};
use crate::load::tally::Tally;
use crate::summary::Summary;

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    header: &'a Header,
    parameters: &'a Value,
    runs: Vec<RunDocument<'a>>,
    /// Of each run.
    intervals: Vec<Vec<IntervalDocument<'a>>>,
    summary: BTreeMap<String, Summary>,
    verdict: Verdict,
    interrupted: bool,
    failed: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunDocument<'a> {
    start_time: String,
    duration_seconds: f64,
    packets_per_second: f64,
    sent_per_second: f64,
    wanted_per_second: Option<f64>,
    bytes_per_second: f64,
    latency_seconds: Option<Distribution>,
    service_time_seconds: Option<Distribution>,
    generator_busy_ratio: f64,
    generator_overrun: u64,
    target_cpu_seconds: Option<f64>,
    generator_bound: Option<Bound>,
    interrupted: bool,
    lost: u64,
    #[serde(flatten)]
    tally: &'a Tally,
}

/// Without lost packets: replies to an interval's packets may arrive in the next one.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IntervalDocument<'a> {
    start_seconds: f64,
    end_seconds: f64,
    packets_per_second: f64,
    bytes_per_second: f64,
    latency_seconds: Option<Percentiles>,
    #[serde(flatten)]
    tally: &'a Tally,
}

#[derive(Serialize)]
struct Distribution {
    #[serde(flatten)]
    percentiles: Percentiles,
    histogram: String,
}

pub(super) fn write(report: &Report) -> String {
    let summary = Metric::all().filter_map(|(key, metric)| Some((key, report.summary(metric)?)));
    header::document(&Document {
        header: &report.header,
        parameters: &report.parameters,
        runs: report.runs.iter().map(run).collect(),
        intervals: (report.runs.iter())
            .map(|run| run.intervals.iter().map(interval).collect())
            .collect(),
        summary: summary.collect(),
        verdict: report.verdict(),
        interrupted: report.verdict() == Verdict::Interrupted,
        failed: report.failed(),
    })
}

fn run(run: &Run) -> RunDocument<'_> {
    RunDocument {
        start_time: header::time(run.started),
        duration_seconds: run.duration.as_secs_f64(),
        packets_per_second: run.packets_per_second(),
        sent_per_second: run.sent_per_second(),
        wanted_per_second: run.wanted_rate,
        bytes_per_second: run.bytes_per_second(),
        latency_seconds: distribution(&run.latency.corrected),
        service_time_seconds: distribution(&run.latency.service),
        generator_busy_ratio: run.busy_ratio,
        generator_overrun: run.overrun,
        target_cpu_seconds: run.target_cpu.map(|time| time.as_secs_f64()),
        generator_bound: run.bound,
        interrupted: run.interrupted,
        lost: run.tally.lost(),
        tally: &run.tally,
    }
}

fn interval(interval: &Interval) -> IntervalDocument<'_> {
    IntervalDocument {
        start_seconds: interval.start.as_secs_f64(),
        end_seconds: interval.end.as_secs_f64(),
        packets_per_second: interval.per_second(interval.tally.received),
        bytes_per_second: interval.per_second(interval.tally.bytes_received),
        latency_seconds: interval.latency,
        tally: &interval.tally,
    }
}

fn distribution(histogram: &Histogram<u64>) -> Option<Distribution> {
    Some(Distribution {
        percentiles: Percentiles::of(histogram)?,
        histogram: base64(histogram),
    })
}
