//! Discovery of the clients of a network service, as shown. It holds no token.

use serde::{Deserialize, Serialize};

use super::Time;

/// The streams that report endpoints and their clients, and what is wrong with the clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NsmDiscovery {
    pub network_service: String,
    /// The list of endpoints.
    pub registry: NsmStream,
    pub endpoints: Vec<NsmEndpoint>,
    /// Claims of two clients to one address or name; the first hundred.
    pub conflicts: Vec<NsmConflict>,
    /// Conflicts that began, by kind: `address`, `name` or `connections`.
    pub conflicts_total: Vec<NsmReasonCount>,
    /// Connections of events that were left out, by reason.
    pub skipped_connections_total: Vec<NsmReasonCount>,
    /// Events of a type that this version does not know.
    pub unknown_events_total: u64,
    /// Streams of the registry that ended, and attempts to open one that failed.
    pub registry_losses_total: u64,
    /// Monitors that ended, and attempts to open one that failed.
    pub monitor_losses_total: u64,
}

/// A stream of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NsmStream {
    /// The URL of the manager.
    pub server: String,
    /// Whether it is open and has sent its list.
    pub live: bool,
    /// Since when it is live or not; `None` before the first attempt has ended.
    pub since: Option<Time>,
    /// Why it is not live.
    pub error: Option<String>,
}

/// An endpoint of the network service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NsmEndpoint {
    pub name: String,
    /// Whether the registry lists it.
    pub listed: bool,
    /// Connections that are known, also of the balancer and of endpoints.
    pub connections: u64,
    pub monitor: NsmStream,
}

/// Claims of two clients that exclude each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NsmConflict {
    /// `address`, `name` or `connections`.
    pub kind: String,
    pub text: String,
}

/// How often something happened for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NsmReasonCount {
    pub reason: String,
    pub total: u64,
}
