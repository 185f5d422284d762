//! The documents that a report is made of.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::compare::metric::Metric;
use crate::failure::Failure;
use crate::report::header::Header;
use crate::summary::Summary;
use crate::{churn, compare, flood, pipeline};

/// The documents of a directory; `None` for one that does not exist.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// Packets of random flows.
    pub(super) pipeline: Option<pipeline::Report>,
    /// One flow after the other.
    pub(super) sequential: Option<pipeline::Report>,
    pub(super) compare: Option<compare::Report>,
    pub(super) compare_tun: Option<compare::Report>,
    pub(super) churn: Option<churn::Report>,
    pub(super) flood: Option<flood::Report>,
}

impl Results {
    /// Reads the documents.
    ///
    /// # Errors
    ///
    /// A document is not valid, or there is none.
    pub(super) fn read(directory: &Path) -> Result<Self, Failure> {
        let results = Self {
            pipeline: document(directory, "pipeline.json")?,
            sequential: document(directory, "sequential.json")?,
            compare: document(directory, "compare.json")?,
            compare_tun: document(directory, "compare-tun.json")?,
            churn: document(directory, "churn.json")?,
            flood: document(directory, "flood.json")?,
        };
        if results.headers().iter().all(|(_, header)| header.is_none()) {
            return Err(Failure::NoResults(directory.to_owned()));
        }
        Ok(results)
    }

    /// The names of all documents, with the headers of those that exist.
    pub(super) fn headers(&self) -> [(&'static str, Option<&Header>); 6] {
        [
            ("pipeline", self.pipeline.as_ref().map(|report| &report.header)),
            (
                "pipeline, sequential",
                self.sequential.as_ref().map(|report| &report.header),
            ),
            ("compare", self.compare.as_ref().map(|report| &report.header)),
            (
                "compare, TUN link",
                self.compare_tun.as_ref().map(|report| &report.header),
            ),
            ("churn", self.churn.as_ref().map(|report| &report.header)),
            ("flood", self.flood.as_ref().map(|report| &report.header)),
        ]
    }

    /// A metric of a peer over all rounds of `compare` over veth.
    pub(super) fn summary(&self, peer: &str, metric: Metric) -> Option<Summary> {
        self.compare.as_ref()?.summary(peer, metric)
    }

    /// The median of [`Self::summary`].
    pub(super) fn median(&self, peer: &str, metric: Metric) -> Option<f64> {
        Some(self.summary(peer, metric)?.median)
    }
}

fn document<T: DeserializeOwned>(directory: &Path, name: &str) -> Result<Option<T>, Failure> {
    let path = directory.join(name);
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(None);
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|cause| Failure::Document {
            path,
            cause,
            remedy: "; ./run bench writes it",
        })
}
