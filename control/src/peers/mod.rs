//! Several balancers with the same configuration, and what they write to Kubernetes.
//!
//! Each balancer of a group keeps a Lease that says where it is, and watches those of the others. So
//! every balancer's name server can answer with all of them, and one that shuts down leaves the answers
//! before it stops serving. No write is ever needed to serve: what cannot be written is shown and tried
//! again.
//!
//! | idea | file |
//! |---|---|
//! | who this balancer is | `identity` |
//! | its Lease | `lease`, `presence` |
//! | the others' Leases, and who is alive | `group`, `members`, `balancers` |
//! | who of them writes for all | `election`, `leadership` |
//! | what that is: status of Services, EndpointSlices | `wanted`, `publication` |
//! | what Kubernetes is told of as Events | `notices`, `services` |
//! | how writes and watches go | `writes`, `watching` |

mod balancers;
mod election;
mod group;
mod identity;
mod leadership;
mod lease;
mod members;
mod notices;
mod presence;
mod publication;
mod services;
#[cfg(test)]
mod tests;
mod wanted;
mod watching;
mod writes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kube::Client;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use vl3lb_common::Duration;

use crate::api;
use crate::discovery::kubernetes::connection::Server;
use crate::discovery::kubernetes::failure::chain;
use crate::observe::events::Events;
use crate::publisher::CurrentReceiver;

pub use balancers::{Balancers, BalancersReceiver, Peer};
pub use identity::Identity;
pub use services::Services;

use election::holder;
use group::Group;
use leadership::Sources;
use lease::Presence;
use writes::Writes;

/// The field manager of everything that is applied.
pub(crate) const MANAGER: &str = "vl3-lb";
/// Who manages EndpointSlices, as their label says.
const MANAGED_BY: &str = "vl3-lb.io";
/// How often to look whether the balancer is ready.
const LOOK: Duration = Duration::from_secs(1);
/// How long until a missing kubeconfig or service account is looked for again.
const REOPEN: Duration = Duration::from_secs(5);
/// A balancer that leaves does not wait longer than this for the API server.
const FAREWELL: Duration = Duration::from_secs(2);

/// This balancer among its peers, for as long as it runs.
pub struct Replicas {
    server: Server,
    current: CurrentReceiver,
    services: Services,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Replicas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replicas")
            .field("identity", &self.shared.identity)
            .finish_non_exhaustive()
    }
}

/// What the parts of this module, and those who ask it, have in common.
#[derive(Debug)]
struct Shared {
    identity: Identity,
    writes: Arc<Writes>,
    events: Arc<Events>,
    balancers: watch::Sender<Arc<Balancers>>,
    group: watch::Sender<Group>,
    /// Whether this balancer writes for the group.
    leads: AtomicBool,
    /// Whether this balancer leaves.
    leave: watch::Sender<bool>,
    /// Whether it has left, as far as the API server could be told.
    left: watch::Sender<bool>,
}

/// Those who ask about the group, or leave it.
#[derive(Debug, Clone)]
pub struct Membership(Arc<Shared>);

impl Replicas {
    /// The balancer `identity`, which balances what `current` says; `services` are those of Kubernetes that
    /// it serves, `events` is what Kubernetes is told of, and who comes and goes is told there. The API server and the credentials are those of a kubeconfig
    /// (KUBECONFIG), else of the pod's service account.
    pub fn new(
        identity: Identity,
        current: CurrentReceiver,
        services: Services,
        events: Arc<Events>,
    ) -> (Self, Membership) {
        let group = Group {
            leader: None,
            settled: false,
            pace: (lease::DURATION / 3, lease::DURATION),
        };
        let shared = Arc::new(Shared {
            identity,
            writes: Arc::default(),
            events,
            balancers: watch::channel(Arc::default()).0,
            group: watch::channel(group).0,
            leads: AtomicBool::new(false),
            leave: watch::channel(false).0,
            left: watch::channel(false).0,
        });
        let replicas = Self {
            server: Server::Inferred,
            current,
            services,
            shared: Arc::clone(&shared),
        };
        (replicas, Membership(shared))
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
                let reason = group::follow(&config, &shared).await.err();
                shared.writes.note("watch leases", reason);
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
            tokio::join!(presence::keep(&client, &shared, presence), lead);
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
        let tell = notices::tell(&client, &shared, shared.events.follow(), self.services.clone());
        tokio::join!(follow, part, look, tell);
    }

    /// The way to the API server, tried until there is one.
    async fn open(&self) -> (kube::Config, Client) {
        let attempt = "find the Kubernetes API server";
        loop {
            let opened = self.server.config().await.and_then(|config| {
                let client = Client::try_from(config.clone()).map_err(|error| chain(&error))?;
                Ok((config, client))
            });
            let reason = match opened {
                Ok(opened) => {
                    self.shared.writes.note(attempt, None);
                    return opened;
                }
                Err(reason) => reason,
            };
            self.shared.writes.note(attempt, Some(reason));
            sleep(REOPEN).await;
        }
    }
}

impl Membership {
    /// The balancers of the group, for who answers with their addresses.
    pub fn balancers(&self) -> BalancersReceiver {
        self.0.balancers.subscribe()
    }

    /// Everything there is to tell about the group.
    pub fn report(&self) -> api::Replicas {
        let shared = &self.0;
        let leader = shared.group.borrow().leader.clone();
        let balancers = shared.balancers.borrow().clone();
        api::Replicas {
            group: shared.identity.group.clone(),
            name: shared.identity.pod.clone(),
            leader: leader.as_ref().and_then(|lease| holder(lease).map(str::to_owned)),
            leads: shared.leads.load(Ordering::Relaxed),
            peers: balancers.peers.iter().map(Peer::report).collect(),
            writes: shared.writes.counts(),
            troubles: shared.writes.troubles(),
        }
    }

    /// Leaves the group: from now on others are answered with instead, and they are told, if the API
    /// server can be reached within a moment. Whether there are any that are ready.
    pub async fn leave(&self) -> bool {
        self.0.balancers.send_modify(|balancers| {
            *balancers = Arc::new(Balancers {
                peers: balancers.peers.clone(),
                leaving: true,
            });
        });
        self.0.leave.send_replace(true);
        let mut left = self.0.left.subscribe();
        let told = timeout(FAREWELL, left.wait_for(|left| *left)).await;
        if told.is_err() {
            tracing::warn!(
                "leave group {}: the API server does not answer",
                self.0.identity.group
            );
        }
        self.0.balancers.borrow().peers.iter().any(|peer| peer.ready)
    }
}
