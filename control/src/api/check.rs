//! Health checks, as shown.

use serde::{Deserialize, Serialize};

use super::Distribution;

/// How a health check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    /// The backend accepted.
    Ok,
    /// The backend's machine answered that nobody listens.
    Refused,
    /// No answer in time.
    Timeout,
    /// The network answered that there is no way to the backend.
    Unreachable,
    /// The balancer could not ask: says nothing about the backend.
    Error,
}

impl CheckResult {
    /// All results, in the order of their discriminants.
    pub const ALL: [Self; 5] = [
        Self::Ok,
        Self::Refused,
        Self::Timeout,
        Self::Unreachable,
        Self::Error,
    ];
    /// Number of results.
    pub const COUNT: usize = Self::ALL.len();

    /// The value in JSON and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Error => "error",
        }
    }
}

/// What the health checks of one backend say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendCheck {
    /// `tcp`.
    pub kind: String,
    /// `None` before the first check.
    pub last_result: Option<CheckResult>,
    /// What the last check ran into; `None` if it was good.
    pub last_error: Option<String>,
    /// Of the last check.
    pub duration_seconds: Option<f64>,
    /// Checks in a row that were alike, good or failed.
    pub consecutive: u32,
    /// As many of that kind in a row change the state, or have done so.
    pub needed: u32,
}

/// How the backends of a service are looked at, and what came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceCheck {
    /// `tcp`.
    pub kind: String,
    /// `None`: each backend's own.
    pub port: Option<u16>,
    pub interval_seconds: f64,
    pub timeout_seconds: f64,
    /// Good checks in a row that make a dead backend live.
    pub rise: u32,
    /// Failed checks in a row that make a live backend dead.
    pub fall: u32,
    /// Every result.
    pub results: Vec<CheckCount>,
}

/// Checks that ended alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckCount {
    pub result: CheckResult,
    pub checks_total: u64,
    /// Time that they took; `None` if there were none.
    pub duration_seconds: Option<Distribution>,
}
