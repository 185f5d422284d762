//! Health checks.

use serde::{Deserialize, Serialize};

use super::Distribution;

/// Result of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    /// The backend accepted.
    Ok,
    /// The backend's machine refused the connection.
    Refused,
    /// No answer in time.
    Timeout,
    /// The network reported the backend as unreachable.
    Unreachable,
    /// The backend answered, but not as a healthy one does: another status, text or certificate.
    Unexpected,
    /// The balancer could not send the check: no statement about the backend.
    Error,
}

impl CheckResult {
    /// All results, in the order of their discriminants.
    pub const ALL: [Self; 6] = [
        Self::Ok,
        Self::Refused,
        Self::Timeout,
        Self::Unreachable,
        Self::Unexpected,
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
            Self::Unexpected => "unexpected",
            Self::Error => "error",
        }
    }
}

/// Health checks of one backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendCheck {
    /// `tcp`, `http`, `https`, `grpc`, `udp` or `ping`; `passive` if only the flows of clients count.
    pub kind: String,
    /// Why it gets no new flows for a while, whatever the checks say; `None` if it is not held off.
    pub on_hold: Option<String>,
    /// `None` before the first check.
    pub last_result: Option<CheckResult>,
    /// Error of the last check; `None` if it succeeded.
    pub last_error: Option<String>,
    /// Of the last check.
    pub duration_seconds: Option<f64>,
    /// Consecutive checks with the same outcome.
    pub consecutive: u32,
    /// Consecutive checks of that outcome that change the state.
    pub needed: u32,
}

impl BackendCheck {
    /// `(2 of 3)`: progress of the last checks towards a change of state.
    pub fn progress(&self) -> String {
        format!("({} of {})", self.consecutive.min(self.needed), self.needed)
    }
}

/// Health checks of the backends of a service: settings and results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceCheck {
    /// `tcp`, `http`, `https`, `grpc`, `udp` or `ping`.
    pub kind: String,
    /// The path or gRPC service that is asked for; `None` for other kinds, and for a gRPC server as a whole.
    pub object: Option<String>,
    /// `None`: each backend's own.
    pub port: Option<u16>,
    pub interval_seconds: f64,
    pub timeout_seconds: f64,
    /// Consecutive successes that bring a backend up.
    pub rise: u32,
    /// Consecutive failures that take a backend down.
    pub fall: u32,
    /// Every result.
    pub results: Vec<CheckCount>,
}

/// Checks with one result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckCount {
    pub result: CheckResult,
    pub checks_total: u64,
    /// Duration of the checks; `None` if there were none.
    pub duration_seconds: Option<Distribution>,
}
