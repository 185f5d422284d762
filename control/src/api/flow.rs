//! One flow, as shown.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

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
    /// Time left if no further packet comes.
    pub expires_seconds: f64,
    /// Client to backend.
    #[serde(rename = "in")]
    pub inbound: FlowTraffic,
    /// Backend to client.
    #[serde(rename = "out")]
    pub outbound: FlowTraffic,
    pub worker: u16,
}
