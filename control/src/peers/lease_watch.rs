//! Follows the Leases of the group: who is alive, and who leads.

use std::sync::Arc;
use std::time::SystemTime;

use crate::api::EventCode;
use futures_util::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::{Instant, sleep};
use vl3lb_common::Duration;

use super::Shared;
use super::lease::{GROUP, PeerLease};
use super::liveness::{Liveness, Moment};
use super::peer_set::{Peer, PeerSet};
use super::watching::{self, Change};
use crate::kubernetes::error::ConnectError;
use crate::observe::events::Event;

/// What the Leases of the group say, beside who is alive.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GroupState {
    /// The leader's; `None` if there is none, or nothing was listed yet.
    pub(super) leader: Option<Arc<Lease>>,
    /// Whether it is known who is alive.
    pub(super) settled: bool,
    /// How often to renew one's own Lease, and for how long that is good.
    pub(super) pace: (Duration, Duration),
}

/// Follows the group until the watch cannot go on.
///
/// Errors: certificates or a token that cannot be read.
pub(super) async fn follow(config: &kube::Config, shared: &Shared) -> Result<(), ConnectError> {
    let identity = &shared.identity;
    let label = format!("{GROUP}={}", identity.group);
    let writes = Arc::clone(&shared.calls);
    let mut changes = watching::follow::<Lease>(config, &identity.namespace, &label, "leases", writes)?;
    let mut members = Liveness::new(identity.pod.clone(), Instant::now());
    loop {
        let death = members.next_death(Instant::now());
        let change = tokio::select! {
            change = changes.next() => match change {
                Some(change) => Some(change),
                None => return Ok(()),
            },
            () = sleep(death.unwrap_or_default()), if death.is_some() => None,
        };
        let now = Moment {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        };
        if let Some(change) = change {
            hear(change, shared, &mut members, now);
        }
        tell(&members, shared, now.monotonic);
    }
}

fn hear(change: Change<Lease>, shared: &Shared, members: &mut Liveness, now: Moment) {
    let leads = shared.identity.leader_lease();
    let is_leader = |lease: &Lease| lease.metadata.name.as_ref() == Some(&leads);
    let lead = |lease: Option<Lease>| {
        shared
            .group
            .send_modify(|group| group.leader = lease.map(Arc::new));
    };
    match change {
        Change::All(mut leases) => {
            let leader = leases.iter().position(is_leader);
            lead(leader.map(|position| leases.swap_remove(position)));
            members.list(leases.iter().map(PeerLease::read).collect(), now);
        }
        Change::Set(lease) if is_leader(&lease) => lead(Some(lease)),
        Change::Gone(lease) if is_leader(&lease) => lead(None),
        Change::Set(lease) => members.see(PeerLease::read(&lease), now),
        Change::Gone(lease) => members.forget(&PeerLease::read(&lease).name, now.monotonic),
    }
}

/// Tells everyone who is alive, and who came and went.
fn tell(members: &Liveness, shared: &Shared, now: Instant) {
    let pace = members.pace();
    let settled = members.is_settled(now);
    shared.group.send_if_modified(|group| {
        let before = (group.pace, group.settled);
        (group.pace, group.settled) = (pace, settled);
        before != (pace, settled)
    });
    let peers = members.peers(now);
    shared.peers.send_if_modified(|balancers| {
        if balancers.peers == peers {
            return false;
        }
        shared.events.emit_all(news(&balancers.peers, &peers));
        *balancers = Arc::new(PeerSet {
            peers,
            leaving: balancers.leaving,
        });
        true
    });
}

/// Who can be answered with from now on, and who not any more.
fn news(before: &[Peer], now: &[Peer]) -> Vec<Event> {
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
