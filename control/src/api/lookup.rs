//! Which backend a new flow of a client would get, and why.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use vl3lb_common::addr::Protocol;

use super::BackendState;

/// A client, with or without its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookupClient {
    pub address: IpAddr,
    pub port: Option<u16>,
}

impl LookupClient {
    /// The forms that are accepted.
    pub const ALLOWED: &'static str = "ADDRESS, IPV4:PORT or [IPV6]:PORT";
}

impl FromStr for LookupClient {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            let port = Some(socket.port());
            return Ok(Self {
                address: socket.ip().to_canonical(),
                port,
            });
        }
        let address: IpAddr = text.parse().map_err(drop)?;
        Ok(Self {
            address: address.to_canonical(),
            port: None,
        })
    }
}

impl fmt::Display for LookupClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// What a check of a [`Lookup`] leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LookupResult {
    /// The next check follows.
    Pass,
    /// It names the backend, which later checks may still refuse.
    Decides,
    /// The packet is dropped.
    Refuses,
}

impl LookupResult {
    /// The value in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Decides => "decides",
            Self::Refuses => "refuses",
        }
    }
}

/// One check, in the order of the data plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LookupStep {
    /// `source_ranges`, `backend_loop`, `affinity`, `scheduler`, `limit` or `next_hop`.
    pub check: String,
    pub result: LookupResult,
    pub text: String,
}

/// A backend of the service, and whether new flows of this client may go to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LookupCandidate {
    pub backend: SocketAddr,
    pub state: BackendState,
    pub weight: u16,
    /// The share of new flows that the scheduler gives it in the long run; `None` if it gets none.
    pub share_ratio: Option<f64>,
    /// Open flows.
    pub flows: u64,
    /// Why it gets none, or less; empty otherwise.
    pub note: String,
}

/// Which backend the next new flow of a client would get, by the code and the tables of the workers, at that moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lookup {
    pub service: String,
    pub protocol: Protocol,
    pub client: IpAddr,
    pub client_port: Option<u16>,
    /// `None` if the flow is refused, or if the backend depends on the client's port.
    pub backend: Option<SocketAddr>,
    /// Name of the drop reason; `None` if the flow is not refused.
    pub refused: Option<String>,
    /// The worker that would open the flow; `None` if that depends on the client's port.
    pub worker: Option<u16>,
    pub steps: Vec<LookupStep>,
    pub candidates: Vec<LookupCandidate>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_an_address_and_may_have_a_port() {
        for (text, shown) in [
            ("172.16.1.100", Some("172.16.1.100")),
            ("172.16.1.100:40000", Some("172.16.1.100:40000")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]:40000", Some("[2001:db8::1]:40000")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("172.16.1.100:70000", None),
            ("172.16.1.0/24", None),
            ("finance", None),
            ("", None),
        ] {
            let client: Option<LookupClient> = text.parse().ok();
            assert_eq!(
                client.map(|client| client.to_string()).as_deref(),
                shown,
                "{text}"
            );
        }
    }
}
