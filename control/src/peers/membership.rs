//! The group as the rest of the process asks about it, and leaves it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::timeout;
use vl3lb_common::Duration;

use super::Shared;
use super::election::holder;
use super::peer_set::{Peer, PeerSet, PeersReceiver};
use crate::api;

/// A balancer that leaves does not wait longer than this for the API server.
const FAREWELL: Duration = Duration::from_secs(2);

/// Those who ask about the group, or leave it.
#[derive(Debug, Clone)]
pub struct Membership(pub(super) Arc<Shared>);

impl Membership {
    /// The balancers of the group, for who answers with their addresses.
    pub fn peers(&self) -> PeersReceiver {
        self.0.peers.subscribe()
    }

    /// Everything there is to tell about the group.
    pub fn report(&self) -> api::PeerGroup {
        let shared = &self.0;
        let leader = shared.group.borrow().leader.clone();
        let balancers = shared.peers.borrow().clone();
        api::PeerGroup {
            group: shared.identity.group.clone(),
            name: shared.identity.pod.clone(),
            leader: leader.as_ref().and_then(|lease| holder(lease).map(str::to_owned)),
            leads: shared.leads.load(Ordering::Relaxed),
            peers: balancers.peers.iter().map(Peer::report).collect(),
            writes: shared.calls.counts(),
            troubles: shared.calls.troubles(),
        }
    }

    /// Leaves the group: from now on others are answered with instead, and they are told, if the API
    /// server can be reached within a moment. Whether there are any that are ready.
    pub async fn leave(&self) -> bool {
        self.0.peers.send_modify(|balancers| {
            *balancers = Arc::new(PeerSet {
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
        self.0.peers.borrow().peers.iter().any(|peer| peer.ready)
    }
}
