//! The invariants of the state, one by one and against a model.

mod capacity;
mod events;
mod health;
mod instances;
mod listen;
mod new_flows;
mod pools;
mod properties;
mod sockets;
mod unchanged;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::api::ServiceState;
use proptest::prelude::*;
use vl3lb_common::Duration;
use vl3lb_common::next_hop::{Link, NextHops, Route, RouteKind};
use vl3lb_common::schedule::{Pool, Scheduler};
use vl3lb_common::{MacAddr, Protocol, ServiceKey};

use super::*;
use crate::config::FlowRules;
use crate::discovery::{Instances, Origin, ServiceSpec};
use crate::network::LinkState;

const DRAIN: u64 = 60;

fn address(host: u8) -> IpAddr {
    [172, 16, 1, host].into()
}

fn network() -> NetworkView {
    let own = address(103);
    let route = Route {
        kind: RouteKind::Unicast,
        destination: address(0),
        prefix_length: 24,
        gateway: None,
        metric: 0,
        mtu: None,
    };
    let neighbors = [(address(2), MacAddr([2; 6])), (address(3), MacAddr([3; 6]))].into();
    NetworkView {
        index: Some(7),
        state: LinkState::Up,
        mtu: 1500,
        addresses: vec![own, "2001:db8::67".parse().unwrap()],
        broadcasts: Vec::new(),
        next_hops: NextHops::new(Link::Ethernet(MacAddr([1; 6])), 1, vec![route], neighbors),
        routing_problems: Vec::new(),
    }
}

fn backend(host: u8, weight: u16) -> BackendSpec {
    BackendSpec {
        backup: false,
        address: address(host),
        port: 8081,
        instance: None,
        weight,
        eligibility: Eligibility::NewFlows,
        changed: None,
        origin: Origin::Static,
        pod: None,
    }
}

fn service(name: &str, port: u16, backends: Vec<BackendSpec>) -> Arc<ServiceSpec> {
    Arc::new(ServiceSpec {
        addresses: crate::config::ListenAddresses::default(),
        name: name.to_owned(),
        host: None,
        namespace: None,
        protocol: Protocol::Tcp,
        port,
        target_port: 8081,
        selector: BTreeMap::new(),
        scheduler: Scheduler::Maglev,
        affinity: Duration::ZERO,
        source_ranges: Vec::new(),
        client_address: vl3lb_common::ClientAddress::None,
        drain: Duration::from_secs(DRAIN),
        health_check: None,
        rules: FlowRules::default(),
        backends,
    })
}

/// A service of `desired`, to be changed there alone.
fn changed(desired: &mut Desired, index: usize) -> &mut ServiceSpec {
    Arc::make_mut(&mut desired.services[index])
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
    health: Arc<Findings>,
    worker: Arc<WorkerStats>,
    seconds: u64,
    last: Option<Update>,
}

impl World {
    fn new() -> Self {
        Self {
            state: State::new(NatPorts::new(10_240, 32_767).unwrap()),
            network: network(),
            health: Arc::default(),
            worker: Arc::new(WorkerStats::default()),
            seconds: 1000,
            last: None,
        }
    }

    /// Updates; the worker keeps its generation.
    fn update_only(&mut self, desired: &Desired) -> Option<Update> {
        let update = self.state.update(Inputs {
            desired,
            network: &Arc::new(self.network.clone()),
            health: &self.health,
            now: TimePoint {
                monotonic: Timestamp(self.seconds * 1_000_000_000),
                wall: self.wall(),
            },
            workers: &[Arc::clone(&self.worker)],
        });
        if update.is_some() {
            self.last.clone_from(&update);
        }
        update
    }

    /// Updates and publishes. Whether there was a new snapshot.
    fn update(&mut self, desired: &Desired) -> bool {
        let update = self.update_only(desired);
        if let Some(update) = &update {
            self.worker.generation.set(update.snapshot.generation.0);
        }
        update.is_some()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.seconds)
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

    /// Backends that new IPv4 flows can get.
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
fn a_service_has_a_key_for_each_own_address() {
    let mut world = World::new();
    assert!(world.update(&finance(&[2, 3])));
    let keys: BTreeSet<_> = world.snapshot().services.keys().map(|key| key.address).collect();
    assert_eq!(keys, world.network.addresses.iter().copied().collect());
    assert_eq!(world.snapshot().generation, Generation(1));
    assert_eq!(world.eligible().len(), 2);
}

#[test]
fn the_ports_of_the_kernel_are_part_of_the_snapshot() {
    let mut world = World::new();
    let desired = finance(&[2]);
    assert!(world.update(&desired));
    assert!(world.snapshot().kernel_ports.is_empty());
    let ports = Arc::new(PortSet::from(15_020..=15_021));
    world.state.set_kernel_ports(&ports);
    assert!(world.update(&desired));
    assert!(Arc::ptr_eq(&world.snapshot().kernel_ports, &ports));
    let flow_ports = world.snapshot().flow_ports();
    assert!(!flow_ports.contains(15_020) && flow_ports.contains(15_022));
    world.state.set_kernel_ports(&Arc::new((*ports).clone()));
    assert!(!world.update(&desired), "equal ports change nothing");
}

#[test]
fn the_same_set_in_any_order_and_with_duplicates_changes_nothing() {
    let mut world = World::new();
    let mut desired = finance(&[2, 3, 4]);
    desired.services.push(service("dns", 53, vec![]));
    assert!(world.update(&desired));
    desired.services.reverse();
    changed(&mut desired, 1).backends.reverse();
    assert!(!world.update(&desired));
    let again = desired.services[1].clone();
    changed(&mut desired, 1).backends.push(backend(3, 0));
    desired.services.push(again);
    assert!(!world.update(&desired));
}

#[test]
fn a_removed_backend_drains_and_frees_its_slot() {
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
    assert!(world.state.is_draining());

    world.set_flows(3, 0);
    assert!(world.update(&finance(&[2])));
    assert_eq!(world.slot(3), None);
    assert!(!world.state.is_draining());
}

#[test]
fn a_removed_backend_without_flows_frees_its_slot_at_once() {
    let mut world = World::new();
    world.update(&finance(&[2, 3]));
    world.update(&finance(&[2]));
    assert!(world.update(&finance(&[2])));
    assert_eq!(world.slot(3), None);
}

#[test]
fn a_slot_is_freed_once_all_workers_use_a_generation_without_it() {
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
fn a_backend_that_returns_gets_its_old_slot() {
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
fn a_removed_service_keeps_its_key_until_its_flows_end() {
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
fn a_renamed_service_keeps_its_flows() {
    let mut world = World::new();
    world.update(&finance(&[2]));
    let slot = world.slot(2);
    let mut renamed = finance(&[2]);
    changed(&mut renamed, 0).name = "money".to_owned();
    assert!(world.update(&renamed));
    assert_eq!(
        (world.slot(2), world.state_of(2)),
        (slot, Some(BackendState::Active))
    );
    assert_eq!(world.directory().services[0].as_ref().unwrap().name, "money");
}

#[test]
fn a_backend_gets_flows_once_its_next_hop_is_resolved() {
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
fn contradictions_are_left_out_and_reported() {
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
            "service a: defined at TCP 80 and at TCP 81; the second is left out",
            "service b: TCP 80 belongs to service a; left out"
        ]
    );
    assert_eq!(world.directory().live_services().count(), 1);
}

#[test]
fn a_reused_slot_has_a_baseline_of_its_counters() {
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
fn a_stale_state_is_published_again() {
    let mut world = World::new();
    world.update(&finance(&[2]));
    assert!(!world.update(&finance(&[2])));
    world.state.mark_stale();
    assert!(world.update(&finance(&[2])));
}

fn pod(host: u8, uid: &str, eligibility: Eligibility) -> BackendSpec {
    BackendSpec {
        instance: Some(uid.into()),
        eligibility,
        ..backend(host, 1)
    }
}

fn pods(pods: &[(u8, &str, Eligibility)]) -> Desired {
    let pods = pods
        .iter()
        .map(|&(host, uid, eligibility)| pod(host, uid, eligibility));
    Desired {
        services: vec![service("finance", 8080, pods.collect())],
        ..Desired::default()
    }
}
