//! The report of backend changes: JSON and text.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::report::header::Header;
use crate::report::{Verdict, number};
use crate::summary::Summary;

/// All measurements.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) header: Header,
    pub(crate) parameters: Parameters,
    /// One run: its changes are summarized.
    pub(crate) runs: [Run; 1],
    summary: BTreeMap<String, Summary>,
    verdict: Verdict,
    failed: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Parameters {
    pub(crate) backends: u16,
    pub(crate) replaced: u16,
    pub(crate) changes: u16,
    pub(crate) flows: u16,
    pub(crate) requests_per_second: f64,
    pub(crate) mode: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Run {
    /// Of the first change.
    pub(crate) start_time: String,
    /// Of all changes.
    pub(crate) duration_seconds: f64,
    /// From the rename of the file until every worker uses it.
    pub(crate) change_seconds: Times,
    /// Mean of vl3-lb's own metric: from reading the file until every worker uses it.
    pub(crate) applied_seconds_mean: Option<f64>,
    /// Packets while backends changed.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// Flows with replies before and after all changes.
    pub(crate) flows_before: u32,
    pub(crate) flows_after: u32,
    /// Flows that went to another backend in between.
    pub(crate) flows_moved: u32,
    /// Flows without replies or with another backend than before.
    pub(crate) flows_lost: u32,
    pub(crate) generator_bound: bool,
}

/// The times of all changes, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Times {
    all: Vec<f64>,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Times {
    /// Of at least one change. A percentile is the time that so many of a hundred changes did not exceed.
    pub(super) fn new(times: &[Duration]) -> Self {
        let all: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
        let mut sorted = all.clone();
        sorted.sort_by(f64::total_cmp);
        let percentile = |percent: usize| {
            let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(index).copied().unwrap_or_default()
        };
        Self {
            min: percentile(0),
            p50: percentile(50),
            p90: percentile(90),
            p99: percentile(99),
            max: percentile(100),
            all,
        }
    }
}

impl Report {
    pub(super) fn new(header: Header, parameters: Parameters, run: Run) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "packets, far below 2^53")]
        let lost = run.lost as f64;
        let times = &run.change_seconds;
        let summary = [
            ("lost", lost),
            ("flowsLost", run.flows_lost.into()),
            ("changeSeconds.min", times.min),
            ("changeSeconds.p50", times.p50),
            ("changeSeconds.p90", times.p90),
            ("changeSeconds.p99", times.p99),
            ("changeSeconds.max", times.max),
        ];
        let summary = summary.map(|(key, value)| (key.to_owned(), Summary::single(value)));
        Self {
            verdict: if run.generator_bound {
                Verdict::GeneratorBound
            } else {
                Verdict::Pass
            },
            header,
            parameters,
            runs: [run],
            summary: summary.into(),
            failed: Vec::new(),
        }
    }

    /// A few lines.
    pub(crate) fn to_text(&self) -> String {
        let [run] = &self.runs;
        let Parameters {
            backends,
            replaced,
            changes,
            flows,
            requests_per_second,
            mode,
        } = &self.parameters;
        let own = run.applied_seconds_mean.map_or_else(String::new, |seconds| {
            format!(
                "; of that vl3-lb, from reading the file: mean {}",
                number::time(seconds)
            )
        });
        let bound = if run.generator_bound {
            "  generator-bound"
        } else {
            ""
        };
        let times = &run.change_seconds;
        format!(
            "churn  {mode} mode, {backends} backends, {changes} changes of {replaced} each, {flows} flows, {} requests/s\n{}\n\
             from rename to every worker  p50 {}  p90 {}  p99 {}  max {}{own}\n\
             packets sent {}  lost {}{bound}\n\
             flows before {}  after {}  moved {}  lost {}\n",
            number::short(*requests_per_second),
            self.header.environment.line(),
            number::time(times.p50),
            number::time(times.p90),
            number::time(times.p99),
            number::time(times.max),
            number::count(run.sent),
            run.lost,
            run.flows_before,
            run.flows_after,
            run.flows_moved,
            run.flows_lost,
        )
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::report::environment::Environment;
    use crate::report::header;

    /// A report of changes of these lengths.
    pub(crate) fn report(millis: impl IntoIterator<Item = u64>) -> Report {
        let times: Vec<_> = millis.into_iter().map(Duration::from_millis).collect();
        let parameters = Parameters {
            backends: 1000,
            replaced: 10,
            changes: 100,
            flows: 1000,
            requests_per_second: 10e3,
            mode: "native".to_owned(),
        };
        let run = Run {
            start_time: "1970-01-01T00:00:00.000Z".to_owned(),
            duration_seconds: 3.0,
            change_seconds: Times::new(&times),
            applied_seconds_mean: Some(0.002),
            sent: 1_000_000,
            received: 999_997,
            lost: 3,
            flows_before: 1000,
            flows_after: 998,
            flows_moved: 1,
            flows_lost: 3,
            generator_bound: false,
        };
        Report::new(Header::new(Environment::example()), parameters, run)
    }

    #[test]
    fn percentiles_are_measured_times() {
        let times: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        let times = Times::new(&times);
        assert_eq!(
            (times.min, times.p50, times.p99, times.max),
            (0.001, 0.05, 0.099, 0.1)
        );
    }

    #[test]
    fn the_json_is_read_back_and_the_text_has_the_same_figures() {
        let report = report([2]);
        let text = header::document(&report);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["runs"][0]["changeSeconds"]["p99"], 0.002);
        assert_eq!(json["summary"]["changeSeconds.p99"]["median"], 0.002);
        assert_eq!(json["verdict"], "pass");
        let read: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(header::document(&read), text);
        let text = report.to_text();
        assert!(
            text.contains("p99 2.00ms") && text.contains("moved 1  lost 3"),
            "{text}"
        );
    }
}
