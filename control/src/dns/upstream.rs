//! The upstream servers, which are asked one after the other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use hickory_proto::op::{Message, ResponseCode};
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
/// Queries of one client at a time: a client whose queries get no response leaves room for others.
const PER_CLIENT: usize = CONCURRENT / 2;

/// The servers, in the order in which they are queried.
#[derive(Debug)]
pub(super) struct Upstream {
    servers: Vec<SocketAddr>,
    slots: Semaphore,
    /// Queries under way by client; at most [`CONCURRENT`] entries.
    clients: Mutex<HashMap<IpAddr, usize>>,
}

impl Upstream {
    /// Forwards to `servers`; to none if it is empty.
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            slots: Semaphore::new(CONCURRENT),
            clients: Mutex::default(),
        }
    }

    /// The servers.
    pub(super) fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// The response of the first of `servers` that succeeds (RFC 1034 section 5.3.3), over the transport of the client, so
    /// that a truncated response is truncated for the client, too. A server fails if it is silent, if its response is
    /// truncated, or if it refuses or cannot answer. If all fail, the response is a truncated one, else the first one.
    /// `None` if no server responds, or if too many queries wait.
    ///
    /// Waits two seconds for each silent server.
    pub(super) async fn ask(
        &self,
        servers: impl Iterator<Item = SocketAddr>,
        client: IpAddr,
        question: &[u8],
        tcp: bool,
    ) -> Option<Message> {
        let _slot = self.slots.try_acquire().ok()?;
        let _share = self.share(client)?;
        let mut failure: Option<Message> = None;
        for server in servers {
            match timeout(ATTEMPT, exchange(server, question, tcp)).await {
                Ok(Ok(answer)) if succeeded(&answer) => return Some(answer),
                Ok(Ok(answer)) => {
                    debug!("query DNS server {server}: {}", answer.metadata.response_code);
                    let better = answer.metadata.truncation
                        && !failure
                            .as_ref()
                            .is_some_and(|failure| failure.metadata.truncation);
                    if better || failure.is_none() {
                        failure = Some(answer);
                    }
                }
                Ok(Err(error)) => debug!("query DNS server {server}: {error}"),
                Err(_) => debug!("query DNS server {server}: no response within {ATTEMPT:?}"),
            }
        }
        failure
    }

    /// The place of one more query of `client`. `None` if it has [`PER_CLIENT`] already.
    fn share(&self, client: IpAddr) -> Option<Share<'_>> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let count = clients.entry(client).or_default();
        if *count >= PER_CLIENT {
            return None;
        }
        *count += 1;
        drop(clients);
        Some(Share {
            upstream: self,
            client,
        })
    }
}

/// A client's query under way; dropping it ends it.
struct Share<'a> {
    upstream: &'a Upstream,
    client: IpAddr,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let clients = self.upstream.clients.lock();
        let mut clients = clients.unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = clients.entry(self.client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Whether no other server has to be queried.
fn succeeded(answer: &Message) -> bool {
    let failed = matches!(
        answer.metadata.response_code,
        ResponseCode::FormErr | ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused
    );
    !failed && !answer.metadata.truncation
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
