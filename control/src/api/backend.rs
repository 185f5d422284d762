//! One backend of one service.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{BackendCheck, Distribution, Time, Traffic};
use crate::number::{age, flows, percent};
use vl3lb_common::addr::Protocol;

/// State of a backend. Ordered from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    Down,
    /// Removed: keeps its flows, gets no new ones.
    Draining,
    /// No health check has answered yet.
    Unknown,
    Up,
}

impl BackendState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Down, Self::Draining, Self::Unknown, Self::Up];

    /// The value in tables, JSON, filters and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Unknown => "unknown",
            Self::Up => "up",
        }
    }
}

/// New flows that a backend failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failures {
    pub reset: u64,
    pub timeout: u64,
    pub unreachable: u64,
}

impl Failures {
    /// With the label value of each.
    pub const fn by_reason(self) -> [(&'static str, u64); 3] {
        [
            ("reset", self.reset),
            ("timeout", self.timeout),
            ("unreachable", self.unreachable),
        ]
    }

    /// The sum.
    pub const fn total(self) -> u64 {
        self.reset + self.timeout + self.unreachable
    }
}

/// NAT ports towards one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NatPortUse {
    pub used: u64,
    pub capacity: u64,
}

impl NatPortUse {
    /// The used share of them; `None` without any.
    #[expect(clippy::cast_precision_loss, reason = "numbers of ports are far below 2^53")]
    pub fn ratio(self) -> Option<f64> {
        (self.capacity > 0).then(|| self.used as f64 / self.capacity as f64)
    }
}

/// Next hop of frames to the backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NextHop {
    /// The neighbour's MAC address.
    pub mac: Option<String>,
    /// `resolved` or `unresolved`; `no_route`, `unreachable`, `blackhole`, `prohibit` or `local` where the kernel does not
    /// send packets.
    pub state: String,
}

/// The end of a draining backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// When its remaining flows are ended.
    pub deadline: Time,
    pub flows_left: u64,
}

/// One backend of one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    pub service: String,
    pub protocol: Protocol,
    pub address: IpAddr,
    pub port: u16,
    pub state: BackendState,
    /// When it entered that state.
    pub since: Option<Time>,
    pub weight: u16,
    /// Whether it gets new flows only while no other backend does.
    pub backup: bool,
    /// The share of its weight that it gets, 0.1 to 0.9, while it starts slowly.
    pub slow_start_share: Option<f64>,
    /// Open flows.
    pub flows: u64,
    pub flows_opened_total: u64,
    pub new_flows_per_second: Option<f64>,
    pub failures: Failures,
    pub failures_per_second: Option<f64>,
    /// Client to backend.
    #[serde(rename = "in")]
    pub inbound: Traffic,
    /// Backend to client.
    #[serde(rename = "out")]
    pub outbound: Traffic,
    /// Time from SYN to SYN-ACK; `None` where it is kept per service only.
    pub connect_seconds: Option<Distribution>,
    pub nat_ports: NatPortUse,
    /// `None` on a raw-IP link.
    pub next_hop: Option<NextHop>,
    /// Health checks; `None` without any.
    pub check: Option<BackendCheck>,
    /// Number of changes of state.
    pub transitions: u64,
    /// Set while it drains.
    pub drain: Option<Drain>,
    /// Name of the discovery source.
    pub source: Option<String>,
    /// Kubernetes pod and node, where discovery knows them.
    pub pod: Option<String>,
    pub node: Option<String>,
}

impl Backend {
    /// Address and port, the label value of metrics.
    pub const fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// Details of the state at `now`: what is left of a drain, the error of the last check, a next hop that does not
    /// answer; empty if there are none.
    pub fn note(&self, now: Time) -> String {
        if let Some(drain) = self.drain {
            return format!(
                "{} left, {}",
                age(drain.deadline.since(now)),
                flows(drain.flows_left)
            );
        }
        if let Some(held) = self.check.as_ref().and_then(|check| check.on_hold.as_ref()) {
            return held.clone();
        }
        if let Some(check) = &self.check
            && let Some(error) = &check.last_error
        {
            return format!("{error} {}", check.progress());
        }
        match &self.next_hop {
            Some(hop) if hop.mac.is_none() => "next hop does not answer".to_owned(),
            _ => match (self.slow_start_share, self.backup) {
                (Some(share), false) => format!("slow start, {} of its weight", percent(Some(share))),
                (Some(share), true) => format!("backup, slow start, {} of its weight", percent(Some(share))),
                (None, true) => "backup".to_owned(),
                (None, false) => String::new(),
            },
        }
    }
}
