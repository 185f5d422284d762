//! What `/metrics` has.

use serde::Serialize;

use super::node::Section;

/// What `/metrics` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Metrics {
    /// Families with a series for each backend, whose number may be too high for the monitoring system. Those of
    /// services are always there.
    pub per_backend: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { per_backend: true }
    }
}

impl Metrics {
    /// Reads `metrics`.
    pub(super) fn read(&mut self, parent: &mut Section<'_>) {
        let path = parent.path("metrics");
        let value = parent.value("metrics");
        let mut section = Section::new(&*path, value, &["perBackend"], parent.errors());
        if let Some(per_backend) = section.optional("perBackend", "true, false", serde_json::Value::as_bool) {
            self.per_backend = per_backend;
        }
    }
}
