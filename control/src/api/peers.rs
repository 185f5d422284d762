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

/// A failing use of the Kubernetes API. Balancing does not depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WriteTrouble {
    /// The action and its object.
    pub attempt: String,
    pub reason: String,
    pub since: Time,
}

/// The balancer's group, and its writes to Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerGroup {
    pub group: String,
    /// The name of this balancer's pod.
    pub name: String,
    /// The balancer that writes for the group; `None` while there is no leader.
    pub leader: Option<String>,
    /// Whether this balancer is the leader.
    pub leads: bool,
    /// By name.
    pub peers: Vec<Peer>,
    pub writes: Vec<WriteCount>,
    /// Sorted by action and object.
    pub troubles: Vec<WriteTrouble>,
}
