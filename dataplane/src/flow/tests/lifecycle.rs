//! Counters, NAT ports, affinity and feed agree with the table through random histories of flows.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use vl3lb_common::flow_feed::FlowFeed;
use vl3lb_common::next_hop::Link;
use vl3lb_common::stats::{FlowFailure, WorkerStats};
use vl3lb_common::{Backend, BackendState, Generation, Snapshot};

use super::*;
use crate::packet::{TcpFlags, TcpSegment};
use crate::testing::world;

const OWN: [[u8; 4]; 2] = [[172, 16, 1, 103], [172, 16, 1, 104]];
const SERVICES: u16 = 2;
const BACKENDS: u32 = 4;
const LONG: Duration = Duration::from_secs(1_000_000);

#[derive(Debug, Clone)]
enum Step {
    Open {
        client: u32,
        local: usize,
        backend: u32,
        is_tcp: bool,
        random: u64,
    },
    Packet {
        nth: usize,
        direction: Direction,
        flags: u8,
    },
    End {
        nth: usize,
        cause: CloseCause,
    },
    Wait {
        seconds: u64,
    },
    /// Ends flows of a backend, if there is one.
    Sweep {
        budget: usize,
        drained: Option<u32>,
    },
    /// Which own addresses there are, and which services have affinity.
    Publish {
        addresses: [bool; 2],
        affinity: [bool; 2],
    },
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop::sample::select(vec![
        TcpFlags::SYN,
        TcpFlags::ACK,
        TcpFlags::SYN | TcpFlags::ACK,
        TcpFlags::FIN | TcpFlags::ACK,
        TcpFlags::RST | TcpFlags::ACK,
    ]);
    let direction = prop::sample::select(vec![Direction::In, Direction::Out]);
    let cause = prop::sample::select(vec![CloseCause::BackendDown, CloseCause::Drain]);
    prop_oneof![
        8 => (0_u32..8, 0..OWN.len(), 0..BACKENDS, any::<bool>(), any::<u64>()).prop_map(
            |(client, local, backend, is_tcp, random)| Step::Open { client, local, backend, is_tcp, random }
        ),
        8 => (any::<usize>(), direction, flags)
            .prop_map(|(nth, direction, flags)| Step::Packet { nth, direction, flags }),
        1 => (any::<usize>(), cause).prop_map(|(nth, cause)| Step::End { nth, cause }),
        1 => (0_u64..200).prop_map(|seconds| Step::Wait { seconds }),
        1 => (0_usize..40, prop::option::weighted(0.2, 0..BACKENDS))
            .prop_map(|(budget, drained)| Step::Sweep { budget, drained }),
        1 => (any::<[bool; 2]>(), any::<[bool; 2]>())
            .prop_map(|(addresses, affinity)| Step::Publish { addresses, affinity }),
    ]
}

struct World {
    flows: Flows,
    stats: Arc<WorkerStats>,
    feed: Arc<FlowFeed>,
    now: Timestamp,
    /// What the feed has emitted so far.
    opened: u64,
    closed: HashMap<CloseCause, u64>,
}

fn snapshot(addresses: [bool; 2], affinity: [bool; 2]) -> Snapshot {
    let mut snapshot = world::snapshot(1, Link::RawIp);
    snapshot.addresses = (0..2)
        .filter(|&n| addresses[n])
        .map(|n| IpAddr::from(OWN[n]))
        .collect();
    for (service, has_affinity) in snapshot.service_slots.iter_mut().flatten().zip(affinity) {
        service.affinity = if has_affinity { LONG } else { Duration::ZERO };
    }
    snapshot
}

/// Backends 0 and 1 belong to service 0, the others to service 1.
fn backend(slot: u32) -> Backend {
    let [.., low] = slot.to_be_bytes();
    Backend {
        slot: BackendSlot(slot),
        since: Generation(1),
        service: ServiceSlot(u16::from(slot >= BACKENDS / 2)),
        address: [172, 16, 0, low].into(),
        port: 8081,
        protocol: Protocol::Tcp,
        weight: 1,
        state: BackendState::Active,
        mac: None,
    }
}

impl World {
    fn new(capacity: u32, ports: u16) -> Self {
        let stats = Arc::new(WorkerStats::default());
        let nat_ports = 1000..=1000 + ports - 1;
        let timeouts = Timeouts::default();
        let mut flows = Flows::new(capacity, nat_ports, SEED, timeouts, Arc::clone(&stats)).unwrap();
        let feed = Arc::new(FlowFeed::default());
        feed.subscribe();
        flows.set_feed(FeedWriter {
            feed: Arc::clone(&feed),
            worker: 0,
            timeouts,
        });
        assert_eq!(flows.set_snapshot(&snapshot([true; 2], [true, false])), 0);
        Self {
            flows,
            stats,
            feed,
            now: at(1),
            opened: 0,
            closed: HashMap::new(),
        }
    }

    fn live(&self) -> Vec<FlowId> {
        (0..self.flows.table.capacity())
            .filter(|&id| self.flows.table.pool.is_live(id))
            .map(FlowId)
            .collect()
    }

    fn nth(&self, nth: usize) -> Option<FlowId> {
        let live = self.live();
        (!live.is_empty()).then(|| live[nth % live.len()])
    }

    fn open(&mut self, client: u32, own: usize, slot: u32, is_tcp: bool, random: u64) -> Option<FlowId> {
        let local = self.flows.table.find_local(&to_octets(OWN[own].into()))?;
        let backend = backend(slot);
        let state = if is_tcp { State::Opening } else { State::Unreplied };
        let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Udp };
        let new = NewFlow {
            client: new_flow(client / 2, 0).client,
            client_port: 40_000 + u16::from(client % 2 == 1),
            local,
            protocol: protocol.number(),
            backend: to_octets(backend.address),
            service_slot: backend.service,
            service_port: 8080 + backend.service.0,
            state,
            timeout: self.flows.timeout(state),
            ..new_flow(0, slot)
        };
        // The pipeline opens no flow in the place of one that goes on.
        let known = self.flows.table.request(&request_key(&new), self.now);
        if known.is_some_and(|id| !self.flows.table.entry(id).state().is_over()) {
            return None;
        }
        let id = self.flows.open(&new, &backend, self.now, random, |_| true).ok()?;
        self.flows.note_window_scale(id, Direction::In, None);
        Some(id)
    }

    /// A packet of 60 bytes with the numbers that come next. `flags` are TCP's.
    fn packet(&mut self, id: FlowId, direction: Direction, flags: u8) {
        let sequence = self.flows.table.entry(id).sequence;
        let segment = TcpSegment {
            flags: TcpFlags(flags),
            sequence: sequence.end(direction),
            acknowledgment: sequence.end(direction.opposite()),
            payload: 0,
        };
        let is_tcp = self.flows.table.entry(id).protocol == Protocol::Tcp.number();
        let segment = is_tcp.then_some(&segment);
        self.flows.advance(id, direction, segment, 60, self.now);
        let owner = self.flows.table.entry(id).owner();
        self.flows.count_packet(id, owner, direction, 60);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Open {
                client,
                local,
                backend,
                is_tcp,
                random,
            } => drop(self.open(client, local, backend, is_tcp, random)),
            Step::Packet {
                nth,
                direction,
                flags,
            } => {
                if let Some(id) = self.nth(nth) {
                    self.packet(id, direction, flags);
                }
            }
            Step::End { nth, cause } => {
                if let Some(id) = self.nth(nth) {
                    self.flows.end(id, cause, self.now);
                }
            }
            Step::Wait { seconds } => self.now = self.now + Duration::from_secs(seconds),
            Step::Sweep { budget, drained } => self.flows.sweep(self.now, budget, |entry| {
                (Some(entry.backend().0) == drained).then_some(CloseCause::Drain)
            }),
            Step::Publish { addresses, affinity } => {
                assert_eq!(self.flows.set_snapshot(&snapshot(addresses, affinity)), 0);
            }
        }
    }

    fn check(&mut self) {
        while let Some(change) = self.feed.pop() {
            match change.closed {
                None => self.opened += 1,
                Some(cause) => *self.closed.entry(cause).or_default() += 1,
            }
        }
        assert_eq!(self.feed.lost(), 0);
        let table = &self.flows.table;
        let live = self.live();
        // A flow that is over is in the counters already.
        let open = |slot: u32| {
            live.iter()
                .filter(|&&id| table.entry(id).backend().0 == slot && !table.entry(id).is_counted())
                .count() as u64
        };
        for slot in 0..BACKENDS {
            let in_table = live
                .iter()
                .filter(|&&id| table.entry(id).backend().0 == slot)
                .count();
            let stats = self.stats.backend(BackendSlot(slot));
            assert_eq!(stats.flows.get(), open(slot), "backend {slot}");
            assert_eq!(stats.nat_ports.get(), in_table as u64, "backend {slot}");
            assert_eq!(table.ports_used(BackendSlot(slot)) as usize, in_table);
        }
        let services = || (0..SERVICES).map(|slot| self.stats.service(ServiceSlot(slot)));
        for (service, slots) in services().zip([[0, 1], [2, 3]]) {
            assert_eq!(service.flows(), slots.map(open).iter().sum::<u64>());
            let closed: u64 = service.flows_closed.iter().map(|counter| counter.get()).sum();
            assert_eq!(service.duration.counts().iter().sum::<u64>(), closed);
        }
        assert_eq!(
            services().map(|service| service.flows_opened.get()).sum::<u64>(),
            self.opened
        );
        for cause in CloseCause::ALL {
            let counted: u64 = services()
                .map(|service| service.flows_closed[cause as usize].get())
                .sum();
            assert_eq!(
                counted,
                self.closed.get(&cause).copied().unwrap_or(0),
                "{cause:?}"
            );
        }
        let mut locals = [0_u32; 256];
        live.iter()
            .for_each(|&id| locals[usize::from(table.entry(id).local)] += 1);
        assert_eq!(table.pool.header().local_flows, locals);
        let holders: Vec<_> = live
            .iter()
            .map(|&id| table.entry(id))
            .filter(|entry| !entry.is_counted())
            .filter_map(|entry| {
                let key = ServiceClient {
                    service: entry.service(),
                    client: entry.client,
                };
                Some((key, entry.backend(), entry.epoch()?))
            })
            .collect();
        for (key, slot, epoch, flows) in self.flows.affinity.held() {
            let held = holders
                .iter()
                .filter(|&&holder| holder == (key, slot, epoch))
                .count();
            assert_eq!(usize::from(flows), held, "{key:?} {slot:?}");
        }
    }
}

proptest! {
    #[test]
    fn everything_agrees_with_the_table(
        capacity in 1_u32..12,
        ports in 1_u16..6,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new(capacity, ports);
        for step in &steps {
            world.step(step);
            world.check();
        }
        assert_eq!(world.flows.set_snapshot(&snapshot([false; 2], [false; 2])), 0);
        world.flows.sweep(world.now, usize::MAX, |_| None);
        world.check();
        prop_assert!(is_pristine(&world.flows.table));
    }
}

#[test]
fn flows_on_an_address_that_is_gone_end_as_interface_lost_and_others_go_on() {
    let mut world = World::new(10, 10);
    let lost = world.open(0, 0, 0, true, 1).unwrap();
    let kept = world.open(2, 1, 0, true, 2).unwrap();
    let finished = world.open(4, 0, 0, true, 3).unwrap();
    world.packet(finished, Direction::Out, TcpFlags::RST | TcpFlags::ACK);
    world.flows.set_snapshot(&snapshot([false, true], [true, false]));
    world.flows.sweep(world.now, usize::MAX, |_| None);
    world.check();
    assert_eq!(world.live(), [kept]);
    assert_ne!(lost, kept);
    assert_eq!(world.closed[&CloseCause::InterfaceLost], 1);
    assert_eq!(world.closed[&CloseCause::Rst], 1, "its end was counted before");
}

#[test]
fn flows_go_on_where_their_address_comes_back_before_a_sweep() {
    let mut world = World::new(10, 10);
    let id = world.open(0, 0, 0, true, 1).unwrap();
    for addresses in [[false, true], [true, true]] {
        world.flows.set_snapshot(&snapshot(addresses, [false; 2]));
    }
    world.flows.sweep(world.now, usize::MAX, |_| None);
    assert_eq!(world.live(), [id]);
}

#[test]
fn a_flow_that_ended_before_is_not_emitted_again_when_it_makes_room() {
    let mut world = World::new(1, 10);
    let first = world.open(0, 0, 0, true, 1).unwrap();
    world.packet(first, Direction::Out, TcpFlags::RST | TcpFlags::ACK);
    world.check();
    assert_eq!(world.closed, HashMap::from([(CloseCause::Rst, 1)]));
    assert!(world.open(2, 0, 0, true, 2).is_some());
    world.check();
    assert_eq!((world.opened, world.closed.len()), (2, 1));
}

/// Else a forged RST would make a backend look free, and least-connections send it more.
#[test]
fn a_reset_flow_that_goes_on_counts_for_its_backend_again() {
    let mut world = World::new(10, 10);
    let id = world.open(0, 0, 0, true, 1).unwrap();
    world.packet(id, Direction::Out, TcpFlags::SYN | TcpFlags::ACK);
    world.packet(id, Direction::In, TcpFlags::ACK);
    let flows = |world: &World| world.stats.backend(BackendSlot(0)).flows.get();
    for closed in 1..4 {
        world.packet(id, Direction::Out, TcpFlags::RST);
        world.check();
        assert_eq!((flows(&world), world.closed[&CloseCause::Rst]), (0, closed));
        world.packet(id, Direction::Out, TcpFlags::ACK);
        world.check();
        assert_eq!((flows(&world), world.opened), (1, closed + 1));
    }
    world.flows.end(id, CloseCause::Drain, world.now);
    world.check();
    assert_eq!(flows(&world), 0);
}

#[test]
fn a_syn_that_is_repeated_after_a_second_is_counted_once_for_its_backend() {
    let mut world = World::new(10, 10);
    let unanswered = |world: &World| world.stats.backend(BackendSlot(0)).flows_unanswered.get();
    let id = world.open(0, 0, 0, true, 1).unwrap();
    let answered = world.open(1, 0, 0, true, 2).unwrap();
    world.packet(answered, Direction::Out, TcpFlags::SYN | TcpFlags::ACK);
    world.now = world.now + Duration::from_millis(200);
    world.packet(id, Direction::In, TcpFlags::SYN);
    assert_eq!(unanswered(&world), 0, "a client in a hurry");
    for _ in 0..3 {
        world.now = world.now + Duration::from_secs(1);
        world.packet(id, Direction::In, TcpFlags::SYN);
        world.packet(answered, Direction::In, TcpFlags::SYN);
        assert_eq!(unanswered(&world), 1);
    }
}

#[test]
fn a_client_that_gives_up_is_no_failure_of_the_backend() {
    let mut world = World::new(10, 10);
    let failed =
        |world: &World| world.stats.backend(BackendSlot(0)).flows_failed[FlowFailure::Reset as usize].get();
    for (direction, failures) in [(Direction::In, 0), (Direction::Out, 1)] {
        let id = world.open(failures, 0, 0, true, 1).unwrap();
        world.packet(id, direction, TcpFlags::RST | TcpFlags::ACK);
        assert_eq!(world.flows.table.entry(id).state(), State::Reset);
        assert_eq!(failed(&world), u64::from(failures), "{direction:?}");
    }
}
