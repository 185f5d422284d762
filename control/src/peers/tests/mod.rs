//! PeerSet against a scripted API server.

mod fuzz;
mod kube_events;
mod leadership;
mod membership;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Identity, KubeServices, Membership, Peers};
use crate::discovery::{Accepted, Refused, StaleStatus};
use crate::kubernetes::testing::ApiServer;
use crate::observe::events::Events;
use crate::observe::report::fixture;
use crate::publisher::Current;

/// A balancer of group `finance` in namespace `web` with the services finance, dns and ledger.
struct Balancer {
    membership: Membership,
    current: watch::Sender<Option<Arc<Current>>>,
    ready: Arc<AtomicBool>,
    accepted: watch::Sender<Arc<Vec<Accepted>>>,
    refused: watch::Sender<Arc<Vec<Refused>>>,
    stale: watch::Sender<Arc<Vec<StaleStatus>>>,
    events: Arc<Events>,
    running: JoinHandle<()>,
}

impl Balancer {
    fn start(server: &ApiServer, pod: &str, address: [u8; 4]) -> Self {
        Self::start_in("finance", server, pod, address)
    }

    /// In another group.
    fn start_in(group: &str, server: &ApiServer, pod: &str, address: [u8; 4]) -> Self {
        let identity = Identity {
            group: group.to_owned(),
            namespace: "web".to_owned(),
            pod: pod.to_owned(),
            uid: Some(format!("uid-{pod}")),
            node: None,
        };
        let (current, receiver) = watch::channel(Some(Arc::new(current(address.into()))));
        let (accepted, refused) = (watch::Sender::default(), watch::Sender::default());
        let stale = watch::Sender::default();
        let services = KubeServices {
            accepted: accepted.subscribe(),
            refused: refused.subscribe(),
            stale: stale.subscribe(),
        };
        let events = Arc::new(Events::default());
        let (peers, membership) = Peers::new(identity, receiver, services, Arc::clone(&events));
        let peers = peers.with_server(server.config());
        let ready = Arc::new(AtomicBool::new(true));
        let is_ready = Arc::clone(&ready);
        Self {
            membership,
            current,
            ready,
            accepted,
            refused,
            stale,
            events,
            running: tokio::spawn(peers.run(move || is_ready.load(Ordering::Relaxed))),
        }
    }

    /// The reason why `attempt` fails now, if it does.
    fn trouble(&self, attempt: &str) -> Option<String> {
        let troubles = self.membership.report().troubles;
        let mut troubles = troubles.into_iter();
        troubles
            .find(|trouble| trouble.attempt == attempt)
            .map(|trouble| trouble.reason)
    }

    /// The peers that it considers alive and ready and that serve finance.
    fn peers(&self) -> Vec<String> {
        let balancers = self.membership.peers().borrow().clone();
        let peers = balancers.peers.iter();
        peers
            .filter(|peer| peer.ready && peer.services.contains("finance.web"))
            .map(|peer| peer.name.clone())
            .collect()
    }

    /// Waits until those are `names`.
    async fn sees(&self, names: &[&str]) {
        let mut balancers = self.membership.peers();
        let waiting = async {
            while self.peers() != names {
                balancers.changed().await.unwrap();
            }
        };
        let limit = std::time::Duration::from_secs(30);
        let waited = tokio::time::timeout(limit, waiting).await;
        assert!(waited.is_ok(), "{names:?} expected, {:?} seen", self.peers());
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// The services of a balancer at `address`.
fn current(address: IpAddr) -> Current {
    let mut directory = fixture::directory();
    for service in directory.services.iter_mut().flatten() {
        service.namespace = Some("web".to_owned());
    }
    let mut current = fixture::current(directory);
    let mut snapshot = (*current.snapshot).clone();
    snapshot.addresses = vec![address];
    current.snapshot = Arc::new(snapshot);
    current
}
