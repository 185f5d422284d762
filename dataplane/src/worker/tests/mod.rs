//! Workers over memory ports, with the real engine.

mod any_order;
mod deliver;
mod evicted;
mod fragments;
mod fuzz;
mod locks;
mod pinning;
mod unsent;

use crossbeam::queue::ArrayQueue;
use etherparse::{SlicedPacket, TransportSlice};
use vl3lb_common::flow_query::FlowQuery;
use vl3lb_common::hash::OwnerKey;
use vl3lb_common::next_hop::Link;
use vl3lb_common::stats::Counter;
use vl3lb_common::{ServiceSlot, Snapshot};

use super::*;
use crate::config::Timeouts;
use crate::packet::Framing;
use crate::pipeline::EngineConfig;
use crate::port::Port;
use crate::testing::builder::{self, Addresses, Tcp, flags};
use crate::testing::validate;
use crate::testing::world::{self, BACKEND, NO_BACKENDS, SERVICE};
use crate::testing::{MemFrame, MemPort};
use crate::worker::handoff;

const FRAMES: usize = 2048;
const HANDOFF_FRAMES: usize = 8;

/// Workers of one balancer, stepped by hand.
struct Team {
    workers: Vec<Worker<MemPort>>,
    inboxes: Vec<Arc<Inbox>>,
    stats: Vec<Arc<WorkerStats>>,
    now: Timestamp,
}

/// The ends of the rings for packets that are handed over, and for those that are passed on, by worker.
fn meshes(bells: &[Arc<Doorbell>]) -> impl Iterator<Item = [Handoff<MemFrame>; 2]> {
    let [handoffs, overflows] = [(); 2].map(|()| handoff::mesh(bells, HANDOFF_FRAMES));
    handoffs.into_iter().zip(overflows).map(<[_; 2]>::from)
}

impl Team {
    /// All know one snapshot: TCP and UDP at [`SERVICE`] with one backend, TCP at [`NO_BACKENDS`].
    fn new(workers: u16) -> Self {
        Self::with(workers, Framing::RawIp, 1000, snapshot)
    }

    /// Each with a table of `flows` flows; all know the first snapshot.
    fn with(workers: u16, framing: Framing, flows: u32, snapshot: impl Fn(u64) -> Snapshot) -> Self {
        let inboxes: Vec<_> = (0..workers).map(|_| Arc::new(Inbox::new().unwrap())).collect();
        let bells: Vec<_> = inboxes.iter().map(|inbox| Arc::clone(&inbox.bell)).collect();
        let stats: Vec<Arc<WorkerStats>> = (0..workers).map(|_| Arc::default()).collect();
        let workers = (0..workers)
            .zip(meshes(&bells))
            .map(|(number, handoffs)| {
                let config = EngineConfig {
                    worker: number,
                    workers,
                    flows,
                    client_flows: None,
                    timeouts: Timeouts::default(),
                    seed: 7,
                    owner_key: OwnerKey::from_seed(7),
                    framing,
                };
                let stats = Arc::clone(&stats[usize::from(number)]);
                let events = Arc::new(ArrayQueue::new(16));
                let engine = Engine::new(&config, Arc::new(snapshot(0)), Arc::clone(&stats), events).unwrap();
                let inbox = Arc::clone(&inboxes[usize::from(number)]);
                Worker::new(MemPort::new(FRAMES), engine, handoffs, None, inbox, stats)
            })
            .collect();
        let mut team = Self {
            workers,
            inboxes,
            stats,
            now: Timestamp(1_000_000_000),
        };
        for inbox in &team.inboxes {
            inbox.publish(Arc::new(snapshot(1)));
        }
        team.settle();
        team
    }

    /// Steps all workers until none has anything to do.
    fn settle(&mut self) {
        while (0..self.workers.len()).any(|worker| self.step(worker)) {}
    }

    fn step(&mut self, worker: usize) -> bool {
        self.now = self.now + Duration::from_micros(10);
        self.workers[worker].step(self.now)
    }

    fn port(&mut self, worker: usize) -> &mut MemPort {
        &mut self.workers[worker].port
    }

    /// One packet in, and what comes out of any worker.
    fn send(&mut self, worker: usize, packet: &[u8]) -> Vec<Vec<u8>> {
        assert!(self.port(worker).push_packet(packet));
        self.settle();
        self.transmitted().concat()
    }

    fn transmitted(&mut self) -> Vec<Vec<Vec<u8>>> {
        self.workers
            .iter_mut()
            .map(|worker| worker.port.take_transmitted())
            .collect()
    }

    fn sum(&self, counter: impl Fn(&WorkerStats) -> &Counter) -> u64 {
        self.stats.iter().map(|stats| counter(stats).get()).sum()
    }

    fn drops(&self, reason: DropReason) -> u64 {
        let services = (0..3).map(ServiceSlot);
        self.sum(|stats| &stats.drops[reason.index()])
            + services
                .map(|slot| self.sum(|stats| &stats.service(slot).drops[reason.index()]))
                .sum::<u64>()
    }

    fn all_drops(&self) -> u64 {
        DropReason::ALL.into_iter().map(|reason| self.drops(reason)).sum()
    }

    /// Stops all workers; what was sent meanwhile. Panics if a frame is missing.
    fn close(self) -> Vec<Vec<u8>> {
        let mut ports: Vec<_> = self.workers.into_iter().map(|worker| worker.close().0).collect();
        let sent = ports.iter_mut().flat_map(MemPort::take_transmitted).collect();
        for port in &ports {
            assert_eq!(
                (port.free_frames(), port.frames_in_hand(), port.lost()),
                (FRAMES, 0, 0)
            );
        }
        sent
    }
}

fn snapshot(generation: u64) -> Snapshot {
    world::snapshot(generation, Link::RawIp)
}

fn request(client_port: u16, payload: &[u8]) -> Vec<u8> {
    builder::udp(
        Addresses::raw(&format!("172.16.1.100:{client_port}"), SERVICE),
        payload,
    )
}

fn segment(bits: u8, to: &str, payload: &[u8]) -> Vec<u8> {
    builder::tcp(
        Addresses::raw("172.16.1.100:40000", to),
        &Tcp::flags(bits),
        payload,
    )
}

/// The backend's reply to a translated request.
fn reply(to: &[u8]) -> Vec<u8> {
    let source = format!("172.16.1.103:{}", ports(to).0);
    builder::udp(Addresses::raw(BACKEND, &source), b"reply")
}

fn ports(packet: &[u8]) -> (u16, u16) {
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    (port(20), port(22))
}

fn payload(packet: &[u8]) -> Vec<u8> {
    match SlicedPacket::from_ip(packet).unwrap().transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.payload().to_vec(),
        Some(TransportSlice::Udp(udp)) => udp.payload().to_vec(),
        other => panic!("{other:?} has no payload here"),
    }
}

#[test]
fn a_request_and_its_reply_pass() {
    let mut team = Team::new(1);
    let out = team.send(0, &request(40_000, b"request"));
    assert_eq!(out.len(), 1);
    assert_eq!(ports(&out[0]).1, 8081);
    let back = team.send(0, &reply(&out[0]));
    assert_eq!(back.len(), 1);
    assert_eq!(ports(&back[0]), (8080, 40_000));
    team.step(0);
    let stats = &team.stats[0];
    assert_eq!(
        (stats.received.get(), stats.transmitted.get(), stats.bursts.get()),
        (2, 2, 2)
    );
    assert!(stats.busy_nanos.get() > 0);
    assert_eq!(stats.heartbeat.get(), team.now.0);
    assert_eq!(stats.frames_free.get(), FRAMES as u64);
    team.close();
}

#[test]
fn a_reply_at_the_wrong_worker_is_handed_over() {
    let mut team = Team::new(2);
    let out = team.send(0, &request(40_000, b"request"));
    assert!(team.port(1).push_packet(&reply(&out[0])));
    team.step(1);
    assert_eq!(team.stats[1].handoffs.get(), 1);
    team.step(0);
    let [by_owner, by_other] = &team.transmitted()[..] else {
        unreachable!()
    };
    assert_eq!((by_owner.len(), by_other.len()), (1, 0));
    assert_eq!(ports(&by_owner[0]), (8080, 40_000));
    assert_eq!(team.stats[0].received.get(), 1, "received counts the queue only");
    team.close();
}

#[test]
fn packets_for_a_full_handoff_ring_are_dropped_and_counted() {
    let mut team = Team::new(2);
    let out = team.send(0, &request(40_000, b"request"));
    for _ in 0..HANDOFF_FRAMES + 3 {
        assert!(team.port(1).push_packet(&reply(&out[0])));
    }
    team.step(1);
    assert_eq!(team.drops(DropReason::HandoffFull), 3);
    assert_eq!(team.stats[1].handoffs.get(), HANDOFF_FRAMES as u64);
    // Those in the ring return to their port although their owner never reads them.
    team.close();
}

#[test]
fn a_reject_is_sent_and_the_rest_of_its_packet_is_released() {
    let mut team = Team::new(1);
    let syn = segment(flags::SYN, NO_BACKENDS, &[0; 5000]);
    let out = team.send(0, &syn);
    assert_eq!(out.len(), 1);
    assert_eq!(ports(&out[0]), (9090, 40_000));
    assert_eq!(team.drops(DropReason::NoBackend), 1);
    team.close();
}

#[test]
fn a_super_packet_is_segmented() {
    let mut team = Team::new(1);
    team.send(0, &segment(flags::SYN, SERVICE, b""));
    let bytes: Vec<u8> = (0..=250).cycle().take(60_000).collect();
    let out = team.send(0, &segment(flags::ACK, SERVICE, &bytes));
    assert!(out.len() > 40);
    for packet in &out {
        assert!(packet.len() <= 1500);
        validate::assert_valid(packet, false);
    }
    assert_eq!(
        out.iter()
            .map(|packet| payload(packet))
            .collect::<Vec<_>>()
            .concat(),
        bytes
    );
    assert_eq!(team.stats[0].segmented.get(), 1);
    assert_eq!(team.stats[0].transmitted.get(), 1 + out.len() as u64);
    team.close();
}

#[test]
fn a_super_packet_is_dropped_whole_without_frames_for_its_segments() {
    let mut team = Team::new(1);
    team.send(0, &segment(flags::SYN, SERVICE, b""));
    team.port(0).set_allocations(20);
    let out = team.send(0, &segment(flags::ACK, SERVICE, &[1; 60_000]));
    assert!(out.is_empty());
    assert_eq!(team.drops(DropReason::UmemExhausted), 1);
    team.close();
}

#[test]
fn garbage_is_counted_and_its_frames_are_released() {
    let mut team = Team::new(1);
    for garbage in [&b"x"[..], &[0x45; 19], &[0x60; 4000], &[0xff; 100]] {
        assert!(team.send(0, garbage).is_empty());
    }
    assert_eq!(team.all_drops(), 4);
    team.close();
}

#[test]
fn packets_wait_for_a_full_transmit_ring_up_to_the_backlog() {
    let mut team = Team::new(1);
    team.port(0).set_transmit_room(0);
    for number in 0..600_u16 {
        assert!(team.port(0).push_packet(&request(40_000, &number.to_be_bytes())));
    }
    team.settle();
    assert_eq!(team.drops(DropReason::TxRingFull), 600 - BACKLOG as u64);
    assert_eq!(team.stats[0].transmitted.get(), 0);
    team.port(0).set_transmit_room(usize::MAX);
    team.step(0);
    let out = team.transmitted().concat();
    let numbers: Vec<_> = out.iter().map(|packet| payload(packet)).collect();
    let expected: Vec<_> = (0..512_u16).map(|number| number.to_be_bytes().to_vec()).collect();
    assert_eq!(numbers, expected);
    assert_eq!(team.stats[0].transmitted.get(), BACKLOG as u64);
    team.close();
}

#[test]
fn a_new_snapshot_is_taken_between_bursts_and_the_old_one_given_back() {
    let mut team = Team::new(1);
    let second = Arc::new(snapshot(2));
    let old = Arc::downgrade(&second);
    team.inboxes[0].publish(second);
    assert_eq!(team.stats[0].generation.get(), 1);
    assert!(team.step(0));
    assert_eq!(team.stats[0].generation.get(), 2);
    team.inboxes[0].publish(Arc::new(snapshot(3)));
    assert!(team.step(0));
    assert_eq!(team.stats[0].generation.get(), 3);
    assert!(old.upgrade().is_some(), "freed by the control side only");
    team.inboxes[0].publish(Arc::new(snapshot(4)));
    assert!(old.upgrade().is_none());
    team.close();
}

#[test]
fn flow_queries_are_answered_one_per_round() {
    let mut team = Team::new(1);
    team.send(0, &request(40_000, b"request"));
    let (answer, answers) = crossbeam::channel::bounded(2);
    for _ in 0..2 {
        let accepted = team.inboxes[0].query(FlowQuery {
            cursor: 0,
            scan: 10_000,
            answer: answer.clone(),
        });
        assert!(accepted);
    }
    team.step(0);
    assert_eq!(answers.len(), 1);
    let slice = answers.recv().unwrap();
    assert_eq!(slice.flows.len(), 1);
    assert_eq!(slice.flows[0].client_port, 40_000);
    team.step(0);
    assert_eq!(answers.len(), 1);
    team.close();
}

#[test]
fn a_sleeping_worker_wakes_for_the_control_side_and_stops() {
    let mut team = Team::new(1);
    let worker = team.workers.remove(0);
    let thread = spawn(0, worker, Pinning::default()).unwrap();
    let mut generation = 1;
    // Until it was woken from sleep at least once.
    while team.stats[0].wakeups.get() == 0 {
        generation += 1;
        team.inboxes[0].publish(Arc::new(snapshot(generation)));
        while team.stats[0].generation.get() < generation {
            std::thread::yield_now();
        }
        std::thread::sleep(2 * quota::BUSY_POLL_TIMEOUT);
    }
    team.inboxes[0].stop();
    team.workers.push(thread.join().unwrap());
    team.close();
}

#[test]
fn a_worker_whose_queue_waits_for_frames_sleeps_shortly() {
    let mut team = Team::new(1);
    assert!(!team.workers[0].is_unfinished());
    team.port(0).set_lacks_frames(true);
    assert!(team.workers[0].is_unfinished());
    team.port(0).set_lacks_frames(false);
    team.port(0).set_transmit_room(0);
    team.send(0, &request(40_000, b"request"));
    assert!(team.workers[0].is_unfinished(), "a packet waits to be sent");
    team.close();
}

/// A port with a defect.
struct Broken;

impl Port for Broken {
    type Frame = MemFrame;

    fn receive(&mut self, _: &mut Vec<MemFrame>, _: usize) -> usize {
        panic!("a defect, for a test")
    }

    fn transmit_room(&mut self) -> usize {
        0
    }

    fn transmit(&mut self, _: &mut Vec<MemFrame>) {}

    fn allocate(&mut self) -> Option<MemFrame> {
        None
    }

    fn release(&mut self, _: MemFrame) {}

    fn free_frames(&self) -> usize {
        0
    }

    fn outstanding<'a>(_: impl Iterator<Item = &'a Self> + Clone) -> usize {
        0
    }
}

#[test]
fn a_panic_ends_the_workers_thread() {
    let mut team = Team::new(1);
    let Worker {
        engine,
        handoff,
        overflow,
        inbox,
        stats,
        ..
    } = team.workers.remove(0);
    let thread = spawn(
        0,
        Worker::new(Broken, engine, [handoff, overflow], None, inbox, stats),
        Pinning::default(),
    )
    .unwrap();
    assert!(thread.join().is_err());
}
