//! The envelope of every list of the API.

use serde::{Deserialize, Serialize};

use super::{Flow, Time, Warning};

/// Version of the JSON shape.
pub const API_VERSION: &str = "v1";

/// An answer of the API, the same for every command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope<T> {
    /// [`API_VERSION`].
    pub api_version: String,
    pub time: Time,
    /// Generation of the last published snapshot.
    pub generation: Option<u64>,
    /// The window of rates.
    pub window_seconds: Option<f64>,
    pub items: Vec<T>,
    /// Whether `items` omits some that matched.
    pub truncated: bool,
    /// Why this answer is incomplete.
    pub warnings: Vec<Warning>,
}

/// How the items of a list relate in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Each flow is exact, but they were read one after the other while traffic went on.
    PerFlow,
}

/// A list of flows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowList {
    #[serde(flatten)]
    pub envelope: Envelope<Flow>,
    pub consistency: Consistency,
    /// Flows that matched, shown or not.
    pub matched_total: u64,
}
