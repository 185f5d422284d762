//! A TCP connection that is opened and reset.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpSocket, TcpStream};

use super::Answer;

pub(super) async fn check(address: SocketAddr) -> Result<(), Answer> {
    connect(address).await?;
    Ok(())
}

/// Connects to `address`. The connection is closed by a reset (`SO_LINGER` 0): a FIN would leave a socket in TIME-WAIT for
/// each check of the last minute, tens of thousands with many backends.
pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_zero_linger()?;
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::net::TcpListener;
    use tokio::time::timeout;
    use vl3lb_common::Duration;

    use super::*;
    use crate::api::CheckResult;
    use crate::config::CheckKind;
    use crate::health::probe::{NetworkProbe, Probe};

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_listener_of_either_family_is_healthy() {
        for own in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            let address = SocketAddr::new(own, 0);
            let listener = TcpListener::bind(address).await.unwrap();
            let answer = NetworkProbe
                .ask(&CheckKind::TCP, listener.local_addr().unwrap(), LONG)
                .await;
            assert_eq!(answer, Answer::good());
        }
    }

    #[tokio::test]
    async fn a_check_leaves_no_connection_in_time_wait() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        check(listener.local_addr().unwrap()).await.unwrap();
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
        let answer = check(address).await.unwrap_err();
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
        let limit = Duration::from_millis(50);
        let answer = NetworkProbe.ask(&CheckKind::TCP, address, limit).await;
        assert_eq!(answer.result, CheckResult::Timeout);
        assert_eq!(answer.text, "timeout: no answer in 50ms");
    }
}
