//! The sockets of the DNS server, which follow the balancer's addresses.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hickory_server::Server;
use tokio::net::{TcpListener, UdpSocket};
use tracing::{error, info};
use vl3lb_common::Duration;

use super::handler::{Handler, Service};

/// A TCP client that is silent for so long is cut off.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers that may wait for a slow TCP client.
const TCP_ANSWERS: usize = 16;

/// The listeners by address; dropping one closes its sockets.
pub(super) struct Listeners {
    service: Arc<Service>,
    open: HashMap<SocketAddr, Server<Handler>>,
    /// What was said about each address that does not work, so that it is said once.
    failed: HashMap<SocketAddr, String>,
}

impl Listeners {
    pub(super) fn new(service: Arc<Service>) -> Self {
        Self {
            service,
            open: HashMap::new(),
            failed: HashMap::new(),
        }
    }

    /// Listens on exactly these addresses. Whether all of them work; one that does not is to be
    /// tried again later.
    pub(super) async fn follow(&mut self, addresses: &[SocketAddr]) -> bool {
        self.open.retain(|address, _| addresses.contains(address));
        self.failed.retain(|address, _| addresses.contains(address));
        for &address in addresses {
            if self.open.contains_key(&address) {
                continue;
            }
            match self.bind(address).await {
                Ok(server) => {
                    info!("DNS server listens on {address}");
                    self.failed.remove(&address);
                    self.open.insert(address, server);
                }
                Err(reason) => {
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

    async fn bind(&self, address: SocketAddr) -> Result<Server<Handler>, String> {
        let udp = UdpSocket::bind(address)
            .await
            .map_err(|error| explain(address, "UDP", &error))?;
        let tcp = TcpListener::bind(address)
            .await
            .map_err(|error| explain(address, "TCP", &error))?;
        let mut server = Server::new(Handler(Arc::clone(&self.service)));
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS);
        Ok(server)
    }
}

/// What was tried, why it failed, and what to do.
fn explain(address: SocketAddr, transport: &str, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; grant CAP_NET_BIND_SERVICE, or set dns.listen to a port from 1024 on"
        }
        io::ErrorKind::AddrInUse => {
            "; another server has it: stop that one, or set dns.listen to another port"
        }
        io::ErrorKind::AddrNotAvailable => "; the address is not there: check dns.listen and the interface",
        _ => "",
    };
    format!("bind DNS server to {address} ({transport}): {error}{remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_address_port_cause_and_remedy() {
        let address: SocketAddr = "172.16.1.103:53".parse().unwrap();
        let said = explain(address, "UDP", &io::Error::from_raw_os_error(13));
        assert_eq!(
            said,
            "bind DNS server to 172.16.1.103:53 (UDP): Permission denied (os error 13); grant \
             CAP_NET_BIND_SERVICE, or set dns.listen to a port from 1024 on"
        );
    }
}
