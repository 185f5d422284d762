//! The balancer's own DNS server: authoritative for its zone, and a forwarder for other zones if configured.
//!
//! The zone has the services of the published snapshot, so a name exists exactly as long as its service,
//! with the addresses of every balancer of the group that balances it. The server listens on the balancer's
//! own addresses and follows their changes.
//!
//! Without an interface there is no own address to listen on; the listeners open when addresses appear. A server on a
//! configured address answers from the start: SERVFAIL before the first snapshot, so that resolvers try another server,
//! and from the last snapshot while the interface is away.

mod forwarding;
mod handler;
mod limit;
mod listener;
mod response;
mod stats;
mod tcp;
#[cfg(test)]
mod tests;
mod upstream;
mod zone;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use thiserror::Error;
use tokio::time::sleep;
use vl3lb_common::Duration;

use crate::config;
use crate::network::NetworkReceiver;
use crate::peers::PeersReceiver;
use crate::publisher::CurrentReceiver;

pub use stats::{DURATION_BOUNDS, DnsStats};

use forwarding::Forwarding;
use handler::Service;
use limit::ResponseLimit;
use listener::Listeners;
use zone::Zone;

/// Clients may cache an answer for this time.
pub const ANSWERS_LAST: Duration = Duration::from_secs(zone::TTL as u64);
/// Pause before an address that failed is bound again.
const RETRY: Duration = Duration::from_secs(2);

/// A zone whose name is too long for the DNS.
#[derive(Debug, Error)]
#[error("dns.zone {zone}: {source}")]
pub struct ZoneError {
    zone: String,
    source: hickory_proto::ProtoError,
}

/// The DNS server.
pub struct Dns {
    listen: config::DnsListen,
    network: NetworkReceiver,
    listeners: Listeners,
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns")
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

impl Dns {
    /// A server for `config.zone` with the services of `current`, which `peers` balance too, on the
    /// addresses of `network`.
    ///
    /// Errors: the zone's name is too long for the DNS.
    pub fn new(
        config: &config::Dns,
        current: CurrentReceiver,
        peers: PeersReceiver,
        network: NetworkReceiver,
    ) -> Result<(Self, Arc<DnsStats>), ZoneError> {
        let stats = Arc::new(DnsStats::default());
        let service = Service {
            zone: Zone::new(&config.zone).map_err(|source| ZoneError {
                zone: config.zone.clone(),
                source,
            })?,
            forwarding: Forwarding::new(config, network.clone()),
            limit: ResponseLimit::default(),
            current,
            peers,
            cursor: AtomicUsize::new(0),
            stats: Arc::clone(&stats),
        };
        let dns = Self {
            listen: config.listen,
            network,
            listeners: Listeners::new(Arc::new(service)),
        };
        Ok((dns, stats))
    }

    /// Serves until the network monitor ends. An address that cannot be bound is logged, once, and tried
    /// again; a server whose socket fails is logged and restarted.
    pub async fn run(mut self) {
        loop {
            let addresses = self.addresses();
            let complete = self.listeners.listen_on(&addresses).await;
            tokio::select! {
                changed = self.network.changed() => if changed.is_err() { return },
                // Not at once: a socket that fails again and again must not keep the CPU busy.
                () = self.listeners.ended() => sleep(RETRY).await,
                () = sleep(RETRY), if !complete => {}
            }
        }
    }

    fn addresses(&mut self) -> Vec<SocketAddr> {
        match self.listen {
            config::DnsListen::Address(address) => vec![address],
            config::DnsListen::OwnAddresses(port) => {
                let view = self.network.borrow_and_update();
                let own = view.iter().flat_map(|view| &view.addresses);
                own.map(|&address| SocketAddr::new(address, port)).collect()
            }
        }
    }
}
