//! One check of one backend over the network.
//!
//! Each kind of check is a file with one function, `check`, which has no limit of its own: the limit of the whole check is
//! here. All of them go through the kernel, from the balancer's own address. Their ports are the kernel's ephemeral ports,
//! which are never NAT ports: the steer program passes the replies to the kernel, and no check uses the packet path.

mod grpc;
mod http;
mod ping;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod udp;

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use tokio::time::timeout;
use vl3lb_common::Duration;

use crate::api::CheckResult;
use crate::config::CheckKind;

/// The result of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub result: CheckResult,
    /// The result in words, without the kind of probe: `refused`, `timeout: no answer in 1s`.
    pub text: String,
}

impl Answer {
    /// The backend is healthy.
    pub fn good() -> Self {
        Self {
            result: CheckResult::Ok,
            text: "ok".to_owned(),
        }
    }

    /// The backend answered, but not as a healthy one does.
    fn unexpected(text: impl std::fmt::Display) -> Self {
        Self {
            result: CheckResult::Unexpected,
            text: format!("unexpected: {text}"),
        }
    }
}

/// Probes a backend.
pub trait Probe: Clone + Send + Sync + 'static {
    /// Probes `address`. Returns within `limit`, or soon after.
    fn ask(
        &self,
        kind: &CheckKind,
        address: SocketAddr,
        limit: Duration,
    ) -> impl Future<Output = Answer> + Send;
}

/// Probes over the network, with one socket.
#[derive(Debug, Clone, Copy)]
pub struct NetworkProbe;

impl Probe for NetworkProbe {
    async fn ask(&self, kind: &CheckKind, address: SocketAddr, limit: Duration) -> Answer {
        let check = async {
            match kind {
                CheckKind::Tcp(_) => tcp::check(address).await,
                CheckKind::Http(check) => http::check(check, address).await,
                CheckKind::Grpc(check) => grpc::check(check, address).await,
                CheckKind::Udp(check) => udp::check(check, address).await,
                CheckKind::Ping(_) => ping::check(address.ip()).await,
            }
        };
        match timeout(limit, check).await {
            Ok(Ok(())) => Answer::good(),
            Ok(Err(answer)) => answer,
            Err(_) => Answer {
                result: CheckResult::Timeout,
                text: format!("timeout: no answer in {limit:?}"),
            },
        }
    }
}

impl From<io::Error> for Answer {
    fn from(error: io::Error) -> Self {
        let (result, text) = match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => {
                (CheckResult::Refused, "refused".to_owned())
            }
            ErrorKind::TimedOut => (CheckResult::Timeout, "timeout: no answer".to_owned()),
            ErrorKind::HostUnreachable => (
                CheckResult::Unreachable,
                "unreachable: no route to host".to_owned(),
            ),
            ErrorKind::NetworkUnreachable => (
                CheckResult::Unreachable,
                "unreachable: no route to its network".to_owned(),
            ),
            _ => (CheckResult::Error, format!("error: {error}")),
        };
        Self { result, text }
    }
}
