//! `/metrics`: the report as OpenMetrics text.
//!
//! Families are built from the report at scrape time, so the series of a removed service or backend end with
//! it, and metrics show the same counters as tables and JSON.

mod balancer;
mod family;
mod nsm;
mod nsm_discovery;
mod services;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::api::Report;
use crate::config::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;

pub use family::{Family, Kind, Labels, Value};

/// The content type of [`render`]. Sent as plain text 0.0.4, counters would have other names.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The families of `content`, in order.
pub fn families(report: &Report, content: Metrics) -> Vec<Family> {
    let mut families = balancer::families(report);
    families.extend(nsm::families(&report.status));
    families.extend(nsm_discovery::families(&report.status));
    families.extend(services::families(report, content));
    families
}

/// What `content` has of the report, as OpenMetrics text.
///
/// Cost: one allocation per sample, at scrape time only.
pub fn render(report: Arc<Report>, content: Metrics) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(ReportCollector { report, content }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Encodes the families of one report.
#[derive(Debug)]
struct ReportCollector {
    report: Arc<Report>,
    content: Metrics,
}

impl Collector for ReportCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        families(&self.report, self.content)
            .iter()
            .try_for_each(|family| family.encode(&mut encoder))
    }
}
