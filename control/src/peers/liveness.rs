//! Which balancers of the group are alive, from the changes of their Leases. Pure.
//!
//! A balancer is alive as long as its Lease keeps changing: times that others wrote are compared with
//! each other, and never with a clock of here. A Lease that a list shows may be that of a balancer that
//! died long ago, so it counts from its next change on. Silence counts only while anybody of the group
//! is heard: when the API server is away, nobody can renew anything, and who was alive stays so.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use tokio::time::Instant;
use vl3lb_common::Duration;

use super::lease::{DURATION, PeerLease};
use super::peer_set::Peer;

/// A silence of the whole group that is longer than this is an outage, and not counted. Longer than the
/// time between two renewals, and with one of those still less than [`DURATION`].
const SILENCE: Duration = DURATION.checked_div(2).expect("two is not zero");
/// So often is each Lease renewed in the time that makes its holder dead.
const RENEWALS: u32 = 3;
/// All balancers together renew at most so often, since each of them is told each time.
const RENEWALS_PER_SECOND: u32 = 10;

/// What is known of the Leases of a group.
#[derive(Debug)]
pub(super) struct Liveness {
    /// The name of this balancer's own Lease.
    own: String,
    leases: BTreeMap<String, Member>,
    /// Time that passed while the group was heard.
    heard: Duration,
    /// When it was heard last.
    last: Instant,
}

#[derive(Debug)]
struct Member {
    sighting: PeerLease,
    /// When it changed last, in time that was heard; `None` if it did not since it was seen first.
    changed: Option<Duration>,
    /// When it came alive, as far as is known here.
    since: SystemTime,
    /// When it was seen first.
    first: Instant,
}

/// The moment of an observation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) monotonic: Instant,
    pub(super) wall: SystemTime,
}

impl Liveness {
    /// Nobody yet, seen by the balancer whose Lease is called `own`.
    pub(super) const fn new(own: String, now: Instant) -> Self {
        Self {
            own,
            leases: BTreeMap::new(),
            heard: Duration::ZERO,
            last: now,
        }
    }

    /// Takes note of all Leases of the group. Those that are not among them are gone.
    pub(super) fn list(&mut self, leases: Vec<PeerLease>, now: Moment) {
        let names: HashSet<String> = leases.iter().map(|sighting| sighting.name.clone()).collect();
        self.leases.retain(|name, _| names.contains(name));
        let renewed = |sighting: &PeerLease| {
            let known = self.leases.get(&sighting.name);
            known.is_some_and(|known| known.sighting.renewed != sighting.renewed)
        };
        if leases.iter().any(renewed) {
            self.hear(now.monotonic);
        }
        for sighting in leases {
            self.follow(sighting, None, now);
        }
    }

    /// Takes note of a Lease that was written.
    pub(super) fn see(&mut self, sighting: PeerLease, now: Moment) {
        self.hear(now.monotonic);
        self.follow(sighting, Some(self.heard), now);
    }

    /// Takes note of a Lease that was deleted: its holder has left.
    pub(super) fn forget(&mut self, name: &str, now: Instant) {
        self.hear(now);
        self.leases.remove(name);
    }

    /// The others that are alive, by name.
    pub(super) fn peers(&self, now: Instant) -> Vec<Peer> {
        self.leases
            .values()
            .filter(|member| member.sighting.name != self.own && self.left(member, now).is_some())
            .map(|member| Peer {
                name: member.sighting.name.clone(),
                ready: member.sighting.presence.ready,
                addresses: member.sighting.presence.addresses.clone(),
                services: member.sighting.presence.services.clone(),
                since: member.since,
            })
            .collect()
    }

    /// Whether those that are alive are known: each Lease of the first list has been seen to change, or had
    /// the time to.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        self.leases.values().all(|member| {
            let known_for = now.saturating_duration_since(member.first);
            member.changed.is_some() || known_for >= member.sighting.duration / 2
        })
    }

    /// How long until somebody is dead if nothing is heard of them; `None` if nobody will be.
    pub(super) fn next_death(&self, now: Instant) -> Option<Duration> {
        let left = self.leases.values().filter_map(|member| self.left(member, now));
        left.min()
    }

    /// How often this balancer has to renew its own Lease, and for how long that is good: with many
    /// balancers less often, since each of them is told of each renewal.
    pub(super) fn pace(&self) -> (Duration, Duration) {
        let count = u32::try_from(self.leases.len()).unwrap_or(u32::MAX);
        let period = (DURATION / RENEWALS).max(Duration::from_secs(1) * count / RENEWALS_PER_SECOND);
        let period = Duration::from_secs(period.as_secs());
        (period, period * RENEWALS)
    }

    /// Time until `member` is dead; `None` if it is.
    fn left(&self, member: &Member, now: Instant) -> Option<Duration> {
        let silence = now.saturating_duration_since(self.last).min(SILENCE);
        let age = (self.heard + silence).saturating_sub(member.changed?);
        member
            .sighting
            .duration
            .checked_sub(age)
            .filter(|left| !left.is_zero())
    }

    /// Keeps `sighting`, which counts as a change at `first` if its Lease was not known.
    fn follow(&mut self, sighting: PeerLease, first: Option<Duration>, now: Moment) {
        let known = self.leases.remove(&sighting.name);
        let alive = known
            .as_ref()
            .filter(|known| self.left(known, now.monotonic).is_some());
        let since = alive.map_or(now.wall, |alive| alive.since);
        let changed = match &known {
            Some(known) if known.sighting.renewed == sighting.renewed => known.changed,
            Some(_) => Some(self.heard),
            None => first,
        };
        let member = Member {
            sighting,
            changed,
            since,
            first: known.map_or(now.monotonic, |known| known.first),
        };
        self.leases.insert(member.sighting.name.clone(), member);
    }

    /// Somebody of the group is heard.
    fn hear(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.last);
        self.last = now;
        if passed <= SILENCE {
            self.heard += passed;
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
        members: Liveness,
        start: Instant,
        seconds: u64,
        /// What Leases say, and no clock.
        renewals: i64,
    }

    impl World {
        fn new() -> Self {
            let start = Instant::now();
            Self {
                members: Liveness::new("a".to_owned(), start),
                start,
                seconds: 0,
                renewals: 0,
            }
        }

        fn now(&self) -> Moment {
            Moment {
                monotonic: self.start + Duration::from_secs(self.seconds),
                wall: SystemTime::UNIX_EPOCH + Duration::from_secs(self.seconds),
            }
        }

        fn sighting(&self, name: &str) -> PeerLease {
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
            self.members.see(self.sighting(name), self.now());
        }

        fn alive(&self) -> Vec<(String, u64)> {
            let peers = self.members.peers(self.now().monotonic);
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
            // This balancer's own Lease shows that the group is heard.
            world.renew("a");
        }
        assert_eq!(world.alive(), []);
        world.renew("b");
        assert_eq!(world.alive(), [("b".to_owned(), 15)]);
    }

    #[test]
    fn a_lease_of_a_list_counts_from_its_next_change_on() {
        let mut world = World::new();
        let b = world.sighting("b");
        world.members.list(vec![b.clone()], world.now());
        assert_eq!(world.alive(), []);
        world.members.see(b.clone(), world.now());
        assert_eq!(world.alive(), [], "told again, and not renewed");
        assert!(!world.members.is_settled(world.now().monotonic));
        world.seconds = 3;
        world.renew("b");
        assert_eq!(world.alive(), [("b".to_owned(), 3)]);
        assert!(world.members.is_settled(world.now().monotonic));
        world.seconds = 4;
        world.members.list(vec![world.sighting("b")], world.now());
        assert_eq!(world.alive(), [("b".to_owned(), 3)], "listed again");
        world.members.list(vec![], world.now());
        assert_eq!(world.alive(), [], "not listed any more");
    }

    #[test]
    fn a_lease_of_somebody_dead_is_not_waited_for_long() {
        let mut world = World::new();
        world.members.list(vec![world.sighting("b")], world.now());
        world.seconds = 7;
        assert!(!world.members.is_settled(world.now().monotonic));
        world.seconds = 8;
        assert!(world.members.is_settled(world.now().monotonic));
    }

    #[test]
    fn who_deletes_its_lease_has_left() {
        let mut world = World::new();
        world.renew("b");
        world.members.forget("b", world.now().monotonic);
        assert_eq!(world.alive(), []);
    }

    #[test]
    fn an_outage_kills_nobody() {
        let mut world = World::new();
        world.renew("a");
        world.renew("b");
        world.seconds += 5;
        world.renew("a");
        for _ in 0..1000 {
            world.seconds += 5;
            assert_eq!(world.alive(), [("b".to_owned(), 0)]);
        }
        // All renew as soon as they can, each a little later than the other; then b dies.
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
    fn the_next_death_is_when_the_first_one_is_due() {
        let mut world = World::new();
        assert_eq!(world.members.next_death(world.now().monotonic), None);
        world.renew("b");
        world.seconds = 4;
        world.renew("a");
        let left = world.members.next_death(world.now().monotonic);
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
            assert_eq!(world.members.pace(), expected, "{count}");
        }
    }
}
