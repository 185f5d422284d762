//! The state against a simple model, and the rules one by one.

mod health;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use vl3lb_common::Duration;
use vl3lb_common::next_hop::{Link, NextHops, Route};
use vl3lb_common::report::ServiceState;
use vl3lb_common::schedule::{Pool, Scheduler};
use vl3lb_common::{MacAddr, Protocol, ServiceKey};

use super::*;
use crate::discovery::{Origin, ServiceSpec};

const DRAIN: u64 = 60;

fn address(host: u8) -> IpAddr {
    [172, 16, 1, host].into()
}

fn network() -> NetworkView {
    let own = address(103);
    let route = Route {
        destination: address(0),
        prefix_length: 24,
        gateway: None,
        metric: 0,
    };
    let neighbors = [(address(2), MacAddr([2; 6])), (address(3), MacAddr([3; 6]))].into();
    NetworkView {
        index: Some(7),
        up: true,
        mtu: 1500,
        addresses: vec![own, "2001:db8::67".parse().unwrap()],
        next_hops: NextHops::new(Link::Ethernet(MacAddr([1; 6])), 1, vec![route], neighbors),
    }
}

fn backend(host: u8, weight: u16) -> BackendSpec {
    BackendSpec {
        address: address(host),
        port: 8081,
        instance: None,
        weight,
        takes: Takes::NewFlows,
        changed: None,
        origin: Origin::Static,
        pod: None,
    }
}

fn service(name: &str, port: u16, backends: Vec<BackendSpec>) -> ServiceSpec {
    ServiceSpec {
        name: name.to_owned(),
        host: None,
        protocol: Protocol::Tcp,
        port,
        target_port: 8081,
        selector: BTreeMap::new(),
        scheduler: Scheduler::Maglev,
        affinity: Duration::ZERO,
        source_ranges: Vec::new(),
        drain: Duration::from_secs(DRAIN),
        health_check: None,
        backends,
    }
}

fn finance(hosts: &[u8]) -> Desired {
    let backends = hosts.iter().map(|&host| backend(host, 1)).collect();
    Desired {
        services: vec![service("finance", 8080, backends)],
        ..Desired::default()
    }
}

/// A state with its surroundings: one worker that is always at the newest generation, and a clock.
struct World {
    state: State,
    network: NetworkView,
    health: Findings,
    worker: Arc<WorkerStats>,
    seconds: u64,
    last: Option<Update>,
}

impl World {
    fn new() -> Self {
        Self {
            state: State::new(NatPorts::new(10_240, 32_767).unwrap()),
            network: network(),
            health: Findings::new(),
            worker: Arc::new(WorkerStats::default()),
            seconds: 1000,
            last: None,
        }
    }

    /// Updates without the worker taking note of it.
    fn update_only(&mut self, desired: &Desired) -> Option<Update> {
        let update = self.state.update(Inputs {
            desired,
            network: &self.network,
            health: &self.health,
            now: Moment {
                monotonic: Timestamp(self.seconds * 1_000_000_000),
                wall: SystemTime::UNIX_EPOCH + Duration::from_secs(self.seconds),
            },
            workers: &[Arc::clone(&self.worker)],
        });
        if update.is_some() {
            self.last.clone_from(&update);
        }
        update
    }

    /// Updates and publishes. Whether there was anything to publish.
    fn update(&mut self, desired: &Desired) -> bool {
        let update = self.update_only(desired);
        if let Some(update) = &update {
            self.worker.generation.set(update.snapshot.generation.0);
        }
        update.is_some()
    }

    fn snapshot(&self) -> &Snapshot {
        &self.last.as_ref().unwrap().snapshot
    }

    fn directory(&self) -> &Directory {
        &self.last.as_ref().unwrap().directory
    }

    fn slot(&self, host: u8) -> Option<BackendSlot> {
        let backends = self.snapshot().backend_slots.iter().flatten();
        let mut found = backends.filter(|backend| backend.address == address(host));
        let slot = found.next().map(|backend| backend.slot);
        assert!(found.next().is_none(), "host {host} has two slots");
        slot
    }

    fn state_of(&self, host: u8) -> Option<BackendState> {
        let slot = self.slot(host)?;
        self.snapshot().backend(slot).map(|backend| backend.state)
    }

    fn set_flows(&self, host: u8, flows: u64) {
        let slot = self.slot(host).unwrap();
        self.worker.backend(slot).nat_ports.set(flows);
    }

    /// Backends that new flows of clients of IPv4 can get.
    fn eligible(&self) -> BTreeSet<BackendSlot> {
        let key = ServiceKey {
            address: address(103),
            port: 8080,
            protocol: Protocol::Tcp,
        };
        let service = self.snapshot().service(&key).unwrap();
        (0..5000_u64)
            .filter_map(|hash| service.v4.pick(hash, hash, |_| 0))
            .collect()
    }
}

#[test]
fn a_service_is_known_at_each_own_address() {
    let mut world = World::new();
    assert!(world.update(&finance(&[2, 3])));
    let keys: BTreeSet<_> = world.snapshot().services.keys().map(|key| key.address).collect();
    assert_eq!(keys, world.network.addresses.iter().copied().collect());
    assert_eq!(world.snapshot().generation, Generation(1));
    assert_eq!(world.eligible().len(), 2);
}

#[test]
fn the_same_set_in_any_order_and_with_duplicates_changes_nothing() {
    let mut world = World::new();
    let mut desired = finance(&[2, 3, 4]);
    desired.services.push(service("dns", 53, vec![]));
    assert!(world.update(&desired));
    desired.services.reverse();
    desired.services[1].backends.reverse();
    assert!(!world.update(&desired));
    let again = desired.services[1].clone();
    desired.services[1].backends.push(backend(3, 0));
    desired.services.push(again);
    assert!(!world.update(&desired));
}

#[test]
fn a_removed_backend_drains_ends_and_leaves() {
    let mut world = World::new();
    world.update(&finance(&[2, 3]));
    world.set_flows(3, 5);
    let slot = world.slot(3).unwrap();

    assert!(world.update(&finance(&[2])));
    assert_eq!(
        world.state_of(3),
        Some(BackendState::Draining {
            since: Timestamp(1_000_000_000_000)
        })
    );
    assert!(!world.eligible().contains(&slot));
    assert_eq!(
        world.state.next_deadline(),
        Some(Timestamp((1000 + DRAIN) * 1_000_000_000))
    );
    assert!(!world.update(&finance(&[2])));

    world.seconds += DRAIN;
    assert!(world.update(&finance(&[2])));
    assert_eq!(world.state_of(3), Some(BackendState::Gone));
    assert!(world.state.is_leaving());

    world.set_flows(3, 0);
    assert!(world.update(&finance(&[2])));
    assert_eq!(world.slot(3), None);
    assert!(!world.state.is_leaving());
}

#[test]
fn a_backend_without_flows_leaves_at_once() {
    let mut world = World::new();
    world.update(&finance(&[2, 3]));
    world.update(&finance(&[2]));
    assert!(world.update(&finance(&[2])));
    assert_eq!(world.slot(3), None);
}

#[test]
fn a_slot_is_not_freed_before_all_workers_know_that_it_drains() {
    let mut world = World::new();
    world.update(&finance(&[2, 3]));
    // The worker still uses generation 1, so it may open a flow on host 3 at any time.
    assert!(world.update_only(&finance(&[2])).is_some());
    assert!(world.update_only(&finance(&[2])).is_none());
    assert!(world.slot(3).is_some());
    world.worker.generation.set(2);
    assert!(world.update(&finance(&[2])));
    assert_eq!(world.slot(3), None);
}

#[test]
fn a_backend_that_comes_back_has_its_old_slot() {
    let mut world = World::new();
    world.update(&finance(&[2, 3]));
    world.set_flows(2, 1);
    let slot = world.slot(2);
    world.update(&finance(&[3]));
    world.seconds += DRAIN / 2;
    assert!(world.update(&finance(&[2, 3])));
    assert_eq!(
        (world.slot(2), world.state_of(2)),
        (slot, Some(BackendState::Active))
    );
    // Also after its drain time, while the last flows are being ended.
    world.update(&finance(&[3]));
    world.seconds += DRAIN;
    world.update(&finance(&[3]));
    assert_eq!(world.state_of(2), Some(BackendState::Gone));
    world.update(&finance(&[2, 3]));
    assert_eq!(
        (world.slot(2), world.state_of(2)),
        (slot, Some(BackendState::Active))
    );
}

#[test]
fn a_removed_service_keeps_its_key_until_its_flows_are_gone() {
    let mut world = World::new();
    world.update(&finance(&[2]));
    world.set_flows(2, 1);
    world.update(&Desired::default());
    let key_slots = |world: &World| -> BTreeSet<_> { world.snapshot().services.values().copied().collect() };
    assert_eq!(key_slots(&world), BTreeSet::from([ServiceSlot(0)]));
    assert!(matches!(
        *world.snapshot().service_slots[0].as_ref().unwrap().v4,
        Pool::Empty
    ));
    assert!(matches!(world.state_of(2), Some(BackendState::Draining { .. })));
    let entry = world.directory().services[0].as_ref().unwrap();
    assert!(!entry.live && entry.name == "finance");

    // One that takes its place meanwhile is another service, and another backend.
    world.update(&finance(&[2]));
    let hosts: Vec<_> = world.snapshot().backend_slots.iter().flatten().collect();
    assert_eq!(hosts.len(), 2);
    assert_ne!(hosts[0].service, hosts[1].service);
    assert_eq!(key_slots(&world), BTreeSet::from([hosts[1].service]));

    world.worker.backend(BackendSlot(0)).nat_ports.set(0);
    world.update(&finance(&[2]));
    assert!(world.snapshot().service_slots[0].is_none());

    world.update(&Desired::default());
    world.update(&Desired::default());
    assert!(world.snapshot().services.is_empty());
}

#[test]
fn transitions_of_backends_are_counted_for_their_service() {
    let mut world = World::new();
    let counts = |world: &World| {
        let entry = world.directory().live_services().next().unwrap();
        (entry.transitions.up, entry.transitions.draining)
    };
    world.update(&finance(&[2, 3]));
    assert_eq!(counts(&world), (2, 0));
    world.set_flows(2, 1);
    world.update(&finance(&[3]));
    assert_eq!(counts(&world), (2, 1));
    world.update(&finance(&[2, 3]));
    world.update(&finance(&[2, 3]));
    assert_eq!(counts(&world), (3, 1));
}

#[test]
fn a_renamed_service_keeps_its_flows() {
    let mut world = World::new();
    world.update(&finance(&[2]));
    let slot = world.slot(2);
    let mut renamed = finance(&[2]);
    renamed.services[0].name = "money".to_owned();
    assert!(world.update(&renamed));
    assert_eq!(
        (world.slot(2), world.state_of(2)),
        (slot, Some(BackendState::Active))
    );
    assert_eq!(world.directory().services[0].as_ref().unwrap().name, "money");
}

#[test]
fn pools_are_kept_as_long_as_their_members_stay() {
    let mut world = World::new();
    world.update(&finance(&[2, 3]));
    let pool = |world: &World| Arc::clone(&world.snapshot().service_slots[0].as_ref().unwrap().v4);
    let first = pool(&world);
    world.network.mtu = 9000;
    assert!(world.update(&finance(&[2, 3])));
    assert!(Arc::ptr_eq(&first, &pool(&world)));

    let mut heavier = finance(&[2, 3]);
    heavier.services[0].backends[0].weight = 3;
    assert!(world.update(&heavier));
    assert!(!Arc::ptr_eq(&first, &pool(&world)));
}

#[test]
fn each_family_has_its_own_pool() {
    let mut world = World::new();
    let mut desired = finance(&[2]);
    desired.services[0].backends.push(BackendSpec {
        address: "2001:db8::2".parse().unwrap(),
        ..backend(2, 1)
    });
    world.update(&desired);
    let service = world.snapshot().service_slots[0].as_ref().unwrap();
    let pick = |pool: &Pool| pool.pick(1, 1, |_| 0).unwrap();
    assert_ne!(pick(&service.v4), pick(&service.v6));
    assert!(
        world
            .snapshot()
            .backend(pick(&service.v6))
            .unwrap()
            .address
            .is_ipv6()
    );
}

#[test]
fn a_backend_takes_flows_once_its_next_hop_is_known() {
    let mut world = World::new();
    let members = |world: &World| match &*world.snapshot().service_slots[0].as_ref().unwrap().v4 {
        Pool::Cycle(cycle) => cycle.len(),
        Pool::Maglev { backends, .. } => backends.len(),
        Pool::LeastFlows(candidates) => candidates.len(),
        Pool::Empty => 0,
    };
    world.update(&finance(&[2, 4]));
    assert_eq!(members(&world), 1, "nobody answers at 4 yet");
    world.update(&finance(&[4, 5]));
    assert_eq!(members(&world), 2, "better tried than refused");
    world.update(&finance(&[2, 3]));
    assert_eq!(members(&world), 2);
    world.network.next_hops.link = Link::RawIp;
    world.update(&finance(&[2, 4]));
    assert_eq!(members(&world), 2, "no next hops on such a link");
}

#[test]
fn next_hops_are_filled_in_on_ethernet_only() {
    let mut world = World::new();
    world.update(&finance(&[2, 4]));
    let mac = |world: &World, host| world.snapshot().backend(world.slot(host).unwrap()).unwrap().mac;
    assert_eq!((mac(&world, 2), mac(&world, 4)), (Some(MacAddr([2; 6])), None));
    world.network.next_hops.link = Link::RawIp;
    assert!(world.update(&finance(&[2, 4])));
    assert_eq!(mac(&world, 2), None);
    assert!(!world.last.as_ref().unwrap().changes.notable);
}

#[test]
fn the_balancer_itself_is_no_backend() {
    let mut world = World::new();
    world.update(&finance(&[2, 103]));
    assert_eq!(world.slot(103), None);
    assert_eq!(
        world.directory().problems,
        ["service finance: backend 172.16.1.103:8081 is the balancer itself; left out"]
    );
}

#[test]
fn contradictions_are_left_out_and_named() {
    let mut world = World::new();
    world.update(&Desired {
        services: vec![
            service("b", 80, vec![]),
            service("a", 80, vec![]),
            service("a", 81, vec![]),
        ],
        ..Desired::default()
    });
    assert_eq!(
        world.directory().problems,
        [
            "service a: wanted at TCP 80 and at TCP 81; the second is left out",
            "service b: TCP 80 belongs to service a; left out"
        ]
    );
    assert_eq!(world.directory().live_services().count(), 1);
}

#[test]
fn a_reused_slot_remembers_the_counters_it_began_with() {
    let mut world = World::new();
    world.update(&finance(&[2]));
    world.worker.backend(BackendSlot(0)).flows_opened.set(7);
    world.worker.backend(BackendSlot(0)).inbound.packets.set(9);
    world.update(&finance(&[]));
    world.update(&finance(&[]));
    world.update(&finance(&[3]));
    let entry = world.directory().backend(BackendSlot(0)).unwrap();
    assert_eq!(entry.address, address(3));
    let baseline = entry.baseline.as_ref().unwrap();
    assert_eq!(
        (baseline.flows_opened.get(), baseline.inbound.packets.get()),
        (7, 9)
    );
}

#[test]
fn the_state_of_a_service_follows_its_backends_with_the_time_of_the_change() {
    let mut world = World::new();
    world.update(&finance(&[]));
    let state = |world: &World| {
        let entry = world.directory().services[0].as_ref().unwrap();
        let since = entry.since.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        (entry.state, since.as_secs())
    };
    assert_eq!(state(&world), (ServiceState::Down, 1000));
    world.seconds = 1010;
    world.update(&finance(&[2]));
    assert_eq!(state(&world), (ServiceState::Ok, 1010));
    world.seconds = 1020;
    world.update(&finance(&[2, 3]));
    assert_eq!(state(&world), (ServiceState::Ok, 1010));
}

#[test]
fn a_snapshot_that_did_not_arrive_is_made_again() {
    let mut world = World::new();
    world.update(&finance(&[2]));
    assert!(!world.update(&finance(&[2])));
    world.state.mark_stale();
    assert!(world.update(&finance(&[2])));
}

#[test]
fn what_changed_is_counted_and_told() {
    let mut world = World::new();
    world.update(&finance(&[2, 3]));
    world.update(&finance(&[3, 4, 5]));
    let changes = &world.last.as_ref().unwrap().changes;
    assert_eq!((changes.added, changes.removed), (2, 1));
    let lines: Vec<_> = changes.events.iter().map(Event::to_string).collect();
    assert_eq!(
        lines,
        [
            "backend finance/172.16.1.2:8081 up -> draining: not desired any more",
            "backend finance/172.16.1.4:8081 new -> up",
            "backend finance/172.16.1.5:8081 new -> up",
        ]
    );
}

fn pod(host: u8, uid: &str, takes: Takes) -> BackendSpec {
    BackendSpec {
        instance: Some(uid.into()),
        takes,
        ..backend(host, 1)
    }
}

fn pods(pods: &[(u8, &str, Takes)]) -> Desired {
    let pods = pods.iter().map(|&(host, uid, takes)| pod(host, uid, takes));
    Desired {
        services: vec![service("finance", 8080, pods.collect())],
        ..Desired::default()
    }
}

#[test]
fn a_backend_for_old_flows_only_keeps_them_without_a_limit() {
    let mut world = World::new();
    let ready = pods(&[(2, "a", Takes::NewFlows), (3, "b", Takes::NewFlows)]);
    let unready = pods(&[(2, "a", Takes::OldFlows), (3, "b", Takes::NewFlows)]);
    world.update(&ready);
    world.set_flows(2, 5);
    let slot = world.slot(2).unwrap();
    for _ in 0..3 {
        assert!(world.update(&unready));
        assert!(matches!(world.state_of(2), Some(BackendState::Draining { .. })));
        assert!(!world.eligible().contains(&slot));
        assert_eq!(world.state.next_deadline(), None);
        let entry = world.directory().backend(slot).unwrap();
        assert_eq!(entry.drain_deadline, None);
        world.seconds += 10 * DRAIN;
        assert!(!world.update(&unready), "nothing ends");

        assert!(world.update(&ready));
        assert_eq!(world.state_of(2), Some(BackendState::Active));
        assert_eq!(world.slot(2), Some(slot));
    }
}

#[test]
fn a_backend_for_old_flows_only_stays_without_any() {
    let mut world = World::new();
    let unready = pods(&[(2, "a", Takes::OldFlows)]);
    assert!(world.update(&unready));
    assert!(!world.update(&unready));
    assert!(world.slot(2).is_some() && world.eligible().is_empty());
    assert!(!world.state.is_leaving());
}

#[test]
fn the_drain_time_of_a_backend_begins_when_it_is_not_desired_any_more() {
    let mut world = World::new();
    world.update(&pods(&[(2, "a", Takes::NewFlows)]));
    world.set_flows(2, 1);
    world.update(&pods(&[(2, "a", Takes::OldFlows)]));
    world.seconds += 10 * DRAIN;
    let gone = pods(&[]);
    assert!(world.update(&gone));
    assert!(matches!(world.state_of(2), Some(BackendState::Draining { .. })));
    assert!(world.state.next_deadline().is_some());
    world.seconds += DRAIN;
    assert!(world.update(&gone));
    assert_eq!(world.state_of(2), Some(BackendState::Gone));
}

#[test]
fn the_flows_of_an_instance_that_is_gone_end_at_once() {
    let mut world = World::new();
    world.update(&pods(&[(2, "a", Takes::NewFlows), (3, "b", Takes::NewFlows)]));
    world.set_flows(2, 1);
    world.set_flows(3, 1);
    // One of them lives on, only not as a backend.
    let left = Desired {
        alive: Some(["b".into()].into()),
        ..pods(&[])
    };
    assert!(world.update(&left));
    assert_eq!(world.state_of(2), Some(BackendState::Gone));
    assert!(matches!(world.state_of(3), Some(BackendState::Draining { .. })));
    let left = Desired {
        alive: Some([].into()),
        ..pods(&[])
    };
    assert!(world.update(&left));
    assert_eq!(world.state_of(3), Some(BackendState::Gone));
}

#[test]
fn an_update_says_when_the_source_had_what_changed_backends() {
    let mut world = World::new();
    let at = |seconds, takes| {
        let changed = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let backend = BackendSpec {
            changed,
            ..pod(2, "a", takes)
        };
        Desired {
            services: vec![service("finance", 8080, vec![backend])],
            ..Desired::default()
        }
    };
    for (desired, caused) in [
        (at(1, Takes::NewFlows), &[1][..]),
        (at(2, Takes::OldFlows), &[2]),
        (at(3, Takes::OldFlows), &[]),
        (at(4, Takes::NewFlows), &[4]),
    ] {
        let updated = world.update(&desired);
        let last = world.last.iter().filter(|_| updated);
        let seconds = last
            .flat_map(|update| &update.changes.caused)
            .map(|(origin, time)| {
                assert_eq!(*origin, Origin::Static);
                time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
            });
        assert_eq!(seconds.collect::<Vec<_>>(), caused);
    }
}

#[test]
fn a_dead_backend_loses_its_flows_at_once() {
    let mut world = World::new();
    world.update(&pods(&[(2, "a", Takes::NewFlows)]));
    world.set_flows(2, 1);
    let dead = pods(&[(2, "a", Takes::Nothing)]);
    assert!(world.update(&dead));
    assert_eq!(world.state_of(2), Some(BackendState::Gone));
    world.set_flows(2, 0);
    assert!(world.update(&dead));
    assert_eq!(world.slot(2), None);
    assert!(!world.update(&dead), "and does not come back");
}

#[test]
fn another_instance_at_an_address_inherits_no_flows() {
    let first = pods(&[(2, "a", Takes::NewFlows)]);
    // At once; while the first is still there; after it has begun to drain; as another service's.
    let mut elsewhere = pods(&[]);
    let other = service("ledger", 9090, vec![pod(2, "b", Takes::NewFlows)]);
    elsewhere.services.push(other);
    let unready = pods(&[(2, "b", Takes::OldFlows)]);
    let both = pods(&[(2, "a", Takes::OldFlows), (2, "b", Takes::NewFlows)]);
    let second = pods(&[(2, "b", Takes::NewFlows)]);
    for sets in [
        &[&second][..],
        &[&both, &second],
        &[&pods(&[]), &second],
        &[&unready],
        &[&elsewhere],
    ] {
        let mut world = World::new();
        world.update(&first);
        let slot = world.slot(2).unwrap();
        world.set_flows(2, 5);
        for set in sets {
            world.update(set);
            assert!(!world.update(set), "{set:?} is stable");
        }
        let backends: Vec<_> = world.snapshot().backend_slots.iter().flatten().collect();
        let [old, new] = backends[..] else {
            panic!("two slots expected: {backends:?}")
        };
        assert_eq!((old.slot, old.state), (slot, BackendState::Gone), "{sets:?}");
        assert_ne!(new.state, BackendState::Gone);
        assert_eq!((new.address, new.port), (old.address, old.port));
    }
}

/// One step of a random life.
#[derive(Debug, Clone)]
enum Step {
    /// The backends of two services become these, by host.
    Want(BTreeSet<u8>, Option<BTreeSet<u8>>),
    Wait(u64),
    /// All flows on the n-th backend end, or some are opened if it takes any.
    EndFlows(usize),
    OpenFlows(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let hosts = || prop::collection::btree_set(2_u8..10, 0..6);
    prop_oneof![
        3 => (hosts(), prop::option::of(hosts())).prop_map(|(a, b)| Step::Want(a, b)),
        1 => (1_u64..90).prop_map(Step::Wait),
        2 => (0_usize..16).prop_map(Step::EndFlows),
        2 => (0_usize..16).prop_map(Step::OpenFlows),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_sequence_of_sets_keeps_the_rules(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        let mut desired = Desired::default();
        // Owners of slots that have flows: they may not change hands.
        let mut owners: BTreeMap<BackendSlot, (IpAddr, ServiceSlot)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Want(first, second) => {
                    let specs = |hosts: BTreeSet<u8>| hosts.into_iter().map(|host| backend(host, 1)).collect();
                    desired.services = vec![service("a", 8080, specs(first))];
                    desired.services.extend(second.map(|hosts| service("b", 8081, specs(hosts))));
                }
                Step::Wait(seconds) => world.seconds += seconds,
                Step::EndFlows(index) => {
                    let slot = backend_slot(index);
                    world.worker.backend(slot).nat_ports.set(0);
                    owners.remove(&slot);
                }
                Step::OpenFlows(index) => {
                    let slot = backend_slot(index);
                    let Some(last) = &world.last else { continue };
                    let Some(backend) = last.snapshot.backend(slot) else { continue };
                    if backend.state == BackendState::Active {
                        world.worker.backend(slot).nat_ports.set(1);
                        owners.insert(slot, (backend.address, backend.service));
                    }
                }
            }
            let before = world.state.generation();
            let changed = world.update(&desired);
            prop_assert_eq!(changed, world.state.generation() > before);
            // Freeing a slot is a second step; after it everything is at rest.
            world.update(&desired);
            prop_assert!(!world.update(&desired), "the same again changes nothing");
            let Some(last) = &world.last else { continue };
            let snapshot = &last.snapshot;

            for (slot, owner) in &owners {
                let backend = snapshot.backend(*slot).expect("a slot with flows is not freed");
                prop_assert_eq!(&(backend.address, backend.service), owner);
            }
            let mut identities = BTreeSet::new();
            for (index, backend) in snapshot.backend_slots.iter().enumerate() {
                let Some(backend) = backend else { continue };
                prop_assert_eq!(backend.slot.index(), index);
                prop_assert!(identities.insert((backend.service.0, backend.address)), "one backend, one slot");
                let service = snapshot.service_slots[backend.service.index()].as_ref().unwrap();
                if backend.state != BackendState::Active {
                    prop_assert!(owners.contains_key(&backend.slot), "leaving, and without flows");
                    let picked = (0..2000).filter_map(|hash| service.v4.pick(hash, hash, |_| 0));
                    prop_assert!(picked.into_iter().all(|slot| slot != backend.slot));
                }
                if let BackendState::Draining { since } = backend.state {
                    let passed = Timestamp(world.seconds * 1_000_000_000).since(since);
                    prop_assert!(passed < Duration::from_secs(DRAIN));
                }
            }
            let active: BTreeSet<_> = last
                .directory
                .active_backends()
                .map(|entry| (last.directory.service(entry.service).unwrap().port, entry.address))
                .collect();
            let want: BTreeSet<_> = desired
                .services
                .iter()
                .flat_map(|service| service.backends.iter().map(|backend| (service.port, backend.address)))
                .collect();
            prop_assert_eq!(active, want);
        }
    }
}

#[test]
fn the_pod_behind_a_backend_is_shown_and_moves_no_flow() {
    let mut world = World::new();
    let mut desired = finance(&[2]);
    world.update(&desired);
    let place = crate::discovery::PodPlace {
        pod: "web/a".to_owned(),
        node: Some("worker-1".to_owned()),
    };
    desired.services[0].backends[0].pod = Some(Arc::new(place));
    let before = Arc::clone(&world.snapshot().service_slots[0].as_ref().unwrap().v4);
    assert!(world.update(&desired));
    let entry = world.directory().backends[0].clone().unwrap();
    assert_eq!(entry.pod, desired.services[0].backends[0].pod);
    let after = Arc::clone(&world.snapshot().service_slots[0].as_ref().unwrap().v4);
    assert!(Arc::ptr_eq(&before, &after));
    assert!(!world.update(&desired));
}

#[test]
fn a_service_tells_its_state_when_it_changes_and_a_good_start_is_no_news() {
    let mut world = World::new();
    let told = |world: &mut World, desired: &Desired| -> Vec<String> {
        let update = world.update_only(desired);
        let events = update.into_iter().flat_map(|update| update.changes.events);
        events
            .filter(|event| matches!(event, Event::Service { .. }))
            .map(|event| event.to_string())
            .collect()
    };
    assert_eq!(told(&mut world, &finance(&[2])), [""; 0]);
    assert_eq!(
        told(&mut world, &finance(&[])),
        ["service finance ok -> down: no backend up (0 of 1); new flows are refused"]
    );
    assert_eq!(
        told(&mut world, &finance(&[3])),
        ["service finance down -> ok: 1 of 2 backends up"]
    );
    let empty = Desired {
        services: vec![service("ledger", 9000, vec![])],
        ..Desired::default()
    };
    assert_eq!(
        told(&mut world, &empty),
        ["service ledger new -> down: no backend up (0 of 0); new flows are refused"],
        "and of the removed one nothing"
    );
}

/// Backends of a service with weights, with a next hop each.
fn weighted() -> impl Strategy<Value = BTreeMap<u8, u16>> {
    prop::collection::btree_map(2_u8..30, 1_u16..4, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Balancers do not talk about flows: a client that another balancer gets next time still finds the
    /// backend that it had.
    #[test]
    fn balancers_with_different_pasts_send_each_client_to_the_same_backend(
        pasts in [prop::collection::vec(weighted(), 0..6), prop::collection::vec(weighted(), 0..6)],
        last in weighted(),
    ) {
        let finance = |backends: &BTreeMap<u8, u16>| Desired {
            services: vec![service(
                "finance",
                8080,
                backends.iter().map(|(&host, &weight)| backend(host, weight)).collect(),
            )],
            ..Desired::default()
        };
        let mut chosen = Vec::new();
        for (balancer, past) in pasts.iter().enumerate() {
            let mut world = World::new();
            // Two balancers have two addresses; backends on a raw-IP link need no neighbours.
            world.network.addresses = vec![address(200 + u8::try_from(balancer).unwrap())];
            world.network.next_hops = NextHops::new(Link::RawIp, 1, Vec::new(), [].into());
            for backends in past {
                world.update(&finance(backends));
                // Old backends keep their slots, so those of the next ones differ.
                for slot in world.snapshot().backend_slots.iter().flatten() {
                    world.worker.backend(slot.slot).nat_ports.set(1);
                }
            }
            let mut desired = finance(&last);
            if balancer == 1 {
                desired.services[0].backends.reverse();
            }
            world.update(&desired);
            let snapshot = world.snapshot();
            let key = ServiceKey { address: world.network.addresses[0], port: 8080, protocol: Protocol::Tcp };
            let pool = &snapshot.service(&key).unwrap().v4;
            let clients = (0..2000_u16).map(|port| vl3lb_common::hash::selection_hash(&[7; 16], port));
            let backends: Vec<_> = clients
                .map(|hash| pool.pick(hash, 0, |_| 0).map(|slot| snapshot.backend(slot).unwrap().address))
                .collect();
            prop_assert_eq!(backends[0].is_none(), last.is_empty());
            chosen.push(backends);
        }
        prop_assert_eq!(&chosen[0], &chosen[1]);
    }
}
