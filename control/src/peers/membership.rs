//! The group as seen from the rest of the process.

use std::sync::Arc;

use tokio::time::{Instant, timeout};
use tracing::warn;
use vl3lb_common::Duration;

use super::context::Context;
use super::election::holder;
use super::peer_set::{Peer, PeerSet, PeersReceiver};
use crate::api;

/// The longest wait for the API server when leaving.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// A handle to query the group, and to leave it.
#[derive(Debug, Clone)]
pub struct Membership(pub(super) Arc<Context>);

impl Membership {
    /// The other balancers of the group.
    pub fn peers(&self) -> PeersReceiver {
        self.0.peers.subscribe()
    }

    /// The group's part of a report.
    pub fn report(&self) -> api::PeerGroup {
        let context = &self.0;
        let leader = context.group.borrow().leader.clone();
        let set = context.peers.borrow().clone();
        api::PeerGroup {
            group: context.identity.group.clone(),
            name: context.identity.pod.clone(),
            leader: leader.as_ref().and_then(|lease| holder(lease).map(str::to_owned)),
            leads: context.leads(Instant::now()),
            peers: set.peers.iter().map(Peer::report).collect(),
            writes: context.calls.counts(),
            troubles: context.calls.troubles(),
        }
    }

    /// Leaves the group: DNS answers name its peers instead of this balancer, and the peers learn it from the Lease,
    /// if the API server can be reached within two seconds. Returns whether any peer is ready.
    pub async fn leave(&self) -> bool {
        self.0.peers.send_modify(|set| {
            *set = Arc::new(PeerSet {
                leaving: true,
                ..PeerSet::clone(set)
            });
        });
        self.0.leave.send_replace(true);
        let mut left = self.0.left.subscribe();
        let done = timeout(LEAVE_LIMIT, left.wait_for(|left| *left)).await;
        if done.is_err() {
            warn!(
                "leave group {}: the API server does not answer",
                self.0.identity.group
            );
        }
        self.0.peers.borrow().peers.iter().any(|peer| peer.ready)
    }
}
