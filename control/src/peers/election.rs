//! Leader election: which balancer of the group writes for all of them. Pure.
//!
//! The leader's Lease has one holder, which renews it. Each write names the version that it replaces, so of two
//! concurrent writes one is rejected. A holder that does not renew the Lease loses it: others judge that by the time
//! since they saw it change, on their own clock, and the holder itself stops earlier.

use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;
use vl3lb_common::Duration;

use super::identity::Identity;
use super::lease::{DURATION, GROUP, micro_time, seconds};

/// The period in which the holder renews the Lease.
const PERIOD: Duration = Duration::from_secs(5);
/// A holder that has not renewed the Lease for this long leads no more. The rest of [`DURATION`] covers the writes
/// that it has begun, and the drift of two clocks.
const DEADLINE: Duration = Duration::from_secs(10);
/// The pause after a failed write of the holder.
const RETRY: Duration = Duration::from_secs(1);
/// The pause after a failed write of another balancer: until the watch shows which one was faster.
const RIVAL: Duration = Duration::from_secs(2);

/// The election as one balancer observes it.
#[derive(Debug)]
pub(super) struct Election {
    identity: Identity,
    /// The newest known Lease, and since when it is unchanged.
    latest: Option<(Arc<Lease>, Instant)>,
    /// The version that the watch delivered last.
    watched: Option<Arc<Lease>>,
    /// When this balancer, as the holder, began its last successful write.
    renewed: Option<Instant>,
    /// The earliest time of the next write.
    earliest: Instant,
}

/// The next action.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Wait for this long, or until the Lease changes.
    Wait(Duration),
    Create(Lease),
    /// Replace the version that the Lease names.
    Replace(Lease),
}

impl Election {
    pub(super) const fn new(identity: Identity, now: Instant) -> Self {
        Self {
            identity,
            latest: None,
            watched: None,
            renewed: None,
            earliest: now,
        }
    }

    /// Takes the Lease as the watch has it, `None` if there is none. The watch may lag behind this balancer's own
    /// writes.
    pub(super) fn observe(&mut self, lease: Option<&Arc<Lease>>, now: Instant) {
        let text = |lease: Option<&Arc<Lease>>| lease.map(|lease| lease.metadata.resource_version.clone());
        let changed = text(self.watched.as_ref()) != text(lease);
        self.watched = lease.cloned();
        let known = self.latest.as_ref().map(|(lease, _)| lease);
        if changed && is_news(lease, known) {
            self.set_latest(lease.cloned(), now);
        }
    }

    /// Whether this balancer leads.
    pub(super) fn leads(&self, now: Instant) -> bool {
        self.leads_until(now).is_some()
    }

    /// Until when this balancer leads unless it renews the Lease; `None` if it does not lead.
    pub(super) fn leads_until(&self, now: Instant) -> Option<Instant> {
        let end = self.renewed.filter(|_| self.holds())? + DEADLINE;
        (now < end).then_some(end)
    }

    /// Whether another balancer holds the Lease, and it has not expired.
    pub(super) fn follows(&self, now: Instant) -> bool {
        let latest = self.latest.as_ref().filter(|_| !self.holds());
        latest.is_some_and(|(lease, since)| holder(lease).is_some() && now < *since + duration(lease))
    }

    /// The next action in order to lead, or to continue to.
    pub(super) fn step(&self, now: Instant, wall: SystemTime) -> Step {
        let until = |at: Instant| at.checked_duration_since(now).filter(|left| !left.is_zero());
        if let Some(left) = until(self.earliest) {
            return Step::Wait(left);
        }
        let Some((lease, since)) = &self.latest else {
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

    /// The write that began at `began` succeeded; the server now has `lease`.
    pub(super) fn wrote(&mut self, lease: Lease, began: Instant, now: Instant) {
        self.set_latest(Some(Arc::new(lease)), now);
        self.renewed = self.holds().then_some(began);
    }

    /// A write was rejected, or not answered.
    pub(super) fn failed(&mut self, now: Instant) {
        self.earliest = now + if self.holds() { RETRY } else { RIVAL };
    }

    /// The Lease to write in order to stop leading; `None` if this balancer does not hold it.
    pub(super) fn release(&self, wall: SystemTime) -> Option<Lease> {
        let (lease, _) = self.latest.as_ref().filter(|_| self.holds())?;
        let mut record = self.record(Some(lease), wall);
        if let Some(spec) = &mut record.spec {
            // Empty and not absent: a merge patch keeps absent fields.
            spec.holder_identity = Some(String::new());
        }
        Some(record)
    }

    fn set_latest(&mut self, lease: Option<Arc<Lease>>, now: Instant) {
        self.latest = lease.map(|lease| (lease, now));
        self.earliest = now;
        if !self.holds() {
            self.renewed = None;
        }
    }

    fn holds(&self) -> bool {
        let holder = self.latest.as_ref().and_then(|(lease, _)| holder(lease));
        holder == Some(self.identity.pod.as_str())
    }

    /// The Lease with this balancer as its holder, to replace `lease`.
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

/// Whether what the watch delivers is newer than `known`. Versions of one object can be compared (KEP-5504); where they
/// cannot, the watch is right.
fn is_news(watched: Option<&Arc<Lease>>, known: Option<&Arc<Lease>>) -> bool {
    let version = |lease: &Arc<Lease>| lease.metadata.resource_version.as_ref()?.parse::<u64>().ok();
    match (watched.map(version), known.map(version)) {
        (Some(Some(watched)), Some(Some(known))) => watched > known,
        _ => true,
    }
}

/// The holder of `lease`, if it has one.
pub(super) fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref();
    holder.filter(|holder| !holder.is_empty())
}

/// How long after its last change `lease` expires.
fn duration(lease: &Lease) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map_or(DURATION, |seconds| Duration::from_secs(seconds.clamp(1, 600)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The API server's Lease, two candidates and a clock.
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

        fn candidates(&mut self) -> [&mut Election; 2] {
            [&mut self.a, &mut self.b]
        }

        /// Both watches deliver the current Lease.
        fn deliver(&mut self) {
            let (lease, now) = (self.lease.clone(), self.now());
            for election in self.candidates() {
                election.observe(lease.as_ref(), now);
            }
        }

        /// A write as the server handles it.
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

        /// The candidate takes its next action.
        fn act(&mut self, who: usize) {
            let now = self.now();
            let lease = match self.candidates()[who].step(now, SystemTime::UNIX_EPOCH) {
                Step::Wait(_) => return,
                Step::Create(lease) | Step::Replace(lease) => lease,
            };
            let written = self.write(lease);
            match written {
                Ok(lease) => self.candidates()[who].wrote(lease, now, now),
                Err(()) => self.candidates()[who].failed(now),
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
    fn one_of_two_candidates_leads() {
        let mut world = World::new();
        world.deliver();
        world.act(0);
        world.act(1);
        assert_eq!(world.leaders(), (true, false));
        assert_eq!(
            world.b.step(world.now(), SystemTime::UNIX_EPOCH),
            Step::Wait(RIVAL)
        );
        world.deliver();
        for _ in 0..20 {
            world.seconds += 5;
            world.act(0);
            world.act(1);
            world.deliver();
            assert_eq!(world.leaders(), (true, false));
        }
        assert_eq!(world.transitions(), 0);
    }

    #[test]
    fn a_leader_that_cannot_renew_stops_before_another_takes_over() {
        let mut world = World::new();
        world.act(0);
        world.deliver();
        let mut leaders = Vec::new();
        for _ in 0..=20 {
            world.act(1);
            world.deliver();
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
    fn a_stale_view_of_the_lease_cannot_take_it() {
        let mut world = World::new();
        world.act(0);
        world.deliver();
        // The watch of b lags.
        world.seconds = 14;
        world.act(0);
        world.seconds = 16;
        world.act(1);
        assert_eq!(world.leaders(), (true, false));
    }

    #[test]
    fn a_lagging_watch_does_not_unseat_the_leader() {
        let mut world = World::new();
        world.deliver();
        world.act(0);
        let first = world.lease.clone();
        world.a.observe(None, world.now());
        assert!(world.a.leads(world.now()));
        world.seconds = 5;
        world.act(0);
        world.a.observe(first.as_ref(), world.now());
        assert!(world.a.leads(world.now()));
        world.seconds = 10;
        world.act(0);
        assert!(world.a.leads(world.now()), "it continues from its own write");
    }

    #[test]
    fn a_version_that_is_no_number_does_not_stop_the_election() {
        let mut world = World::new();
        world.act(0);
        world.deliver();
        let mut strange = (**world.lease.as_ref().unwrap()).clone();
        strange.metadata.resource_version = Some("v2-a".to_owned());
        world.b.observe(Some(&Arc::new(strange)), world.now());
        let released = world.a.release(SystemTime::UNIX_EPOCH).unwrap();
        world.write(released).unwrap();
        world.deliver();
        world.act(1);
        assert_eq!(world.leaders(), (false, true));
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let mut world = World::new();
        world.act(0);
        world.deliver();
        assert_eq!(world.b.release(SystemTime::UNIX_EPOCH), None);
        let lease = world.a.release(SystemTime::UNIX_EPOCH).unwrap();
        world.write(lease).unwrap();
        world.deliver();
        assert_eq!(world.leaders(), (false, false));
        world.act(1);
        assert_eq!(world.leaders(), (false, true));
    }

    #[test]
    fn a_deleted_lease_is_created_again() {
        let mut world = World::new();
        world.act(0);
        world.deliver();
        world.lease = None;
        world.deliver();
        assert_eq!(world.leaders(), (false, false));
        world.act(1);
        world.act(0);
        assert_eq!(world.leaders(), (false, true));
    }

    #[test]
    fn a_restarted_balancer_continues_with_its_lease() {
        let mut world = World::new();
        world.act(0);
        world.a = World::new().a;
        world.deliver();
        assert_eq!(world.leaders(), (false, false));
        world.act(0);
        assert_eq!((world.leaders(), world.transitions()), ((true, false), 0));
    }

    #[test]
    fn two_attempts_to_renew_fit_into_the_term() {
        let mut world = World::new();
        world.act(0);
        // Each attempt lasts two seconds and is not answered.
        for begin in [5, 8] {
            world.seconds = begin;
            let step = world.a.step(world.now(), SystemTime::UNIX_EPOCH);
            assert!(matches!(step, Step::Replace(_)), "{begin}: {step:?}");
            world.seconds += 2;
            assert!(world.a.leads(world.now()) == (begin == 5));
            world.a.failed(world.now());
        }
    }

    #[test]
    fn a_follower_knows_that_the_lease_is_held() {
        let mut world = World::new();
        assert!(!world.b.follows(world.now()));
        world.act(0);
        world.deliver();
        assert!(world.b.follows(world.now()) && !world.a.follows(world.now()));
        world.seconds = 15;
        assert!(!world.b.follows(world.now()), "expired");
    }

    /// One step of a random run.
    #[derive(Debug, Clone)]
    enum Action {
        Wait(u64),
        /// A watch delivers the current Lease.
        Deliver(usize),
        Act(usize),
        /// As above, but the response to its write is lost.
        ActWithoutResponse(usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            (1_u64..8).prop_map(Action::Wait),
            (0_usize..2).prop_map(Action::Deliver),
            (0_usize..2).prop_map(Action::Act),
            (0_usize..2).prop_map(Action::ActWithoutResponse),
        ]
    }

    proptest! {
        #[test]
        fn there_are_never_two_leaders(actions in prop::collection::vec(action(), 1..120)) {
            let mut world = World::new();
            for action in actions {
                match action {
                    Action::Wait(seconds) => world.seconds += seconds,
                    Action::Deliver(who) => {
                        let (lease, now) = (world.lease.clone(), world.now());
                        world.candidates()[who].observe(lease.as_ref(), now);
                    }
                    Action::Act(who) => world.act(who),
                    Action::ActWithoutResponse(who) => {
                        let now = world.now();
                        let step = world.candidates()[who].step(now, SystemTime::UNIX_EPOCH);
                        if let Step::Create(lease) | Step::Replace(lease) = step {
                            world.write(lease).ok();
                            world.candidates()[who].failed(now);
                        }
                    }
                }
                prop_assert_ne!(world.leaders(), (true, true));
            }
        }
    }
}
