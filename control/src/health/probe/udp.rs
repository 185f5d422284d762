//! A datagram and its answer.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::Answer;
use crate::config::UdpCheck;

/// More of an answer is not compared.
const LONGEST_ANSWER: usize = 2048;

pub(super) async fn check(check: &UdpCheck, address: SocketAddr) -> Result<(), Answer> {
    let own: SocketAddr = if address.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(own).await?;
    // From then on only the backend's datagrams arrive, and its ICMP errors: a closed port is `refused`.
    socket.connect(address).await?;
    socket.send(check.payload.bytes()).await?;
    let mut answer = [0; LONGEST_ANSWER];
    let length = socket.recv(&mut answer).await?;
    let answer = &answer[..length];
    if answer.starts_with(check.expect.bytes()) {
        return Ok(());
    }
    let begin = String::from_utf8_lossy(&answer[..length.min(16)]).into_owned();
    Err(Answer::unexpected(format_args!(
        "an answer of {length} bytes that begins with {begin:?}"
    )))
}
