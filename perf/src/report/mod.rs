//! The result of several runs of one load: for people, as JSON, and as files that other tools read.

pub(crate) mod envelope;
pub(crate) mod environment;
pub(crate) mod goal;
mod histogram;
mod json;
pub(crate) mod metric;
pub(crate) mod number;
mod plot;
#[cfg(test)]
mod tests;
mod text;

use std::path::Path;

use serde_json::Value;

use crate::failure::Failure;
use crate::load::latency::Latency;
use crate::load::run::Run;
use crate::summary::Summary;
use environment::Environment;
use goal::FailIf;
use metric::Metric;

/// Runs of one load and what is to be thought of them.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// The command line.
    pub(crate) command: Vec<String>,
    pub(crate) environment: Environment,
    /// What the load was, in JSON and in words.
    pub(crate) parameters: Value,
    pub(crate) title: String,
    pub(crate) runs: Vec<Run>,
    pub(crate) fail_if: Vec<FailIf>,
    /// What to show first.
    pub(crate) focus: Focus,
}

/// What a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Focus {
    Throughput,
    Latency,
}

/// What is to be thought of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// A `--fail-if` holds.
    Fail,
    /// The generator may have been what limited it.
    GeneratorBound,
    /// Ended early by a signal.
    Interrupted,
}

impl Verdict {
    /// As in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::GeneratorBound => "generator-bound",
            Self::Interrupted => "interrupted",
        }
    }

    /// The exit status.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Pass | Self::GeneratorBound => 0,
            Self::Fail => 4,
            Self::Interrupted => 130,
        }
    }
}

impl Report {
    /// The most important thing to say.
    pub(crate) fn verdict(&self) -> Verdict {
        if self.runs.iter().any(|run| run.interrupted) {
            Verdict::Interrupted
        } else if !self.failed().is_empty() {
            Verdict::Fail
        } else if self.runs.iter().any(|run| run.bound.is_some()) {
            Verdict::GeneratorBound
        } else {
            Verdict::Pass
        }
    }

    /// A number over all runs; `None` if some run has none.
    pub(crate) fn summary(&self, metric: Metric) -> Option<Summary> {
        let values: Option<Vec<f64>> = self.runs.iter().map(|run| metric.of(run)).collect();
        Summary::of(values?)
    }

    /// The conditions of `--fail-if` that hold for the median of the runs, each explained.
    pub(crate) fn failed(&self) -> Vec<String> {
        self.fail_if
            .iter()
            .filter_map(|condition| {
                let median = self.summary(condition.metric).map(|summary| summary.median);
                condition.fails(median).then(|| condition.explain(median))
            })
            .collect()
    }

    /// The round trips of all runs together.
    pub(crate) fn latency(&self) -> Latency {
        let mut all = Latency::new();
        for run in &self.runs {
            all.add(&run.latency);
        }
        all
    }

    /// Several lines for people.
    pub(crate) fn to_text(&self) -> String {
        text::write(self)
    }

    /// One document; perf/README.md has its shape.
    pub(crate) fn to_json(&self) -> String {
        json::write(self)
    }

    /// Writes the corrected round trips of all runs as HdrHistogram's percentile text.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(crate) fn write_hgrm(&self, path: &Path) -> Result<(), Failure> {
        save(path, histogram::percentile_text(&self.latency().corrected))
    }

    /// Draws round trips and throughput as SVG.
    ///
    /// # Errors
    ///
    /// The picture cannot be drawn, or the file not be written.
    pub(crate) fn write_plot(&self, path: &Path) -> Result<(), Failure> {
        save(path, plot::svg(self)?)
    }
}

fn save(path: &Path, text: String) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::new(format!("write {}: {error}", path.display())))
}
