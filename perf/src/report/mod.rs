//! The report of several runs of one load: text, JSON, HdrHistogram's percentile text, SVG.

pub(crate) mod environment;
pub(crate) mod fail_if;
pub(crate) mod header;
mod histogram;
mod json;
pub(crate) mod metric;
pub(crate) mod number;
mod plot;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod text;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Failure;
use crate::load::latency::Latency;
use crate::load::run::Run;
use crate::summary::Summary;
use fail_if::FailIf;
use header::Header;
use metric::Metric;

/// Runs of one load, and the conditions on them.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) header: Header,
    /// The load, for JSON.
    pub(crate) parameters: Value,
    /// The load, for texts.
    pub(crate) title: String,
    pub(crate) runs: Vec<Run>,
    pub(crate) fail_if: Vec<FailIf>,
    pub(crate) focus: Focus,
}

/// The lines that a text begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Focus {
    Throughput,
    Latency,
}

/// The judgement of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Pass,
    /// A `--fail-if` holds, or a peer failed.
    Fail,
    /// The generator may have been the limit.
    GeneratorBound,
    /// Ended early by a signal.
    Interrupted,
}

impl Verdict {
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
    /// The judgement that matters most.
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

    /// A metric over all runs; `None` if a run does not have it.
    pub(crate) fn summary(&self, metric: Metric) -> Option<Summary> {
        let values: Option<Vec<f64>> = self.runs.iter().map(|run| metric.of(run)).collect();
        Summary::of(values?)
    }

    /// The conditions of `--fail-if` that hold for the median of the runs, each with the value.
    pub(crate) fn failed(&self) -> Vec<String> {
        let conditions = self.fail_if.iter();
        conditions
            .filter_map(|condition| {
                let median = self.summary(condition.metric).map(|summary| summary.median);
                condition.fails(median).then(|| condition.explain(median))
            })
            .collect()
    }

    /// The round trips of all runs.
    pub(crate) fn latency(&self) -> Latency {
        let mut all = Latency::new();
        for run in &self.runs {
            all.add(&run.latency);
        }
        all
    }

    /// Several lines.
    pub(crate) fn to_text(&self) -> String {
        text::write(self)
    }

    /// One document; perf/README.md has its keys.
    pub(crate) fn to_json(&self) -> String {
        json::write(self)
    }

    /// Writes round trips from the intended send time, of all runs, as HdrHistogram's percentile text.
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
    /// The plot cannot be drawn, or the file not be written.
    pub(crate) fn write_plot(&self, path: &Path) -> Result<(), Failure> {
        let svg = plot::svg(self).map_err(Failure::plot(&self.title))?;
        save(path, svg)
    }
}

/// Writes one of the files of a report.
pub(crate) fn save(path: &Path, text: String) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(Failure::system(format!("write {}", path.display())))
}
