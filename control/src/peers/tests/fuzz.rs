//! Fuzz target: changed Leases of a group, from JSON to peers, leader and DNS answers. See `vl3lb_testbed::fuzz`.

use std::collections::HashSet;
use std::time::{Instant as RealTime, SystemTime};

use k8s_openapi::api::coordination::v1::Lease;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::Instant;
use vl3lb_common::Duration;

use super::super::changes::Change;
use super::super::context::Context;
use super::super::election::{Election, Step};
use super::super::lease::{self, Presence};
use super::super::lease_watch::{publish, take};
use super::super::liveness::{Liveness, ObservedAt};
use super::*;
use crate::config::is_unicast;
use crate::mutation::change_json;

/// Seeds that have failed.
const CORPUS: &[u64] = &[];
/// Changes of one seed.
const CHANGES: u64 = 300;
/// Far above what the slowest change takes.
const LONGEST: Duration = Duration::from_secs(5);
/// The balancer that watches, and its peers.
const OWN: &str = "lb-a";
const PEERS: [&str; 3] = ["lb-b", "lb-c", "lb-d"];
const LEADER: &str = "finance-leader";

#[test]
fn any_lease_is_a_balancers_state_or_counts_as_absent() {
    let words = words();
    vl3lb_testbed::fuzz::run("Leases", 8, CORPUS, |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new();
        for _ in 0..CHANGES {
            world.step(&mut rng, &words);
        }
        world.recovers();
        CHANGES
    });
}

/// Values that mean something somewhere in a Lease.
fn words() -> Vec<Value> {
    let texts = [
        OWN,
        "lb-b",
        LEADER,
        "finance",
        "10.0.0.1",
        "10.0.0.1,10.0.0.1,2001:db8::1",
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "::ffff:10.0.0.1",
        "ff02::1",
        "true",
        "false",
        "finance,dns",
        "2026-11-24T08:00:00.000000Z",
        "9999-12-31T23:59:59.999999Z",
        "-9999-01-01T00:00:00Z",
    ];
    let others = [
        json!(0),
        json!(-1),
        json!(i32::MAX),
        json!(i32::MIN),
        json!(null),
        json!({}),
        json!([]),
    ];
    texts.into_iter().map(Value::from).chain(others).collect()
}

/// One balancer's view of the group, and a clock.
struct World {
    context: Context,
    liveness: Liveness,
    election: Election,
    start: Instant,
    seconds: u64,
    /// The API server's.
    version: u64,
}

impl World {
    fn new() -> Self {
        let start = Instant::now();
        let identity = identity(OWN);
        Self {
            context: Context::new(identity.clone(), Arc::default()),
            liveness: Liveness::new(OWN.to_owned(), start),
            election: Election::new(identity, start),
            start,
            seconds: 0,
            version: 0,
        }
    }

    fn now(&self) -> ObservedAt {
        let passed = Duration::from_secs(self.seconds);
        ObservedAt {
            monotonic: self.start + passed,
            wall: SystemTime::UNIX_EPOCH + passed,
        }
    }

    fn step(&mut self, rng: &mut StdRng, words: &[Value]) {
        let begin = RealTime::now();
        if rng.random_range(0..4) == 0 {
            self.seconds += rng.random_range(1..40);
        }
        let change = match rng.random_range(0..10) {
            0 => Some(Change::All(
                (0..rng.random_range(0..6))
                    .filter_map(|_| self.changed(rng, words))
                    .collect(),
            )),
            1 => self.changed(rng, words).map(Change::Removed),
            _ => self.changed(rng, words).map(Change::Set),
        };
        if let Some(change) = change {
            self.take(change);
        }
        self.campaign(rng);
        self.check();
        assert!(begin.elapsed() < LONGEST, "{:?}", begin.elapsed());
    }

    fn take(&mut self, change: Change<Lease>) {
        let now = self.now();
        take(change, &self.context, &mut self.liveness, now);
        publish(&self.liveness, &self.context, now.monotonic);
        let leader = self.context.group.borrow().leader.clone();
        self.election.observe(leader.as_ref(), now.monotonic);
    }

    /// A Lease with up to five changes, if the API's types can hold it.
    fn changed(&mut self, rng: &mut StdRng, words: &[Value]) -> Option<Lease> {
        let holders = [OWN, PEERS[0], PEERS[1], ""];
        let lease = match rng.random_range(0..5) {
            0 => self.leader(holders[rng.random_range(0..holders.len())]),
            1 => self.lease(OWN, rng.random()),
            _ => self.lease(PEERS[rng.random_range(0..PEERS.len())], rng.random()),
        };
        let mut document = serde_json::to_value(lease).unwrap();
        for _ in 0..rng.random_range(0..6) {
            change_json(rng, &mut document, words);
        }
        serde_json::from_value(document).ok()
    }

    /// As the balancer `pod` writes it now.
    fn lease(&mut self, pod: &str, ready: bool) -> Lease {
        let presence = presence(pod, ready);
        let renewed = self.now().wall + Duration::from_micros(self.version);
        let mut lease = lease::write(&identity(pod), &presence, lease::DURATION, renewed);
        lease.metadata.resource_version = Some(self.next_version());
        lease
    }

    fn leader(&mut self, holder: &str) -> Lease {
        let mut lease = self.lease(LEADER, false);
        lease.metadata.annotations = None;
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(holder.to_owned());
            spec.lease_transitions = Some(i32::MAX);
        }
        lease
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// This balancer's next action in order to lead. The API server accepts its write, or does not.
    fn campaign(&mut self, rng: &mut StdRng) {
        let now = self.now();
        let lease = match self.election.step(now.monotonic, now.wall) {
            Step::Wait(left) => {
                assert!(!left.is_zero() && left <= Duration::from_secs(600), "{left:?}");
                return;
            }
            Step::Create(lease) | Step::Replace(lease) => lease,
        };
        assert_eq!(lease.metadata.name.as_deref(), Some(LEADER));
        assert_eq!(lease.spec.as_ref().unwrap().holder_identity.as_deref(), Some(OWN));
        serde_json::to_string(&lease).unwrap();
        if rng.random() {
            self.accept(lease, now.monotonic);
            assert!(self.election.leads(now.monotonic));
        } else {
            self.election.failed(now.monotonic);
        }
    }

    fn accept(&mut self, mut lease: Lease, now: Instant) {
        lease.metadata.resource_version = Some(self.next_version());
        self.election.wrote(lease, now, now);
    }

    fn check(&self) {
        let now = self.now().monotonic;
        let set = self.context.peers.borrow().clone();
        let names: HashSet<_> = set.peers.iter().map(|peer| &peer.name).collect();
        assert_eq!(names.len(), set.peers.len(), "{set:?}");
        for peer in &set.peers {
            assert_ne!(peer.name, OWN);
            assert!(peer.addresses.len() <= 16, "{peer:?}");
            assert!(
                peer.addresses.iter().all(|&address| is_unicast(address)),
                "{peer:?}"
            );
            serde_json::to_string(&peer.report()).unwrap();
        }
        let own = ["10.0.0.200".parse().unwrap()];
        let answer = set.addresses_of("finance", &own);
        let different: HashSet<_> = answer.iter().collect();
        assert_eq!(different.len(), answer.len(), "{answer:?}");
        assert!(answer.contains(&own[0]));
        let (period, duration) = self.context.group.borrow().pace;
        assert!(
            period >= Duration::from_secs(5) && duration == 3 * period,
            "{period:?}"
        );
        let expiry = self.liveness.next_expiry(now);
        assert!(
            expiry.is_none_or(|left| left <= Duration::from_secs(600)),
            "{expiry:?}"
        );
        let control = |event: &crate::api::Event| event.text.contains(char::is_control);
        let strange = self.context.events.kept().into_iter().rev().take(4).find(control);
        assert_eq!(strange, None);
    }

    /// Good Leases count, whatever came before.
    fn recovers(&mut self) {
        let all = vec![self.lease(PEERS[0], true), self.leader(PEERS[0])];
        self.take(Change::All(all));
        for ready in [false, true] {
            self.seconds += 1;
            let renewed = self.lease(PEERS[0], ready);
            self.take(Change::Set(renewed));
        }
        let set = self.context.peers.borrow().clone();
        let [peer] = &set.peers[..] else {
            panic!("one peer expected: {set:?}");
        };
        let expected = presence(PEERS[0], true);
        assert_eq!(
            (&peer.name[..], peer.ready, &peer.addresses, &peer.services),
            (PEERS[0], true, &expected.addresses, &expected.services)
        );
        let now = self.now();
        assert!(self.election.follows(now.monotonic) && !self.election.leads(now.monotonic));
        // Its Lease is not renewed, and expires.
        self.seconds += 60;
        let now = self.now();
        let Step::Replace(lease) = self.election.step(now.monotonic, now.wall) else {
            panic!("an expired Lease is to be had");
        };
        assert_eq!(
            lease.metadata.resource_version.as_deref(),
            self.context
                .group
                .borrow()
                .leader
                .as_ref()
                .unwrap()
                .metadata
                .resource_version
                .as_deref()
        );
        self.accept(lease, now.monotonic);
        assert!(self.election.leads(now.monotonic));
    }
}

fn identity(pod: &str) -> Identity {
    Identity {
        group: "finance".to_owned(),
        namespace: "web".to_owned(),
        pod: pod.to_owned(),
        uid: Some(format!("uid-{pod}")),
        node: None,
    }
}

fn presence(pod: &str, ready: bool) -> Presence {
    let last = pod.bytes().next_back().unwrap();
    Presence {
        ready,
        addresses: vec![
            [10, 0, 0, last].into(),
            [0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()].into(),
        ],
        services: ["dns".to_owned(), "finance".to_owned()].into(),
        service_addresses: [("dns".to_owned(), vec![[10, 0, 0, last].into()])].into(),
    }
}
