//! One flow, and a stream of all flows.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Consistency, Time, Warning};
use vl3lb_common::addr::Protocol;

/// Packets and bytes of a flow in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowTraffic {
    pub packets_total: u64,
    pub bytes_total: u64,
}

/// One flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    pub protocol: Protocol,
    pub client: IpAddr,
    pub client_port: u16,
    /// Name of the service; `None` if it is gone.
    pub service: Option<String>,
    pub service_address: IpAddr,
    pub service_port: u16,
    /// Source port towards the backend; the source address is `service_address`.
    pub nat_port: u16,
    pub backend: IpAddr,
    pub backend_port: u16,
    /// Name of a [`vl3lb_common::flow_query::FlowState`].
    pub state: String,
    pub age_seconds: f64,
    pub idle_seconds: f64,
    /// Time left if it stays idle.
    pub expires_seconds: f64,
    /// Client to backend.
    #[serde(rename = "in")]
    pub inbound: FlowTraffic,
    /// Backend to client.
    #[serde(rename = "out")]
    pub outbound: FlowTraffic,
    pub worker: u16,
    /// Whether its packets stay in the kernel.
    #[serde(default)]
    pub fast: bool,
}

/// A line of a stream of all flows. A stream without an end was cut short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FlowStreamLine {
    /// The last line.
    End {
        end: FlowStreamEnd,
    },
    Flow(Flow),
}

/// The trailer of a stream of all flows: the fields of a [`super::FlowList`] without its items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowStreamEnd {
    /// [`super::API_VERSION`].
    pub api_version: String,
    /// When the stream began.
    pub time: Time,
    pub generation: Option<u64>,
    pub window_seconds: Option<f64>,
    pub consistency: Consistency,
    /// Flows that matched, which all were lines.
    pub matched_total: u64,
    /// Whether flows are missing; `warnings` says which.
    pub truncated: bool,
    pub warnings: Vec<Warning>,
}
