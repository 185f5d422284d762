//! Which balancer of the group writes for all of them. Pure.
//!
//! The leader's Lease has one holder, who renews it; each write names the version that it replaces, so
//! of two that want it at once one is refused. A holder that does not renew loses it, judged by when its
//! Lease was seen to change and by the clock of here; the holder itself stops a while earlier.

use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;
use vl3lb_common::Duration;

use super::Identity;
use super::lease::{DURATION, GROUP, micro_time, seconds};

/// How often the holder renews it.
const PERIOD: Duration = Duration::from_secs(5);
/// A holder that could not renew it for so long leads no more. Less than [`DURATION`], by more than two
/// clocks differ in that time.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait after a refused write for news of who was faster.
const NEWS: Duration = Duration::from_secs(2);

/// What one balancer knows of the election.
#[derive(Debug)]
pub(super) struct Election {
    identity: Identity,
    /// The Lease as it was seen last, and since when it is like that.
    seen: Option<(Arc<Lease>, Instant)>,
    /// The version that the watch told last.
    told: Option<u64>,
    /// When it was last written, as this balancer's.
    renewed: Option<Instant>,
    /// Nothing is written before then.
    earliest: Instant,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Nothing before this time has passed, unless the Lease changes.
    Wait(Duration),
    /// Make the Lease.
    Create(Lease),
    /// Write this over it; it says which version it replaces.
    Replace(Lease),
}

impl Election {
    pub(super) const fn new(identity: Identity, now: Instant) -> Self {
        Self {
            identity,
            seen: None,
            told: None,
            renewed: None,
            earliest: now,
        }
    }

    /// Takes note of the Lease as the watch has it; `None` if there is none. The watch may be behind what
    /// this balancer wrote.
    pub(super) fn see(&mut self, lease: Option<&Arc<Lease>>, now: Instant) {
        let told = lease.map(|lease| version(lease));
        let news = self.told != told;
        self.told = told;
        let known = self.seen.as_ref().map_or(0, |(lease, _)| version(lease));
        if news && told.is_none_or(|told| told > known) {
            self.know(lease.cloned(), now);
        }
    }

    /// Whether this balancer leads.
    pub(super) fn leads(&self, now: Instant) -> bool {
        let renewed = self.renewed.filter(|_| self.holds());
        renewed.is_some_and(|renewed| now.saturating_duration_since(renewed) < DEADLINE)
    }

    /// What to do at `now` to lead, or to go on leading.
    pub(super) fn step(&self, now: Instant, wall: SystemTime) -> Step {
        let until = |at: Instant| at.checked_duration_since(now).filter(|left| !left.is_zero());
        if let Some(left) = until(self.earliest) {
            return Step::Wait(left);
        }
        let Some((lease, since)) = &self.seen else {
            return Step::Create(self.record(None, wall));
        };
        let due = if self.holds() {
            self.renewed.map_or(now, |renewed| renewed + PERIOD)
        } else if holder(lease).is_none() {
            now
        } else {
            *since + duration(lease)
        };
        match until(due) {
            Some(left) => Step::Wait(left),
            None => Step::Replace(self.record(Some(lease), wall)),
        }
    }

    /// A write that was begun at `began` was accepted, and `lease` is what there is now.
    pub(super) fn wrote(&mut self, lease: Lease, began: Instant, now: Instant) {
        self.know(Some(Arc::new(lease)), now);
        self.renewed = self.holds().then_some(began);
    }

    /// A write was refused, or its answer did not come.
    pub(super) fn failed(&mut self, now: Instant) {
        self.earliest = now + NEWS;
    }

    /// What to write to give up leading; `None` if this balancer does not hold the Lease.
    pub(super) fn release(&self, wall: SystemTime) -> Option<Lease> {
        let (lease, _) = self.seen.as_ref().filter(|_| self.holds())?;
        let mut record = self.record(Some(lease), wall);
        if let Some(spec) = &mut record.spec {
            // Not left out: what is not in a patch stays.
            spec.holder_identity = Some(String::new());
        }
        Some(record)
    }

    fn know(&mut self, lease: Option<Arc<Lease>>, now: Instant) {
        self.seen = lease.map(|lease| (lease, now));
        self.earliest = now;
        if !self.holds() {
            self.renewed = None;
        }
    }

    fn holds(&self) -> bool {
        let holder = self.seen.as_ref().and_then(|(lease, _)| holder(lease));
        holder == Some(self.identity.pod.as_str())
    }

    /// The Lease with this balancer as its holder, instead of `lease`.
    fn record(&self, lease: Option<&Lease>, wall: SystemTime) -> Lease {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let changes = spec.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        let now = Some(micro_time(wall));
        Lease {
            metadata: ObjectMeta {
                name: Some(self.identity.leader_lease()),
                namespace: Some(self.identity.namespace.clone()),
                labels: Some([(GROUP.to_owned(), self.identity.group.clone())].into()),
                resource_version: lease.and_then(|lease| lease.metadata.resource_version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.pod.clone()),
                lease_duration_seconds: Some(seconds(DURATION)),
                acquire_time: match spec {
                    Some(spec) if self.holds() => spec.acquire_time.clone(),
                    _ => now.clone(),
                },
                renew_time: now,
                lease_transitions: Some(match lease {
                    Some(_) if !self.holds() => changes.saturating_add(1),
                    _ => changes,
                }),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// Versions of one object can be compared (KEP-5504).
fn version(lease: &Lease) -> u64 {
    let version = lease.metadata.resource_version.as_deref();
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or(u64::MAX)
}

/// Who holds `lease`, if anybody does.
pub(super) fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref();
    holder.filter(|holder| !holder.is_empty())
}

/// How long others have to wait for a holder that is silent.
fn duration(lease: &Lease) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map_or(DURATION, |seconds| Duration::from_secs(seconds.clamp(1, 600)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The API server's Lease, two balancers that want it, and a clock.
    struct World {
        lease: Option<Arc<Lease>>,
        version: u64,
        a: Election,
        b: Election,
        start: Instant,
        seconds: u64,
    }

    impl World {
        fn new() -> Self {
            let start = Instant::now();
            let election = |pod: &str| {
                let identity = Identity {
                    group: "finance".to_owned(),
                    namespace: "web".to_owned(),
                    pod: pod.to_owned(),
                    uid: None,
                    node: None,
                };
                Election::new(identity, start)
            };
            Self {
                lease: None,
                version: 0,
                a: election("a"),
                b: election("b"),
                start,
                seconds: 0,
            }
        }

        fn now(&self) -> Instant {
            self.start + Duration::from_secs(self.seconds)
        }

        fn each(&mut self) -> [&mut Election; 2] {
            [&mut self.a, &mut self.b]
        }

        /// Both learn what there is.
        fn tell(&mut self) {
            let (lease, now) = (self.lease.clone(), self.now());
            for election in self.each() {
                election.see(lease.as_ref(), now);
            }
        }

        /// What the server makes of a write.
        fn write(&mut self, mut lease: Lease) -> Result<Lease, ()> {
            let replaces = lease.metadata.resource_version.take();
            let before = self
                .lease
                .as_ref()
                .map(|lease| lease.metadata.resource_version.clone());
            if before != replaces.map(Some) {
                return Err(());
            }
            self.version += 1;
            lease.metadata.resource_version = Some(self.version.to_string());
            self.lease = Some(Arc::new(lease.clone()));
            Ok(lease)
        }

        /// The balancer does what is to be done, with what it was told last.
        fn act(&mut self, who: usize) {
            let now = self.now();
            let lease = match self.each()[who].step(now, SystemTime::UNIX_EPOCH) {
                Step::Wait(_) => return,
                Step::Create(lease) | Step::Replace(lease) => lease,
            };
            let written = self.write(lease);
            match written {
                Ok(lease) => self.each()[who].wrote(lease, now, now),
                Err(()) => self.each()[who].failed(now),
            }
        }

        fn leaders(&self) -> (bool, bool) {
            (self.a.leads(self.now()), self.b.leads(self.now()))
        }

        fn transitions(&self) -> i32 {
            let spec = self.lease.as_ref().unwrap().spec.as_ref().unwrap();
            spec.lease_transitions.unwrap()
        }
    }

    #[test]
    fn of_two_that_want_to_lead_one_does() {
        let mut world = World::new();
        world.tell();
        world.act(0);
        world.act(1);
        assert_eq!(world.leaders(), (true, false));
        assert_eq!(
            world.b.step(world.now(), SystemTime::UNIX_EPOCH),
            Step::Wait(NEWS)
        );
        world.tell();
        for _ in 0..20 {
            world.seconds += 5;
            world.act(0);
            world.act(1);
            world.tell();
            assert_eq!(world.leaders(), (true, false));
        }
        assert_eq!(world.transitions(), 0);
    }

    #[test]
    fn a_leader_that_is_silent_stops_before_another_takes_over() {
        let mut world = World::new();
        world.act(0);
        world.tell();
        let mut leaders = Vec::new();
        for _ in 0..=20 {
            world.act(1);
            world.tell();
            leaders.push(world.leaders());
            assert_ne!(world.leaders(), (true, true));
            world.seconds += 1;
        }
        let first = |leader| leaders.iter().position(|leaders| *leaders == leader);
        assert_eq!(first((false, false)), Some(10));
        assert_eq!(first((false, true)), Some(15));
        assert_eq!(world.transitions(), 1);
    }

    #[test]
    fn a_lease_that_was_renewed_unseen_is_not_taken() {
        let mut world = World::new();
        world.act(0);
        world.tell();
        // b hears nothing for long, then acts on what it knows before it is told.
        world.seconds = 14;
        world.act(0);
        world.seconds = 16;
        world.act(1);
        assert_eq!(world.leaders(), (true, false));
    }

    #[test]
    fn a_watch_that_is_behind_does_not_unseat_the_leader() {
        let mut world = World::new();
        world.tell();
        world.act(0);
        let first = world.lease.clone();
        world.a.see(None, world.now());
        assert!(world.a.leads(world.now()));
        world.seconds = 5;
        world.act(0);
        world.a.see(first.as_ref(), world.now());
        assert!(world.a.leads(world.now()));
        world.seconds = 10;
        world.act(0);
        assert!(world.a.leads(world.now()), "it goes on from what it wrote");
    }

    #[test]
    fn what_is_given_up_is_taken_at_once() {
        let mut world = World::new();
        world.act(0);
        world.tell();
        assert_eq!(world.b.release(SystemTime::UNIX_EPOCH), None);
        let lease = world.a.release(SystemTime::UNIX_EPOCH).unwrap();
        world.write(lease).unwrap();
        world.tell();
        assert_eq!(world.leaders(), (false, false));
        world.act(1);
        assert_eq!(world.leaders(), (false, true));
    }

    #[test]
    fn a_lease_that_is_deleted_is_made_again() {
        let mut world = World::new();
        world.act(0);
        world.tell();
        world.lease = None;
        world.tell();
        assert_eq!(world.leaders(), (false, false));
        world.act(1);
        world.act(0);
        assert_eq!(world.leaders(), (false, true));
    }

    #[test]
    fn a_balancer_that_was_started_anew_goes_on_with_its_lease() {
        let mut world = World::new();
        world.act(0);
        world.a = World::new().a;
        world.tell();
        assert_eq!(world.leaders(), (false, false));
        world.act(0);
        assert_eq!((world.leaders(), world.transitions()), ((true, false), 0));
    }

    /// What happens to one of the balancers.
    #[derive(Debug, Clone)]
    enum Happening {
        Wait(u64),
        /// The watch tells it what there is now.
        Tell(usize),
        Act(usize),
        /// As above, and the answer to its write is lost.
        ActUnheard(usize),
    }

    fn happening() -> impl Strategy<Value = Happening> {
        prop_oneof![
            (1_u64..8).prop_map(Happening::Wait),
            (0_usize..2).prop_map(Happening::Tell),
            (0_usize..2).prop_map(Happening::Act),
            (0_usize..2).prop_map(Happening::ActUnheard),
        ]
    }

    proptest! {
        #[test]
        fn there_are_never_two_leaders(happenings in prop::collection::vec(happening(), 1..120)) {
            let mut world = World::new();
            for happening in happenings {
                match happening {
                    Happening::Wait(seconds) => world.seconds += seconds,
                    Happening::Tell(who) => {
                        let (lease, now) = (world.lease.clone(), world.now());
                        world.each()[who].see(lease.as_ref(), now);
                    }
                    Happening::Act(who) => world.act(who),
                    Happening::ActUnheard(who) => {
                        let now = world.now();
                        let step = world.each()[who].step(now, SystemTime::UNIX_EPOCH);
                        if let Step::Create(lease) | Step::Replace(lease) = step {
                            world.write(lease).ok();
                            world.each()[who].failed(now);
                        }
                    }
                }
                prop_assert_ne!(world.leaders(), (true, true));
            }
        }
    }
}
