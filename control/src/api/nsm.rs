//! The connection to the vL3 network, as shown. It holds no token.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Time;

/// The state of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NsmState {
    /// Looking for the connection of an earlier process.
    Restoring,
    /// Waiting for a first reply.
    Requesting,
    Connected,
    /// Refreshing early, which does not affect packets.
    Healing,
    /// It was closed, or carries no packets: getting another connection.
    Replacing,
    Closing,
    Closed,
}

impl NsmState {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::Restoring,
        Self::Requesting,
        Self::Connected,
        Self::Healing,
        Self::Replacing,
        Self::Closing,
        Self::Closed,
    ];

    /// The value in tables, JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Restoring => "restoring",
            Self::Requesting => "requesting",
            Self::Connected => "connected",
            Self::Healing => "healing",
            Self::Replacing => "replacing",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }
}

/// The connection that this process has with a vL3 network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NsmConnection {
    pub network_service: String,
    /// The client's own identifier of the connection.
    pub id: String,
    pub state: NsmState,
    pub state_since: Time,
    /// Why it is healing or replacing.
    pub reason: Option<String>,
    /// The name of the endpoint.
    pub endpoint: Option<String>,
    /// The names of all hops, from this client to the endpoint.
    pub path: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub endpoint_addresses: Vec<IpAddr>,
    pub mtu: Option<u32>,
    /// The last reply to a Request.
    pub granted_time: Option<Time>,
    pub next_refresh_time: Option<Time>,
    /// When the first token of the path expires.
    pub token_expiry_time: Option<Time>,
    /// Whether the manager reports changes of the connection.
    pub monitored: bool,
    /// `alive`, `silent` (the endpoint does not answer ICMP echo requests), `absent` (there is no interface) or
    /// `unknown`.
    pub data_plane: String,
    /// Of the last ICMP echo request to the endpoint.
    pub round_trip_seconds: Option<f64>,
    /// This workload's identity.
    pub spiffe_id: Option<String>,
    pub svid_expiry_time: Option<Time>,
    /// Why the SPIFFE Workload API gives nothing newer.
    pub identity_error: Option<String>,
    pub last_error: Option<String>,
    pub last_error_time: Option<Time>,
    pub calls: Vec<NsmCallCount>,
    /// Early refreshes by reason.
    pub heals: Vec<NsmHealCount>,
    /// Connections that were replaced because they carried no packets, or were closed by others.
    pub replacements_total: u64,
    /// Replies with other addresses than before.
    pub address_changes_total: u64,
    /// Monitors that ended.
    pub monitor_losses_total: u64,
}

/// How many calls of one kind ended in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NsmCallCount {
    /// `restore`, `request`, `refresh`, `reselect` or `close`.
    pub call: String,
    /// `ok`, `error` or `timeout`.
    pub result: String,
    pub calls_total: u64,
}

/// How many early refreshes there were for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NsmHealCount {
    pub reason: String,
    pub heals_total: u64,
}
