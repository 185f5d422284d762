//! Watches the Leases of the group: who is alive, and who leads.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::{Instant, sleep};

use super::changes::{self, Change};
use super::context::Context;
use super::lease::{GROUP, PeerLease};
use super::liveness::{Liveness, ObservedAt};
use super::peer_set::{Peer, PeerSet};
use crate::api::EventCode;
use crate::kubernetes::error::ConnectError;
use crate::observe::events::Event;

/// Watches the group until the stream ends.
///
/// Errors: certificates or a token that cannot be read.
pub(super) async fn run(config: &kube::Config, context: &Context) -> Result<(), ConnectError> {
    let identity = &context.identity;
    let labels = format!("{GROUP}={}", identity.group);
    let calls = Arc::clone(&context.calls);
    let mut changes = changes::stream::<Lease>(config, &identity.namespace, &labels, "leases", calls)?;
    let mut liveness = Liveness::new(identity.pod.clone(), Instant::now());
    loop {
        let expiry = liveness.next_expiry(Instant::now());
        let change = tokio::select! {
            change = changes.next() => match change {
                Some(change) => Some(change),
                None => return Ok(()),
            },
            () = sleep(expiry.unwrap_or_default()), if expiry.is_some() => None,
        };
        let now = ObservedAt {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        };
        if let Some(change) = change {
            take(change, context, &mut liveness, now);
        }
        publish(&liveness, context, now.monotonic);
    }
}

/// Takes a change of the group's Leases.
pub(super) fn take(change: Change<Lease>, context: &Context, liveness: &mut Liveness, now: ObservedAt) {
    let leader_lease = context.identity.leader_lease();
    let is_leader = |lease: &Lease| lease.metadata.name.as_ref() == Some(&leader_lease);
    let set_leader = |lease: Option<Lease>| {
        context
            .group
            .send_modify(|group| group.leader = lease.map(Arc::new));
    };
    match change {
        Change::All(mut leases) => {
            let leader = leases.iter().position(is_leader);
            set_leader(leader.map(|position| leases.swap_remove(position)));
            liveness.list(leases.iter().map(PeerLease::read).collect(), now);
        }
        Change::Set(lease) if is_leader(&lease) => set_leader(Some(lease)),
        Change::Removed(lease) if is_leader(&lease) => set_leader(None),
        Change::Set(lease) => liveness.written(PeerLease::read(&lease), now),
        Change::Removed(lease) => liveness.deleted(&PeerLease::read(&lease).name, now.monotonic),
    }
}

/// Publishes who is alive, with events for balancers that joined or left.
pub(super) fn publish(liveness: &Liveness, context: &Context, now: Instant) {
    let pace = liveness.pace();
    let settled = liveness.is_settled(now);
    context.group.send_if_modified(|group| {
        let before = (group.pace, group.settled);
        (group.pace, group.settled) = (pace, settled);
        before != (pace, settled)
    });
    let peers = liveness.peers(now);
    context.peers.send_if_modified(|set| {
        if set.peers == peers {
            return false;
        }
        context.events.emit_all(events(&set.peers, &peers));
        *set = Arc::new(PeerSet {
            peers,
            ..PeerSet::clone(set)
        });
        true
    });
}

/// The events of balancers that became available for DNS answers, or unavailable.
fn events(before: &[Peer], now: &[Peer]) -> Vec<Event> {
    let find = |name: &str, among: &[Peer]| among.iter().find(|peer| peer.name == name).cloned();
    let is_ready = |name: &str, among: &[Peer]| find(name, among).is_some_and(|peer| peer.ready);
    let joined = now
        .iter()
        .filter(|peer| peer.ready && !is_ready(&peer.name, before));
    let joined = joined.map(|peer| {
        let addresses: Vec<String> = peer.addresses.iter().map(ToString::to_string).collect();
        let (name, addresses) = (&peer.name, addresses.join(", "));
        let text = format!("balancer {name} of the group is ready, at {addresses}");
        Event::new(EventCode::BalancerJoined, text)
    });
    let left = before
        .iter()
        .filter(|peer| peer.ready && !is_ready(&peer.name, now));
    let left = left.map(|peer| {
        let is = if find(&peer.name, now).is_some() {
            "not ready any more"
        } else {
            "gone"
        };
        let text = format!("balancer {} of the group is {is}", peer.name);
        Event::new(EventCode::BalancerLeft, text)
    });
    joined.chain(left).collect()
}
