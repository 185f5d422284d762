//! Several balancers with the same configuration, and what they write to Kubernetes.
//!
//! Each balancer of a group keeps a Lease that says where it is, and watches those of the others. So
//! every balancer's name server can answer with all of them, and one that shuts down leaves the answers
//! before it stops serving. No write is ever needed to serve: what cannot be written is shown and tried
//! again.
//!
//! | idea | file |
//! |---|---|
//! | this balancer's pod and group | `identity` |
//! | format of a balancer's Lease | `lease` |
//! | renews and deletes this balancer's Lease | `own_lease` |
//! | watches the Leases of the group | `lease_watch` |
//! | which peers are alive | `liveness`, `peer_set` |
//! | handle for the rest of the process | `membership` |
//! | leader election | `election`, `leadership` |
//! | desired status of Services and EndpointSlices | `desired` |
//! | writes those that differ | `apply` |
//! | Kubernetes Events | `kube_events`, `kube_services` |
//! | time limit, counts and failures of API calls | `api_calls` |
//! | watch stream | `watching` |

mod api_calls;
mod apply;
mod desired;
mod election;
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
mod watching;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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

use api_calls::ApiCalls;
use leadership::Sources;
use lease::Presence;
use lease_watch::GroupState;

/// How often to look whether the balancer is ready.
const LOOK: Duration = Duration::from_secs(1);
/// How long until a missing kubeconfig or service account is looked for again.
const REOPEN: Duration = Duration::from_secs(5);

/// This balancer among its peers, for as long as it runs.
pub struct Peers {
    server: Server,
    current: CurrentReceiver,
    services: KubeServices,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers")
            .field("identity", &self.shared.identity)
            .finish_non_exhaustive()
    }
}

/// What the parts of this module, and those who ask it, have in common.
#[derive(Debug)]
struct Shared {
    identity: Identity,
    calls: Arc<ApiCalls>,
    events: Arc<Events>,
    peers: watch::Sender<Arc<PeerSet>>,
    group: watch::Sender<GroupState>,
    /// Whether this balancer writes for the group.
    leads: AtomicBool,
    /// Whether this balancer leaves.
    leave: watch::Sender<bool>,
    /// Whether it has left, as far as the API server could be told.
    left: watch::Sender<bool>,
}

impl Peers {
    /// The balancer `identity`, which balances what `current` says; `services` are those of Kubernetes that
    /// it serves, `events` is what Kubernetes is told of, and who comes and goes is told there. The API server and the credentials are those of a kubeconfig
    /// (KUBECONFIG), else of the pod's service account.
    pub fn new(
        identity: Identity,
        current: CurrentReceiver,
        services: KubeServices,
        events: Arc<Events>,
    ) -> (Self, Membership) {
        let group = GroupState {
            leader: None,
            settled: false,
            pace: (lease::DURATION / 3, lease::DURATION),
        };
        let shared = Arc::new(Shared {
            identity,
            calls: Arc::default(),
            events,
            peers: watch::channel(Arc::default()).0,
            group: watch::channel(group).0,
            leads: AtomicBool::new(false),
            leave: watch::channel(false).0,
            left: watch::channel(false).0,
        });
        let peers = Self {
            server: Server::Inferred,
            current,
            services,
            shared: Arc::clone(&shared),
        };
        (peers, Membership(shared))
    }

    /// Another API server than that.
    #[must_use]
    pub fn with_server(mut self, server: kube::Config) -> Self {
        self.server = Server::Given(Box::new(server));
        self
    }

    /// Takes part in the group until the balancer has left it, and then follows it still. `ready` says
    /// whether new flows can be sent here.
    pub async fn run(mut self, ready: impl Fn() -> bool + Send) {
        let (say, presence) = watch::channel(Presence::default());
        let shared = Arc::clone(&self.shared);
        let (config, client) = self.open().await;
        let follow = async {
            loop {
                let error = lease_watch::follow(&config, &shared).await.err();
                let reason = error.map(|error| error.to_string());
                shared.calls.note("watch leases", reason);
                sleep(REOPEN).await;
            }
        };
        let sources = Sources {
            presence: presence.clone(),
            current: self.current.clone(),
            accepted: self.services.accepted.clone(),
            left: self.services.left.clone(),
        };
        let part = async {
            let lead = leadership::take_part(&client, &config, &shared, sources);
            tokio::join!(own_lease::keep(&client, &shared, presence), lead);
            shared.left.send_replace(true);
        };
        let look = async {
            loop {
                let now = Presence::of(self.current.borrow_and_update().as_deref(), ready());
                say.send_if_modified(|said| std::mem::replace(said, now.clone()) != now);
                tokio::select! {
                    () = sleep(LOOK) => {}
                    Ok(()) = self.current.changed() => {}
                }
            }
        };
        let tell = kube_events::run(&client, &shared, shared.events.subscribe(), self.services.clone());
        tokio::join!(follow, part, look, tell);
    }

    /// The way to the API server, tried until there is one.
    async fn open(&self) -> (kube::Config, Client) {
        let attempt = "find the Kubernetes API server";
        loop {
            let opened = self.server.config().await.and_then(|config| {
                let client = client(&config)?;
                Ok((config, client))
            });
            let error = match opened {
                Ok(opened) => {
                    self.shared.calls.note(attempt, None);
                    return opened;
                }
                Err(error) => error,
            };
            self.shared.calls.note(attempt, Some(error.to_string()));
            sleep(REOPEN).await;
        }
    }
}
