//! One service.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{BackendState, CauseCount, Distribution, ReasonCount, ServiceCheck, Time, Traffic};
use crate::number::UNKNOWN;
use vl3lb_common::ClientAddress;
use vl3lb_common::addr::Protocol;
use vl3lb_common::schedule::Scheduler;

/// State of a service. Ordered from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// No backend takes new flows.
    Down,
    /// Some backends are down, or none is up yet. Draining backends do not count, nor unchecked ones
    /// beside others that are up.
    Degraded,
    Ok,
}

impl ServiceState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Down, Self::Degraded, Self::Ok];

    /// The value in tables, JSON and filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Degraded => "degraded",
            Self::Ok => "ok",
        }
    }
}

/// Backends by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendCounts {
    pub up: usize,
    pub draining: usize,
    pub down: usize,
    pub unknown: usize,
    pub total: usize,
}

impl BackendCounts {
    /// The state of a service with these backends.
    pub const fn state(self) -> ServiceState {
        match (self.up, self.down) {
            (0, _) if self.unknown == 0 => ServiceState::Down,
            // While none is up, unchecked backends get the new flows.
            (0, _) => ServiceState::Degraded,
            // Otherwise they do not count: each new backend begins unchecked.
            (_, 0) => ServiceState::Ok,
            _ => ServiceState::Degraded,
        }
    }
}

/// Number of times that backends of a service entered each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTransitions {
    pub up: u64,
    pub draining: u64,
    pub down: u64,
    pub unknown: u64,
}

impl BackendTransitions {
    /// With the label value of each.
    pub const fn by_state(self) -> [(&'static str, u64); 4] {
        [
            (BackendState::Up.name(), self.up),
            (BackendState::Draining.name(), self.draining),
            (BackendState::Down.name(), self.down),
            (BackendState::Unknown.name(), self.unknown),
        ]
    }
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    pub name: String,
    pub protocol: Protocol,
    /// The balancer's addresses, at each of which the service listens.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    pub target_port: u16,
    pub scheduler: Scheduler,
    /// Time after a flow for which a client keeps its backend; `None` without affinity.
    pub affinity_seconds: Option<f64>,
    /// The networks of clients that may open flows; empty: all.
    pub source_ranges: Vec<IpNet>,
    /// What new flows carry for the backends.
    pub client_address: ClientAddress,
    /// Time limit of the flows of a removed backend.
    pub drain_seconds: f64,
    pub selector: BTreeMap<String, String>,
    /// Time in which the share of a backend that comes up grows to its weight; `None` without a slow start.
    pub slow_start_seconds: Option<f64>,
    /// Flows of one backend at most; `None`: no limit.
    pub max_flows_per_backend: Option<u32>,
    /// Whether all backends are down and get new flows nevertheless (`whenAllDown: fail-open`).
    pub fails_open: bool,
    /// Flows of the fullest backend, for its weight, as a multiple of the mean; `None` without flows or with one backend.
    pub imbalance: Option<f64>,
    /// `None`: desired backends are always up.
    pub check: Option<ServiceCheck>,
    pub state: ServiceState,
    /// When it entered that state.
    pub since: Option<Time>,
    pub backends: BackendCounts,
    pub transitions: BackendTransitions,
    /// Open flows.
    pub flows: u64,
    pub flows_opened_total: u64,
    pub new_flows_per_second: Option<f64>,
    pub flows_closed: Vec<CauseCount>,
    /// Client to backend.
    #[serde(rename = "in")]
    pub inbound: Traffic,
    /// Backend to client.
    #[serde(rename = "out")]
    pub outbound: Traffic,
    /// By reason, all reasons.
    pub drops: Vec<ReasonCount>,
    /// Drops of all reasons.
    pub drops_per_second: Option<f64>,
    /// Time from SYN to the backend's SYN-ACK.
    pub connect_seconds: Distribution,
    /// Life of closed flows.
    pub flow_duration_seconds: Distribution,
}

impl Service {
    /// The addresses with the port that it listens on, `-` for an unknown address: `172.16.1.103:9000`.
    pub fn endpoints(&self) -> String {
        if self.addresses.is_empty() {
            return format!("{UNKNOWN}:{}", self.port);
        }
        let endpoints = self
            .addresses
            .iter()
            .map(|&address| SocketAddr::new(address, self.port).to_string());
        endpoints.collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_service_follows_its_backends() {
        let state = |up, draining, down, unknown| {
            BackendCounts {
                up,
                draining,
                down,
                unknown,
                total: up + draining + down + unknown,
            }
            .state()
        };
        assert_eq!(state(0, 0, 0, 0), ServiceState::Down);
        assert_eq!(state(0, 2, 0, 0), ServiceState::Down);
        assert_eq!(state(8, 1, 0, 0), ServiceState::Ok);
        assert_eq!(state(2, 0, 1, 0), ServiceState::Degraded);
        assert_eq!(
            state(2, 0, 0, 1),
            ServiceState::Ok,
            "a new backend does not count"
        );
        assert_eq!(state(0, 0, 0, 1), ServiceState::Degraded);
        assert_eq!(state(2, 0, 1, 1), ServiceState::Degraded);
        assert_eq!(state(0, 0, 1, 1), ServiceState::Degraded);
        assert_eq!(state(0, 1, 2, 0), ServiceState::Down);
    }
}
