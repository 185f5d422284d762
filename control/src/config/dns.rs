//! The balancer's own DNS server.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

/// The balancer's own DNS server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase")]
pub struct Dns {
    /// The parent domain of the services' names; in lower case, without a dot at the end.
    pub zone: String,
    pub listen: DnsListen,
    /// Servers for names outside the zone; empty: such queries are refused.
    pub upstream: Vec<SocketAddr>,
    /// Networks of the clients whose queries go to `upstream`; empty: the own networks.
    pub upstream_clients: Vec<IpNet>,
}

/// Listening address of the DNS server, UDP and TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsListen {
    /// This port of all present addresses of the balancer.
    OwnAddresses(u16),
    /// This address only.
    Address(SocketAddr),
}

impl DnsListen {
    /// The port.
    pub const fn port(self) -> u16 {
        match self {
            Self::OwnAddresses(port) => port,
            Self::Address(socket) => socket.port(),
        }
    }

    /// Whether only processes of this network namespace reach it.
    pub const fn is_loopback(self) -> bool {
        match self {
            Self::OwnAddresses(_) => false,
            Self::Address(socket) => socket.ip().is_loopback(),
        }
    }
}

impl Serialize for DnsListen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::OwnAddresses(port) => serializer.serialize_str(&port.to_string()),
            Self::Address(socket) => socket.serialize(serializer),
        }
    }
}
