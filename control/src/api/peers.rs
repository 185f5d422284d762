//! The balancer among others with the same configuration, as shown.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Time;

/// Another balancer of the group that is alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// The name of its pod.
    pub name: String,
    /// Whether new clients are sent there.
    pub ready: bool,
    pub addresses: Vec<IpAddr>,
    /// Since when it is known to be alive.
    pub since: Time,
}

/// How many writes of one kind of object ended in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WriteCount {
    /// As in RBAC rules.
    pub resource: String,
    /// `ok`, `forbidden` or `error`.
    pub result: String,
    pub writes_total: u64,
}

/// Something about the Kubernetes API that does not work now. Balancing does not need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WriteTrouble {
    /// What is done on what.
    pub attempt: String,
    pub reason: String,
    pub since: Time,
}

/// The group that the balancer belongs to, and what it writes to Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerGroup {
    pub group: String,
    /// The name of this balancer's pod.
    pub name: String,
    /// Who writes for the whole group; `None` while nobody does.
    pub leader: Option<String>,
    /// Whether that is this balancer.
    pub leads: bool,
    /// By name.
    pub peers: Vec<Peer>,
    pub writes: Vec<WriteCount>,
    /// By what is attempted.
    pub troubles: Vec<WriteTrouble>,
}
