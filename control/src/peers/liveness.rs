//! Which balancers of the group are alive, from the changes of their Leases. Pure.
//!
//! A balancer is alive while its Lease keeps changing. Renewal times in Leases are compared with each other, never with
//! the local clock. A Lease in a list may belong to a balancer that died long ago, so it counts from its next change.
//! Silence counts only while some Lease of the group changes: when the API server is down, nobody can renew, and those
//! that were alive stay so.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use tokio::time::Instant;
use vl3lb_common::Duration;

use super::lease::{DURATION, PeerLease};
use super::peer_set::Peer;

/// A longer silence of the whole group is an outage of the API server and does not count. Longer than the period of
/// renewals; together with one period shorter than [`DURATION`].
const OUTAGE: Duration = DURATION.checked_div(2).expect("two is not zero");
/// Renewals of a Lease within its duration.
const RENEWALS: u32 = 3;
/// Renewals of all balancers together per second, at most: each balancer receives each of them.
const RENEWALS_PER_SECOND: u32 = 10;

/// The Leases of a group.
#[derive(Debug)]
pub(super) struct Liveness {
    /// The name of this balancer's own Lease.
    own: String,
    leases: BTreeMap<String, Member>,
    /// Time that has passed without outages.
    active: Duration,
    /// When any Lease changed last.
    last: Instant,
}

#[derive(Debug)]
struct Member {
    lease: PeerLease,
    /// When it changed last, in [`Liveness::active`] time; `None` if it has not since it was first seen.
    changed: Option<Duration>,
    /// When the balancer became alive, as far as is known here.
    since: SystemTime,
    /// When the Lease was first seen.
    first: Instant,
}

/// The time of an observation.
#[derive(Debug, Clone, Copy)]
pub(super) struct ObservedAt {
    pub(super) monotonic: Instant,
    pub(super) wall: SystemTime,
}

impl Liveness {
    /// No Leases yet; `own` is the name of this balancer's.
    pub(super) const fn new(own: String, now: Instant) -> Self {
        Self {
            own,
            leases: BTreeMap::new(),
            active: Duration::ZERO,
            last: now,
        }
    }

    /// Takes a complete list of the group's Leases. Those that are not in it are deleted.
    pub(super) fn list(&mut self, leases: Vec<PeerLease>, now: ObservedAt) {
        let names: HashSet<String> = leases.iter().map(|lease| lease.name.clone()).collect();
        self.leases.retain(|name, _| names.contains(name));
        let renewed = |lease: &PeerLease| {
            let known = self.leases.get(&lease.name);
            known.is_some_and(|known| known.lease.renewed != lease.renewed)
        };
        if leases.iter().any(renewed) {
            self.count_activity(now.monotonic);
        }
        for lease in leases {
            self.store(lease, None, now);
        }
    }

    /// Takes a Lease that was written.
    pub(super) fn written(&mut self, lease: PeerLease, now: ObservedAt) {
        self.count_activity(now.monotonic);
        self.store(lease, Some(self.active), now);
    }

    /// Takes a Lease that was deleted: its holder has left.
    pub(super) fn deleted(&mut self, name: &str, now: Instant) {
        self.count_activity(now);
        self.leases.remove(name);
    }

    /// The other balancers that are alive, by name.
    pub(super) fn peers(&self, now: Instant) -> Vec<Peer> {
        self.leases
            .values()
            .filter(|member| member.lease.name != self.own && self.left(member, now).is_some())
            .map(|member| Peer {
                name: member.lease.name.clone(),
                ready: member.lease.presence.ready,
                addresses: member.lease.presence.addresses.clone(),
                services: member.lease.presence.services.clone(),
                service_addresses: member.lease.presence.service_addresses.clone(),
                since: member.since,
            })
            .collect()
    }

    /// Whether it is known who is alive: each Lease of the first list has changed, or had the time to.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        self.leases.values().all(|member| {
            let known_for = now.saturating_duration_since(member.first);
            member.changed.is_some() || known_for >= member.lease.duration / 2
        })
    }

    /// How long until the first balancer is dead if no Lease changes; `None` if none will be.
    pub(super) fn next_expiry(&self, now: Instant) -> Option<Duration> {
        let left = self.leases.values().filter_map(|member| self.left(member, now));
        left.min()
    }

    /// The period in which this balancer renews its own Lease, and the duration of the Lease. Both grow with the number
    /// of balancers.
    pub(super) fn pace(&self) -> (Duration, Duration) {
        let count = u32::try_from(self.leases.len()).unwrap_or(u32::MAX);
        let period = (DURATION / RENEWALS).max(Duration::from_secs(1) * count / RENEWALS_PER_SECOND);
        let period = Duration::from_secs(period.as_secs());
        (period, period * RENEWALS)
    }

    /// Time until `member` is dead; `None` if it is.
    fn left(&self, member: &Member, now: Instant) -> Option<Duration> {
        let silence = now.saturating_duration_since(self.last).min(OUTAGE);
        let age = (self.active + silence).saturating_sub(member.changed?);
        member
            .lease
            .duration
            .checked_sub(age)
            .filter(|left| !left.is_zero())
    }

    /// Stores `lease`; one that was unknown counts as changed at `first`.
    fn store(&mut self, lease: PeerLease, first: Option<Duration>, now: ObservedAt) {
        let known = self.leases.remove(&lease.name);
        let alive = known
            .as_ref()
            .filter(|known| self.left(known, now.monotonic).is_some());
        let since = alive.map_or(now.wall, |alive| alive.since);
        let changed = match &known {
            Some(known) if known.lease.renewed == lease.renewed => known.changed,
            Some(_) => Some(self.active),
            None => first,
        };
        let member = Member {
            lease,
            changed,
            since,
            first: known.map_or(now.monotonic, |known| known.first),
        };
        self.leases.insert(member.lease.name.clone(), member);
    }

    /// A Lease of the group has changed.
    fn count_activity(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.last);
        self.last = now;
        if passed <= OUTAGE {
            self.active += passed;
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::super::lease::Presence;
    use super::*;

    /// Two balancers, `a` here and `b`, and a clock.
    struct World {
        liveness: Liveness,
        start: Instant,
        seconds: u64,
        /// The renewal time in Leases: no clock.
        renewals: i64,
    }

    impl World {
        fn new() -> Self {
            let start = Instant::now();
            Self {
                liveness: Liveness::new("a".to_owned(), start),
                start,
                seconds: 0,
                renewals: 0,
            }
        }

        fn now(&self) -> ObservedAt {
            ObservedAt {
                monotonic: self.start + Duration::from_secs(self.seconds),
                wall: SystemTime::UNIX_EPOCH + Duration::from_secs(self.seconds),
            }
        }

        fn lease(&self, name: &str) -> PeerLease {
            PeerLease {
                name: name.to_owned(),
                presence: Presence {
                    ready: true,
                    ..Presence::default()
                },
                duration: DURATION,
                renewed: Some(Timestamp::from_second(self.renewals).unwrap()),
            }
        }

        fn renew(&mut self, name: &str) {
            self.renewals += 1;
            self.liveness.written(self.lease(name), self.now());
        }

        fn alive(&self) -> Vec<(String, u64)> {
            let peers = self.liveness.peers(self.now().monotonic);
            let since = |peer: &Peer| peer.since.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            peers
                .iter()
                .map(|peer| (peer.name.clone(), since(peer).as_secs()))
                .collect()
        }
    }

    #[test]
    fn a_balancer_whose_lease_stops_changing_is_dead() {
        let mut world = World::new();
        world.renew("b");
        for _ in 0..3 {
            assert_eq!(world.alive(), [("b".to_owned(), 0)]);
            world.seconds += 5;
            // This balancer's own Lease shows that there is no outage.
            world.renew("a");
        }
        assert_eq!(world.alive(), []);
        world.renew("b");
        assert_eq!(world.alive(), [("b".to_owned(), 15)]);
    }

    #[test]
    fn a_listed_lease_counts_from_its_next_change() {
        let mut world = World::new();
        let b = world.lease("b");
        world.liveness.list(vec![b.clone()], world.now());
        assert_eq!(world.alive(), []);
        world.liveness.written(b.clone(), world.now());
        assert_eq!(world.alive(), [], "delivered again, not renewed");
        assert!(!world.liveness.is_settled(world.now().monotonic));
        world.seconds = 3;
        world.renew("b");
        assert_eq!(world.alive(), [("b".to_owned(), 3)]);
        assert!(world.liveness.is_settled(world.now().monotonic));
        world.seconds = 4;
        world.liveness.list(vec![world.lease("b")], world.now());
        assert_eq!(world.alive(), [("b".to_owned(), 3)], "listed again");
        world.liveness.list(vec![], world.now());
        assert_eq!(world.alive(), [], "not listed any more");
    }

    #[test]
    fn a_lease_of_a_dead_balancer_settles_soon() {
        let mut world = World::new();
        world.liveness.list(vec![world.lease("b")], world.now());
        world.seconds = 7;
        assert!(!world.liveness.is_settled(world.now().monotonic));
        world.seconds = 8;
        assert!(world.liveness.is_settled(world.now().monotonic));
    }

    #[test]
    fn a_balancer_whose_lease_is_deleted_has_left() {
        let mut world = World::new();
        world.renew("b");
        world.liveness.deleted("b", world.now().monotonic);
        assert_eq!(world.alive(), []);
    }

    #[test]
    fn nobody_is_dead_because_of_an_outage() {
        let mut world = World::new();
        world.renew("a");
        world.renew("b");
        world.seconds += 5;
        world.renew("a");
        for _ in 0..1000 {
            world.seconds += 5;
            assert_eq!(world.alive(), [("b".to_owned(), 0)]);
        }
        // The outage ends and both renew, then b dies.
        world.renew("a");
        world.seconds += 4;
        assert_eq!(world.alive(), [("b".to_owned(), 0)]);
        world.renew("b");
        for _ in 0..3 {
            assert_eq!(world.alive(), [("b".to_owned(), 0)]);
            world.seconds += 5;
            world.renew("a");
        }
        assert_eq!(world.alive(), []);
    }

    #[test]
    fn the_next_expiry_is_that_of_the_oldest_change() {
        let mut world = World::new();
        assert_eq!(world.liveness.next_expiry(world.now().monotonic), None);
        world.renew("b");
        world.seconds = 4;
        world.renew("a");
        let left = world.liveness.next_expiry(world.now().monotonic);
        assert_eq!(left, Some(Duration::from_secs(11)));
    }

    #[test]
    fn many_balancers_renew_less_often() {
        for (count, period, duration) in [(0, 5, 15), (50, 5, 15), (75, 7, 21), (200, 20, 60)] {
            let mut world = World::new();
            for number in 0..count {
                world.renew(&number.to_string());
            }
            let expected = (Duration::from_secs(period), Duration::from_secs(duration));
            assert_eq!(world.liveness.pace(), expected, "{count}");
        }
    }
}
