//! The flow log.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Where flows are logged, and how many were and were not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowLog {
    /// The path of the file with JSON lines, or `stdout`.
    pub file: Option<String>,
    /// The IPFIX collector.
    pub collector: Option<SocketAddr>,
    /// Flows written to the file.
    pub written_total: u64,
    /// Flows sent to the collector. UDP does not say whether they arrived; the collector counts gaps in their numbers.
    pub sent_total: u64,
    pub lost: Vec<FlowLogLoss>,
}

/// Flows that were not logged for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowLogLoss {
    /// `queue`: flows opened and closed faster than they could be logged. `file`: the file could not be written. `collector`:
    /// the kernel did not send them, or the collector's host refused an earlier message.
    pub reason: String,
    pub flows_total: u64,
}

impl FlowLog {
    /// Flows that were not logged.
    pub fn lost_total(&self) -> u64 {
        self.lost.iter().map(|loss| loss.flows_total).sum()
    }
}
