//! Questions about other zones, passed on to the configured servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;
use vl3lb_common::Duration;

/// A server that does not answer within this time is passed over.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Questions that wait for an answer at the same time, at most; each has a socket.
const CONCURRENT: usize = 256;

/// The servers to ask, in this order.
#[derive(Debug)]
pub(super) struct Upstream {
    servers: Vec<SocketAddr>,
    places: Semaphore,
}

impl Upstream {
    /// Asks `servers`; with none every question is for nobody.
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            places: Semaphore::new(CONCURRENT),
        }
    }

    /// Whether questions can be passed on at all.
    pub(super) fn is_configured(&self) -> bool {
        !self.servers.is_empty()
    }

    /// The answer of the first server that has one, asked by the transport that the client used,
    /// so that a cut answer is cut for the client too. `None` if none has, or too many wait.
    ///
    /// Takes two seconds for each server that is silent.
    pub(super) async fn ask(&self, question: &[u8], tcp: bool) -> Option<Message> {
        let _place = self.places.try_acquire().ok()?;
        for &server in &self.servers {
            match timeout(ATTEMPT, exchange(server, question, tcp)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => debug!("ask DNS server {server}: {error}"),
                Err(_) => debug!("ask DNS server {server}: no answer within {ATTEMPT:?}"),
            }
        }
        None
    }
}

/// One question to one server. The id is a new one (RFC 5452 section 9.2), and the socket only
/// hears that server.
async fn exchange(server: SocketAddr, question: &[u8], tcp: bool) -> io::Result<Message> {
    let mut message = question.to_vec();
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    let place = message.get_mut(..2).ok_or(io::ErrorKind::InvalidInput)?;
    place.copy_from_slice(&id);
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
        // Anything else is late or forged; the right one may still come.
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
        return Err(io::Error::other("the answer is to another question"));
    }
    Message::from_vec(answer).map_err(io::Error::other)
}
