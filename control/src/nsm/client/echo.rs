//! One ICMP echo request through one interface, with a limit.

use std::io;
use std::net::IpAddr;

use tokio::time::timeout;
use vl3lb_common::Duration;

use crate::icmp_echo;

/// An answer that is later than this does not count.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// Why an echo request was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum EchoError {
    #[error(transparent)]
    Forbidden(icmp_echo::EchoError),
    #[error("send an ICMP echo request to {target} on {interface}: {source}")]
    Socket {
        target: IpAddr,
        interface: String,
        source: io::Error,
    },
    #[error("{target} does not answer ICMP echo requests on {interface}")]
    Timeout { target: IpAddr, interface: String },
}

/// Asks `target` through `interface` for an answer. Returns how long it took.
pub(super) async fn echo(interface: &str, target: IpAddr) -> Result<Duration, EchoError> {
    match timeout(REPLY_TIMEOUT, icmp_echo::echo(Some(interface), target)).await {
        Ok(Ok(took)) => Ok(took),
        Ok(Err(icmp_echo::EchoError::Socket(source))) => Err(EchoError::Socket {
            target,
            interface: interface.to_owned(),
            source,
        }),
        Ok(Err(error @ icmp_echo::EchoError::Forbidden(_))) => Err(EchoError::Forbidden(error)),
        Err(_) => Err(EchoError::Timeout {
            target,
            interface: interface.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    #[tokio::test]
    async fn the_host_answers_itself() {
        for target in [V4, V6] {
            match echo("lo", target).await {
                // Of an unprivileged user.
                Ok(_) | Err(EchoError::Forbidden(_)) => {}
                Err(error) => panic!("{error}"),
            }
            match echo("no-such-link", target).await {
                Err(EchoError::Socket { .. } | EchoError::Forbidden(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
