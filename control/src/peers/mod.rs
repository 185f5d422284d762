//! Balancers of one group: they share a configuration, answer DNS with each other's addresses, and one of them writes to
//! Kubernetes for all.
//!
//! Each balancer keeps a Lease with its addresses, services and readiness, and watches those of its peers. A balancer
//! that is not ready or shuts down leaves the peers' DNS answers within seconds. Serving depends on none of this: a
//! failed call is shown and repeated.
//!
//! | idea | file |
//! |---|---|
//! | this balancer's pod and group | `identity` |
//! | format of a balancer's Lease | `lease` |
//! | renews and deletes this balancer's Lease | `own_lease` |
//! | watches the Leases of the group | `lease_watch`, `group` |
//! | which peers are alive | `liveness`, `peer_set` |
//! | handle for the rest of the process | `membership` |
//! | leader election | `election`, `campaign` |
//! | writes of the leader: status of Services, EndpointSlices | `leadership`, `desired`, `apply` |
//! | Kubernetes Events | `kube_events`, `event_queue`, `kube_services` |
//! | time limit, counts and failures of API calls | `api_calls` |
//! | watch of a small collection | `changes` |
//! | state that these share | `context` |

mod api_calls;
mod apply;
mod campaign;
mod changes;
mod context;
mod desired;
mod election;
mod event_queue;
mod group;
mod identity;
mod kube_events;
mod kube_services;
mod leadership;
mod lease;
mod lease_watch;
mod liveness;
mod membership;
mod own_lease;
mod peer_set;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;
use tokio::time::sleep;
use vl3lb_common::Duration;

use crate::kubernetes::client::{Server, client};
use crate::observe::events::Events;
use crate::publisher::CurrentReceiver;

pub use identity::Identity;
pub use kube_services::KubeServices;
pub use membership::Membership;
pub use peer_set::{Peer, PeerSet, PeersReceiver};

use api_calls::Role;
use context::Context;
use leadership::Sources;
use lease::Presence;

/// How often readiness is checked.
const READINESS_CHECK: Duration = Duration::from_secs(1);
/// The pause before a missing kubeconfig or service account is looked for again.
const REOPEN: Duration = Duration::from_secs(5);

/// This balancer's part in the group, for as long as it runs.
pub struct Peers {
    server: Server,
    current: CurrentReceiver,
    services: KubeServices,
    context: Arc<Context>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers")
            .field("identity", &self.context.identity)
            .finish_non_exhaustive()
    }
}

impl Peers {
    /// The balancer `identity`, which serves `current`. `services` are the Services of Kubernetes that discovery
    /// decided about. `events` are written as Kubernetes Events, and peers that join or leave are added to them. API
    /// server and credentials are those of a kubeconfig (KUBECONFIG), else of the pod's service account.
    pub fn new(
        identity: Identity,
        current: CurrentReceiver,
        services: KubeServices,
        events: Arc<Events>,
    ) -> (Self, Membership) {
        let context = Arc::new(Context::new(identity, events));
        let peers = Self {
            server: Server::Inferred,
            current,
            services,
            context: Arc::clone(&context),
        };
        (peers, Membership(context))
    }

    /// With another API server.
    #[must_use]
    pub fn with_server(mut self, server: kube::Config) -> Self {
        self.server = Server::Given(Box::new(server));
        self
    }

    /// Takes part in the group until the balancer has left it, and watches it from then on. Never ends. `ready`
    /// returns whether this balancer accepts new flows.
    pub async fn run(self, ready: impl Fn() -> bool + Send) {
        let (presence, receiver) = watch::channel(Presence::default());
        tokio::join!(self.check_readiness(ready, presence), self.participate(receiver));
    }

    /// Publishes the desired content of the Lease in `presence`. Never ends.
    async fn check_readiness(&self, ready: impl Fn() -> bool + Send, presence: watch::Sender<Presence>) {
        let mut current = self.current.clone();
        loop {
            let ready = ready();
            self.context.peers.send_if_modified(|set| {
                let changed = set.not_ready == ready;
                if changed {
                    Arc::make_mut(set).not_ready = !ready;
                }
                changed
            });
            let now = Presence::of(current.borrow_and_update().as_deref(), ready);
            presence.send_if_modified(|published| std::mem::replace(published, now.clone()) != now);
            tokio::select! {
                () = sleep(READINESS_CHECK) => {}
                Ok(()) = current.changed() => {}
            }
        }
    }

    /// Runs all parts that need the API server. Never ends.
    async fn participate(&self, presence: watch::Receiver<Presence>) {
        let context = &*self.context;
        let (config, client) = self.connect().await;
        let watch_leases = async {
            loop {
                let failure = lease_watch::run(&config, context).await.err();
                let reason = failure.map(|error| error.to_string());
                context.calls.record(Role::Member, "watch leases", reason);
                sleep(REOPEN).await;
            }
        };
        let sources = Sources {
            presence: presence.clone(),
            current: self.current.clone(),
            accepted: self.services.accepted.clone(),
            stale: self.services.stale.clone(),
        };
        let until_left = async {
            tokio::join!(
                own_lease::renew(&client, context, presence),
                leadership::run(&client, &config, context, sources),
            );
            context.left.send_replace(true);
        };
        let events = kube_events::run(
            &client,
            context,
            context.events.subscribe(),
            self.services.clone(),
        );
        tokio::join!(watch_leases, until_left, events);
    }

    /// The connection to the API server, attempted until it succeeds.
    async fn connect(&self) -> (kube::Config, Client) {
        let attempt = "find the Kubernetes API server";
        loop {
            let connected = self.server.config().await;
            let connected = connected.and_then(|config| Ok((client(&config)?, config)));
            let reason = match connected {
                Ok((client, config)) => {
                    self.context.calls.record(Role::Member, attempt, None);
                    return (config, client);
                }
                Err(error) => error.to_string(),
            };
            self.context.calls.record(Role::Member, attempt, Some(reason));
            sleep(REOPEN).await;
        }
    }
}
