//! One check of one backend over the network.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use crate::api::CheckResult;
use tokio::net::TcpSocket;
use tokio::time::timeout;
use vl3lb_common::Duration;

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
}

/// Probes a backend.
pub trait Probe: Clone + Send + Sync + 'static {
    /// Probes `address`. Returns within `limit`, or soon after.
    fn ask(&self, address: SocketAddr, limit: Duration) -> impl Future<Output = Answer> + Send;
}

/// Opens a TCP connection through the kernel, from the balancer's own address, and resets it.
///
/// The connection's port is one of the kernel's ephemeral ports, which are never NAT ports: the steer
/// program passes the replies to the kernel, and no check uses the packet path. The connection is closed by
/// a reset (`SO_LINGER` 0): a FIN would leave a socket in TIME-WAIT for each check of the last minute, tens of
/// thousands with many backends.
#[derive(Debug, Clone, Copy)]
pub struct TcpConnect;

impl Probe for TcpConnect {
    async fn ask(&self, address: SocketAddr, limit: Duration) -> Answer {
        match timeout(limit, connect(address)).await {
            Ok(Ok(())) => Answer::good(),
            Ok(Err(error)) => failed(&error),
            Err(_) => Answer {
                result: CheckResult::Timeout,
                text: format!("timeout: no answer in {limit:?}"),
            },
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<()> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_zero_linger()?;
    socket.connect(address).await.map(drop)
}

fn failed(error: &io::Error) -> Answer {
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
    Answer { result, text }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_listener_of_either_family_is_healthy() {
        for own in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            let address = SocketAddr::new(own, 0);
            let listener = TcpListener::bind(address).await.unwrap();
            let answer = TcpConnect.ask(listener.local_addr().unwrap(), LONG).await;
            assert_eq!(answer, Answer::good());
        }
    }

    #[tokio::test]
    async fn a_check_leaves_no_connection_in_time_wait() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        TcpConnect.ask(listener.local_addr().unwrap(), LONG).await;
        let (accepted, _) = listener.accept().await.unwrap();
        accepted.readable().await.unwrap();
        let error = accepted.try_read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "a reset, no FIN");
    }

    #[tokio::test]
    async fn a_port_without_a_listener_refuses() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let answer = TcpConnect.ask(address, LONG).await;
        assert_eq!(
            (answer.result, answer.text.as_str()),
            (CheckResult::Refused, "refused")
        );
    }

    /// A listener whose queue is full drops every SYN.
    #[tokio::test]
    async fn a_listener_that_does_not_answer_times_out() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
            waiting.push(stream.unwrap());
            assert!(waiting.len() < 10, "the queue never fills");
        }
        let answer = TcpConnect.ask(address, Duration::from_millis(50)).await;
        assert_eq!(answer.result, CheckResult::Timeout);
        assert_eq!(answer.text, "timeout: no answer in 50ms");
    }

    #[test]
    fn errors_of_the_balancer_itself_are_no_verdict() {
        for (raw, want) in [
            (rustix::io::Errno::HOSTUNREACH, CheckResult::Unreachable),
            (rustix::io::Errno::NETUNREACH, CheckResult::Unreachable),
            (rustix::io::Errno::TIMEDOUT, CheckResult::Timeout),
            (rustix::io::Errno::MFILE, CheckResult::Error),
            (rustix::io::Errno::ADDRNOTAVAIL, CheckResult::Error),
            (rustix::io::Errno::PERM, CheckResult::Error),
        ] {
            assert_eq!(failed(&raw.into()).result, want, "{raw:?}");
        }
    }
}
