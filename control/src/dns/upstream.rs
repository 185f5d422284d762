//! The forwarder: queries for other zones go to the configured servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;
use vl3lb_common::Duration;

/// Limit of the wait for one server; then the next one is queried.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Queries at a time; each has a socket.
const CONCURRENT: usize = 256;

/// The servers, in the order in which they are queried.
#[derive(Debug)]
pub(super) struct Upstream {
    servers: Vec<SocketAddr>,
    slots: Semaphore,
}

impl Upstream {
    /// Forwards to `servers`; to none if it is empty.
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            slots: Semaphore::new(CONCURRENT),
        }
    }

    /// Whether there are servers.
    pub(super) fn is_configured(&self) -> bool {
        !self.servers.is_empty()
    }

    /// The response of the first server that gives one, over the transport of the client, so that a
    /// truncated response is truncated for the client, too. `None` if no server responds, or if too many
    /// queries wait.
    ///
    /// Waits two seconds for each silent server.
    pub(super) async fn ask(&self, question: &[u8], tcp: bool) -> Option<Message> {
        let _slot = self.slots.try_acquire().ok()?;
        for &server in &self.servers {
            match timeout(ATTEMPT, exchange(server, question, tcp)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => debug!("query DNS server {server}: {error}"),
                Err(_) => debug!("query DNS server {server}: no response within {ATTEMPT:?}"),
            }
        }
        None
    }
}

/// Sends one query to one server, with a random id (RFC 5452 section 9.2), on a socket that only receives
/// from that server.
async fn exchange(server: SocketAddr, question: &[u8], tcp: bool) -> io::Result<Message> {
    let mut message = question.to_vec();
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    let old_id = message.get_mut(..2).ok_or(io::ErrorKind::InvalidInput)?;
    old_id.copy_from_slice(&id);
    if tcp {
        by_tcp(server, &message, id).await
    } else {
        by_udp(server, &message, id).await
    }
}

async fn by_udp(server: SocketAddr, question: &[u8], id: [u8; 2]) -> io::Result<Message> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Other packets are late or forged; the response may still arrive.
        if let Ok(answer) = check(&buffer[..length], id) {
            return Ok(answer);
        }
    }
}

async fn by_tcp(server: SocketAddr, question: &[u8], id: [u8; 2]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(question);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    check(&answer, id)
}

fn check(answer: &[u8], id: [u8; 2]) -> io::Result<Message> {
    if answer.get(..2) != Some(&id) {
        return Err(io::Error::other("the response is to another query"));
    }
    Message::from_vec(answer).map_err(io::Error::other)
}
