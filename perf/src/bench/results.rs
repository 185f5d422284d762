//! The documents that a report is made of.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::compare::metric::Metric;
use crate::failure::Failure;
use crate::summary::Summary;

/// Documents as they were written; `Null` for one that is missing.
#[derive(Debug, Clone, Default)]
pub(super) struct Results {
    /// `pipeline`, packets of any flow.
    pub(super) pipeline: Value,
    /// `pipeline`, one flow after the other, as VPP's figures were taken.
    pub(super) sequential: Value,
    pub(super) compare: Comparison,
    /// The same over TUN devices.
    pub(super) compare_tun: Comparison,
    pub(super) churn: Value,
}

/// A document of `compare`.
#[derive(Debug, Clone, Default)]
pub(super) struct Comparison(pub(super) Value);

impl Results {
    /// Reads what is there. Fails if a document is none, or none is there.
    pub(super) fn read(directory: &Path) -> Result<Self, Failure> {
        let read = |name: &str| {
            let path = directory.join(name);
            let Ok(text) = fs::read_to_string(&path) else {
                return Ok(Value::Null);
            };
            serde_json::from_str(&text)
                .map_err(|error| Failure::new(format!("read {}: {error}", path.display())))
        };
        let results = Self {
            pipeline: read("pipeline.json")?,
            sequential: read("sequential.json")?,
            compare: Comparison(read("compare.json")?),
            compare_tun: Comparison(read("compare-tun.json")?),
            churn: read("churn.json")?,
        };
        if results.documents().iter().all(|(_, document)| document.is_null()) {
            return Err(Failure::new(format!(
                "read results in {}: there are none",
                directory.display()
            )));
        }
        Ok(results)
    }

    /// All documents with what they are of.
    pub(super) fn documents(&self) -> [(&'static str, &Value); 5] {
        [
            ("pipeline", &self.pipeline),
            ("pipeline, sequential", &self.sequential),
            ("compare", &self.compare.0),
            ("compare, TUN link", &self.compare_tun.0),
            ("churn", &self.churn),
        ]
    }
}

impl Comparison {
    /// The peers, those that were not measured too.
    pub(super) fn peers(&self) -> &[Value] {
        self.0["peers"].as_array().map_or(&[], Vec::as_slice)
    }

    /// A number of a peer over all rounds.
    pub(super) fn summary(&self, peer: &str, metric: Metric) -> Option<Summary> {
        summary(&self.0["summary"][peer][metric.key()])
    }

    /// The median of a number of a peer.
    pub(super) fn median(&self, peer: &str, metric: Metric) -> Option<f64> {
        Some(self.summary(peer, metric)?.median)
    }
}

/// `{"median": .., "min": .., "max": ..}`
fn summary(value: &Value) -> Option<Summary> {
    Some(Summary {
        median: value["median"].as_f64()?,
        min: value["min"].as_f64()?,
        max: value["max"].as_f64()?,
    })
}

/// The result of `pipeline` for so many flows.
pub(super) fn flows(pipeline: &Value, flows: u64) -> Option<&Value> {
    let results = pipeline["results"].as_array()?;
    results.iter().find(|result| result["flows"] == flows)
}
