//! What changes of backends cost, for people and for programs.

use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::report::environment::Environment;
use crate::report::{Verdict, envelope, number};
use crate::summary::Summary;

use super::ChurnArgs;

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    pub(super) command: Vec<String>,
    pub(super) environment: Environment,
    pub(super) args: ChurnArgs,
    /// When the first change was made, and how long all of them took.
    pub(super) started: SystemTime,
    pub(super) duration: Duration,
    /// From the rename of the file until every worker uses it, for each change.
    pub(super) times: Vec<Duration>,
    /// Mean of what vl3-lb counts itself: from the file being read until every worker uses it. Seconds.
    pub(super) applied: Option<f64>,
    /// Packets while backends changed.
    pub(super) sent: u64,
    pub(super) lost: u64,
    pub(super) generator_bound: bool,
    /// Flows that were answered before, and after all changes.
    pub(super) flows_before: u32,
    pub(super) flows_after: u32,
    /// Flows that went to another backend in between.
    pub(super) flows_moved: u32,
}

impl Report {
    /// Flows that are not answered any more, or by another backend than before.
    fn flows_lost(&self) -> u32 {
        self.flows_before.saturating_sub(self.flows_after) + self.flows_moved
    }

    /// A percentile of the times in seconds: the time that so many changes of 100 did not exceed.
    fn percentile(&self, percent: usize) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(index).map_or(0.0, Duration::as_secs_f64)
    }

    /// One JSON document.
    pub(crate) fn to_json(&self) -> String {
        let parameters = json!({
            "backends": self.args.backends,
            "replaced": self.args.replace,
            "changes": self.args.changes,
            "flows": self.args.flows,
            "requestsPerSecond": self.args.rate,
            "mode": self.args.mode,
        });
        let percentiles = [("min", 0), ("p50", 50), ("p90", 90), ("p99", 99), ("max", 100)]
            .map(|(key, percent)| (key, self.percentile(percent)));
        let mut change = json!({"all": self.times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>()});
        for (key, seconds) in percentiles {
            change[key] = json!(seconds);
        }
        let run = json!({
            "startTime": envelope::time(self.started),
            "durationSeconds": self.duration.as_secs_f64(),
            "changeSeconds": change,
            "appliedSecondsMean": self.applied,
            "sent": self.sent,
            "received": self.sent - self.lost,
            "lost": self.lost,
            "flowsBefore": self.flows_before,
            "flowsAfter": self.flows_after,
            "flowsMoved": self.flows_moved,
            "flowsLost": self.flows_lost(),
            "generatorBound": self.generator_bound,
        });
        // One run: what is summarized are its changes.
        let once = |value: f64| json!(Summary::of(vec![value]));
        let mut summary = json!({
            "lost": once(as_f64(self.lost)),
            "flowsLost": once(self.flows_lost().into()),
        });
        for (key, seconds) in percentiles {
            summary[format!("changeSeconds.{key}")] = once(seconds);
        }
        let verdict = if self.generator_bound {
            Verdict::GeneratorBound
        } else {
            Verdict::Pass
        };
        let mut document = envelope::envelope(&self.command, &self.environment, &parameters);
        document.extend([
            ("runs".to_owned(), json!([run])),
            ("summary".to_owned(), summary),
            ("verdict".to_owned(), verdict.name().into()),
            ("failed".to_owned(), json!([])),
        ]);
        envelope::text(document)
    }

    /// Some lines for people.
    pub(crate) fn to_text(&self) -> String {
        let args = &self.args;
        let own = self.applied.map_or_else(String::new, |seconds| {
            format!(
                "; of this vl3-lb itself, from reading the file on: mean {}",
                number::time(seconds)
            )
        });
        let bound = if self.generator_bound {
            "  generator-bound"
        } else {
            ""
        };
        format!(
            "churn  {} mode, {} backends, {} changes of {} each, {} flows, {} requests/s\n{}\n\
             rename to every worker  p50 {}  p90 {}  p99 {}  max {}{own}\n\
             packets sent {}  lost {}{bound}\n\
             flows before {}  after {}  moved {}  lost {}\n",
            args.mode,
            args.backends,
            args.changes,
            args.replace,
            args.flows,
            number::short(args.rate),
            self.environment.line(),
            number::time(self.percentile(50)),
            number::time(self.percentile(90)),
            number::time(self.percentile(99)),
            number::time(self.percentile(100)),
            number::count(self.sent),
            self.lost,
            self.flows_before,
            self.flows_after,
            self.flows_moved,
            self.flows_lost(),
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "packets, far below 2^53")]
const fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(millis: impl IntoIterator<Item = u64>) -> Report {
        Report {
            command: vec!["vl3-perf".to_owned()],
            environment: Environment::of_namespaces(),
            args: ChurnArgs {
                backends: 1000,
                replace: 10,
                changes: 100,
                rate: 10e3,
                flows: 1000,
                mode: "native".to_owned(),
                balancer: None,
                json: true,
            },
            started: SystemTime::UNIX_EPOCH,
            duration: Duration::from_secs(3),
            times: millis.into_iter().map(Duration::from_millis).collect(),
            applied: Some(0.002),
            sent: 1_000_000,
            lost: 3,
            generator_bound: false,
            flows_before: 1000,
            flows_after: 998,
            flows_moved: 1,
        }
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let report = report((1..=100).rev());
        for (percent, millis) in [(50, 50), (99, 99), (100, 100)] {
            assert_eq!(
                report.percentile(percent),
                Duration::from_millis(millis).as_secs_f64()
            );
        }
    }

    #[test]
    fn flows_that_ended_or_moved_are_lost() {
        let report = report([2]);
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        let run = &json["runs"][0];
        assert_eq!(
            (&run["flowsLost"], &run["changeSeconds"]["p99"], &run["received"]),
            (&3.into(), &0.002.into(), &999_997.into())
        );
        assert_eq!(json["summary"]["changeSeconds.p99"]["median"], 0.002);
        assert_eq!(json["verdict"], "pass");
        let text = report.to_text();
        assert!(
            text.contains("p99 2.00ms") && text.contains("moved 1  lost 3"),
            "{text}"
        );
    }
}
