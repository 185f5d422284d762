//! The sockets of the DNS server, which follow the balancer's addresses.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hickory_server::Server;
use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::{AbortHandle, Id, JoinSet};
use tracing::{error, info};

use super::handler::{Handler, Service};
use super::tcp;
use crate::connections::{Limits, Slots, accept};

/// A socket of the DNS server that cannot be opened.
#[derive(Debug, Error)]
#[error("bind DNS server to {address} ({transport}): {source}{}", remedy(source))]
struct BindError {
    address: SocketAddr,
    transport: &'static str,
    source: io::Error,
}

/// The remedy for `error`, with a leading separator.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; grant CAP_NET_BIND_SERVICE, or set dns.listen to a port from 1024 on"
        }
        io::ErrorKind::AddrInUse => {
            "; another server uses it: stop that server, or set dns.listen to another port"
        }
        io::ErrorKind::AddrNotAvailable => "; the address does not exist: check dns.listen and the interface",
        _ => "",
    }
}

/// The servers by address. Dropping it closes all sockets.
pub(super) struct Listeners {
    service: Arc<Service>,
    /// TCP connections of all addresses.
    slots: Slots,
    open: HashMap<SocketAddr, AbortHandle>,
    servers: JoinSet<io::Error>,
    /// The last error of each address that cannot be bound, to log it once.
    failed: HashMap<SocketAddr, String>,
}

impl Listeners {
    pub(super) fn new(service: Arc<Service>) -> Self {
        Self {
            service,
            slots: Slots::new(Limits::of_process()),
            open: HashMap::new(),
            servers: JoinSet::new(),
            failed: HashMap::new(),
        }
    }

    /// Listens on exactly these addresses. False if one of them cannot be bound and is to be tried again.
    pub(super) async fn listen_on(&mut self, addresses: &[SocketAddr]) -> bool {
        self.open.retain(|address, server| {
            let keep = addresses.contains(address);
            if !keep {
                server.abort();
            }
            keep
        });
        self.failed.retain(|address, _| addresses.contains(address));
        for &address in addresses {
            if self.open.contains_key(&address) {
                continue;
            }
            match bind(address).await {
                Ok((udp, tcp)) => {
                    info!("DNS server listening on {address}");
                    let serving = serve(udp, tcp, Handler(Arc::clone(&self.service)), self.slots.clone());
                    self.open.insert(address, self.servers.spawn(serving));
                    self.failed.remove(&address);
                }
                Err(reason) => {
                    let reason = reason.to_string();
                    if self.failed.get(&address) != Some(&reason) {
                        error!("{reason}");
                        self.failed.insert(address, reason);
                    }
                }
            }
        }
        self.service.stats.set_listeners(self.open.len());
        self.failed.is_empty()
    }

    /// Waits until a server ends, and logs it: its address is to be bound again. Cancel-safe.
    pub(super) async fn ended(&mut self) {
        loop {
            let (id, reason) = match self.servers.join_next_with_id().await {
                Some(Ok((id, error))) => (id, error.to_string()),
                Some(Err(error)) => (error.id(), error.to_string()),
                None => std::future::pending().await,
            };
            // Others were aborted because their address is gone.
            if let Some(address) = self.address(id) {
                error!("DNS server on {address} ended: {reason}; listening again");
                self.open.remove(&address);
                self.service.stats.set_listeners(self.open.len());
                return;
            }
        }
    }

    fn address(&self, server: Id) -> Option<SocketAddr> {
        let mut open = self.open.iter();
        open.find(|(_, handle)| handle.id() == server)
            .map(|(&address, _)| address)
    }
}

async fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener), BindError> {
    let failed = |transport| {
        move |source| BindError {
            address,
            transport,
            source,
        }
    };
    let udp = UdpSocket::bind(address).await.map_err(failed("UDP"))?;
    let tcp = TcpListener::bind(address).await.map_err(failed("TCP"))?;
    Ok((udp, tcp))
}

/// Serves one address until a socket fails; why.
async fn serve(udp: UdpSocket, tcp: TcpListener, handler: Handler, slots: Slots) -> io::Error {
    let mut over_udp = Server::new(handler.clone());
    over_udp.register_socket(udp);
    let over_tcp = accept(&tcp, &slots, |stream, peer, slot| {
        tcp::connection(stream, peer, handler.clone(), slot.requests())
    });
    tokio::select! {
        ended = over_udp.block_until_done() => {
            ended.map_or_else(io::Error::other, |()| io::Error::other("the UDP socket was closed"))
        }
        ended = over_tcp => {
            ended.map_or_else(|error| error, |()| io::Error::other("the TCP listener was closed"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::watch;

    use super::super::forwarding::Forwarding;
    use super::super::limit::ResponseLimit;
    use super::super::zone::Zone;
    use super::*;
    use crate::config::{self, DnsListen};

    #[test]
    fn bind_errors_name_address_transport_cause_and_remedy() {
        let error = BindError {
            address: "172.16.1.103:53".parse().unwrap(),
            transport: "UDP",
            source: io::Error::from_raw_os_error(13),
        };
        assert_eq!(
            error.to_string(),
            "bind DNS server to 172.16.1.103:53 (UDP): Permission denied (os error 13); grant \
             CAP_NET_BIND_SERVICE, or set dns.listen to a port from 1024 on"
        );
    }

    fn service() -> Arc<Service> {
        let config = config::Dns {
            zone: "vl3-lb".to_owned(),
            listen: DnsListen::OwnAddresses(53),
            upstream: Vec::new(),
            upstream_clients: Vec::new(),
        };
        Arc::new(Service {
            zone: Zone::new("vl3-lb").unwrap(),
            forwarding: Forwarding::new(&config, watch::Sender::default().subscribe()),
            limit: ResponseLimit::default(),
            current: watch::Sender::default().subscribe(),
            peers: watch::Sender::default().subscribe(),
            cursor: AtomicUsize::new(0),
            stats: Arc::default(),
        })
    }

    #[tokio::test]
    async fn a_server_that_ends_is_logged_and_bound_again() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let service = service();
        let mut listeners = Listeners::new(Arc::clone(&service));
        assert!(listeners.listen_on(&[address]).await);
        assert_eq!(service.stats.listeners(), 1);
        listeners.open[&address].abort();
        listeners.ended().await;
        assert_eq!(service.stats.listeners(), 0);
        assert!(listeners.listen_on(&[address]).await, "{:?}", listeners.failed);
        tokio::net::TcpStream::connect(address).await.unwrap();
        // One whose address is gone is no failure.
        assert!(listeners.listen_on(&[]).await);
        assert!(futures_util::poll!(std::pin::pin!(listeners.ended())).is_pending());
    }
}
