//! State that the tasks of this room share.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::api_calls::ApiCalls;
use super::group::GroupState;
use super::identity::Identity;
use super::peer_set::PeerSet;
use crate::observe::events::Events;

#[derive(Debug)]
pub(super) struct Context {
    pub(super) identity: Identity,
    pub(super) calls: Arc<ApiCalls>,
    pub(super) events: Arc<Events>,
    pub(super) peers: watch::Sender<Arc<PeerSet>>,
    pub(super) group: watch::Sender<GroupState>,
    /// Until when this balancer leads the group, if it does.
    pub(super) term: watch::Sender<Option<Instant>>,
    /// Whether this balancer is to leave the group.
    pub(super) leave: watch::Sender<bool>,
    /// Whether it has left, as far as the API server could be reached.
    pub(super) left: watch::Sender<bool>,
}

impl Context {
    pub(super) fn new(identity: Identity, events: Arc<Events>) -> Self {
        Self {
            identity,
            calls: Arc::default(),
            events,
            peers: watch::Sender::default(),
            group: watch::Sender::new(GroupState::default()),
            term: watch::Sender::default(),
            leave: watch::Sender::default(),
            left: watch::Sender::default(),
        }
    }

    /// Whether this balancer writes for the group at `now`.
    pub(super) fn leads(&self, now: Instant) -> bool {
        self.term.borrow().is_some_and(|end| now < end)
    }
}
