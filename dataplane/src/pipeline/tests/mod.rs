//! The engine as a table: packets in, verdicts and packets out, on virtual time.

mod affinity;
mod burst;
mod capture;
mod capture_bursts;
mod capture_shed;
mod client_address;
mod crowded;
mod fast;
mod fast_model;
mod feed;
mod forged;
mod fragments;
mod icmp;
mod lifecycle;
mod local_client;
mod max_flows;
mod nat;
mod orphan;
mod overflow;
mod overload;
mod path_mtu;
mod ports;
mod properties;
mod reattach;
mod routes;
mod sctp;
mod seen;
mod selection_query;
mod setup;
mod shed;
mod shortcut;
mod source_ranges;
mod workers;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use vl3lb_common::addr::{from_octets, to_octets};
use vl3lb_common::flow_query::WorkerEvent;
use vl3lb_common::hash::OwnerKey;
use vl3lb_common::next_hop::{Link, NextHops, Route, RouteKind};
use vl3lb_common::schedule::{Pool, Scheduler};
use vl3lb_common::stats::WorkerStats;
use vl3lb_common::{
    BackendSlot, BackendState, DropReason, Duration, MacAddr, Protocol, ServiceKey, ServiceSlot, Snapshot,
    Timestamp,
};

use super::{Engine, EngineConfig, Origin, Ticket, Verdict};
use crate::config::Timeouts;
use crate::flow::{Direction, Overflow, PlacedFlows, ReplyKey};
use crate::packet::Framing;
use crate::port::Frame;
use crate::testing::builder::{self, Addresses, Tcp, flags};
use crate::testing::conversation::Conversation;
use crate::testing::validate;
use crate::testing::{MemFrame, frame, frames_of};
use seen::Seen;
use setup::{Setup, snapshot};

const OWN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x1b]);
const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc1]);
const BACKEND_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xbe]);
/// The NAT ports of the tests: few, so that they can be used up.
const NAT_PORTS: (u16, u16) = (20_000, 20_063);

/// One engine per worker, all with the same snapshot: `finance` on port 8080 of TCP, UDP and SCTP.
struct World {
    setup: Setup,
    engines: Vec<Engine>,
    stats: Vec<Arc<WorkerStats>>,
    snapshot: Arc<Snapshot>,
    now: Timestamp,
    /// The worker at whose queue packets come in.
    enters: u16,
    /// Fragments that wait for the first one of their datagram, and the worker where they do.
    waiting: Vec<(usize, Ticket, Origin, Vec<MemFrame>)>,
    /// The TCP connections, by client.
    conversations: RefCell<HashMap<SocketAddr, Conversation>>,
}

impl World {
    fn new(setup: Setup) -> Self {
        let snapshot = Arc::new(snapshot(&setup, 1));
        let stats: Vec<_> = (0..setup.workers)
            .map(|_| Arc::new(WorkerStats::default()))
            .collect();
        let now = Timestamp(1_000_000_000);
        let overflow = Arc::new(Overflow::default());
        let placed = Arc::new(PlacedFlows::new(setup.workers));
        let team = &stats;
        let engines = (0..setup.workers)
            .zip(&stats)
            .map(|(worker, stats)| {
                let config = EngineConfig {
                    worker,
                    workers: setup.workers,
                    flows: setup.flows,
                    client_flows: setup.client_flows,
                    timeouts: Timeouts::default(),
                    seed: u64::from(worker) + 7,
                    owner_key: OwnerKey::from_seed(7),
                    framing: setup.framing,
                };
                let events = Arc::new(ArrayQueue::new(16));
                let mut engine =
                    Engine::new(&config, Arc::clone(&snapshot), Arc::clone(stats), events).unwrap();
                engine.set_placed(Arc::clone(&placed));
                drop(engine.set_snapshot(Arc::clone(&snapshot)));
                engine.set_overflow(Arc::clone(&overflow));
                engine.set_team(team);
                engine
            })
            .collect();
        Self {
            setup,
            engines,
            stats,
            snapshot,
            now,
            enters: 0,
            waiting: Vec::new(),
            conversations: RefCell::default(),
        }
    }

    /// Publishes a snapshot changed by `change`.
    fn publish(&mut self, change: impl FnOnce(&mut Snapshot)) {
        let mut next = Snapshot::clone(&self.snapshot);
        next.generation.0 += 1;
        change(&mut next);
        self.snapshot = Arc::new(next);
        for engine in &mut self.engines {
            drop(engine.set_snapshot(Arc::clone(&self.snapshot)));
        }
    }

    /// Publishes the set-up's snapshot again with other backends.
    fn publish_backends(&mut self, backends: Vec<(&'static str, BackendState)>) {
        self.setup.backends = backends;
        let generation = self.snapshot.generation.0 + 1;
        let next = snapshot(&self.setup, generation);
        self.publish(|snapshot| *snapshot = next);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Sweeps every table several times over, each time as if the last sweep was long ago.
    fn sweep(&mut self) {
        for engine in &mut self.engines {
            for _ in 0..64 {
                engine.swept_at = Timestamp::default();
                engine.sweep(self.now);
            }
        }
    }

    fn ethernet(&self) -> bool {
        self.setup.framing == Framing::Ethernet
    }

    /// From `source` to `destination`, with this world's framing.
    fn addresses(&self, source: &str, destination: &str) -> Addresses {
        if self.ethernet() {
            Addresses::ethernet(source, destination)
        } else {
            Addresses::raw(source, destination)
        }
    }

    /// Sends a packet to a worker's queue, follows handoffs, and checks what comes out.
    fn send(&mut self, packet: &[u8]) -> (Verdict, Vec<u8>) {
        self.send_frames(vec![frame(packet)])
    }

    fn send_frames(&mut self, mut frames: Vec<MemFrame>) -> (Verdict, Vec<u8>) {
        let worker = usize::from(self.enters);
        let verdict = self.engines[worker].forward(&mut frames, Origin::Queue, self.now);
        self.follow(worker, Origin::Queue, verdict, frames)
    }

    /// Follows a packet, which came to `worker` by `origin`, to the last verdict.
    fn follow(
        &mut self,
        mut worker: usize,
        mut origin: Origin,
        mut verdict: Verdict,
        mut frames: Vec<MemFrame>,
    ) -> (Verdict, Vec<u8>) {
        // Queue, tracker of fragments, the owner under a rule of before, owner, where it overflows: four handoffs at
        // most.
        for _ in 0..5 {
            match verdict {
                Verdict::Handoff(to) | Verdict::Overflow(to) => {
                    assert_ne!(usize::from(to), worker, "a worker hands over to another one");
                    worker = usize::from(to);
                    origin = match verdict {
                        Verdict::Overflow(_) => Origin::Overflow,
                        _ => Origin::Handoff,
                    };
                    verdict = self.engines[worker].forward(&mut frames, origin, self.now);
                }
                Verdict::Wait(ticket) => {
                    self.waiting.push((worker, ticket, origin, frames));
                    return (verdict, Vec::new());
                }
                Verdict::Reject => return (Verdict::Reject, frames[0].bytes().to_vec()),
                verdict => return (verdict, frames.iter().flat_map(|f| f.bytes().to_vec()).collect()),
            }
        }
        panic!("the packet is handed round and round");
    }

    /// Goes on with fragments that need not wait any longer; what comes out.
    fn resume(&mut self) -> Vec<(Verdict, Vec<u8>)> {
        let mut out = Vec::new();
        for worker in 0..self.engines.len() {
            while let Some(release) = self.engines[worker].next_release() {
                let is_released = |held: &mut (usize, Ticket, Origin, Vec<MemFrame>)| {
                    (held.0, held.1) == (worker, release.ticket)
                };
                let released: Vec<_> = self.waiting.extract_if(.., is_released).collect();
                for (_, _, origin, mut frames) in released {
                    if let Err(reason) = release.outcome {
                        self.engines[worker].count_drop(reason);
                        continue;
                    }
                    let verdict = self.engines[worker].resume(&mut frames, origin, self.now);
                    out.push(self.follow(worker, origin, verdict, frames));
                }
            }
        }
        out
    }

    /// Sends packets; all that come out, in order.
    fn send_all(&mut self, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for packet in packets {
            out.push(self.send(packet));
            out.extend(self.resume());
        }
        let is_sent = |(verdict, _): &(Verdict, Vec<u8>)| *verdict == Verdict::Transmit;
        out.into_iter()
            .filter(is_sent)
            .map(|(_, packet)| packet)
            .collect()
    }

    /// Sends a packet that must come out, valid, and returns how it looks then.
    fn forward(&mut self, packet: &[u8]) -> Seen {
        let (verdict, out) = self.send(packet);
        assert_eq!(verdict, Verdict::Transmit);
        validate::assert_valid(&out, self.ethernet());
        Seen::of(&out, self.ethernet())
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        let service = |stats: &WorkerStats| {
            (0..3)
                .map(|slot| stats.service(ServiceSlot(slot)).drops[reason.index()].get())
                .sum::<u64>()
        };
        self.stats
            .iter()
            .map(|stats| stats.drops[reason.index()].get() + service(stats))
            .sum()
    }

    /// All reasons counted so far.
    fn drops(&self) -> Vec<DropReason> {
        DropReason::ALL
            .into_iter()
            .filter(|&reason| self.dropped(reason) > 0)
            .collect()
    }

    fn flows(&self) -> u32 {
        self.engines
            .iter()
            .map(|engine| engine.tables.flows.table().len())
            .sum()
    }

    /// A TCP packet of the client with these flags.
    fn client_tcp(&self, client: &str, bits: u8, payload: &[u8]) -> Vec<u8> {
        let service = if client.starts_with('[') {
            "[2001:db8::67]:8080"
        } else {
            "172.16.1.103:8080"
        };
        let mut conversations = self.conversations.borrow_mut();
        let conversation = conversations.entry(client.parse().unwrap()).or_default();
        let header = conversation.header(Direction::In, bits, payload.len());
        builder::tcp(self.addresses(client, service), &header, payload)
    }

    fn client_udp(&self, client: &str, payload: &[u8]) -> Vec<u8> {
        let service = if client.starts_with('[') {
            "[2001:db8::67]:8080"
        } else {
            "172.16.1.103:8080"
        };
        builder::udp(self.addresses(client, service), payload)
    }

    /// A TCP packet of the backend in answer to what it saw.
    fn backend_tcp(&self, seen: &Seen, bits: u8, payload: &[u8]) -> Vec<u8> {
        let (source, destination) = (seen.destination.to_string(), seen.source.to_string());
        let mut conversations = self.conversations.borrow_mut();
        let conversation = conversations.entry(self.client_of(seen)).or_default();
        let header = conversation.header(Direction::Out, bits, payload.len());
        builder::tcp(self.addresses(&source, &destination), &header, payload)
    }

    /// The client of the flow in which the backend saw this, or what the backend saw if it has none any more.
    fn client_of(&self, seen: &Seen) -> SocketAddr {
        let table = |engine: &Engine| {
            let table = engine.tables.flows.table();
            let own = table.find_local(&to_octets(seen.source.ip()))?;
            let key = |local| ReplyKey {
                backend: to_octets(seen.destination.ip()),
                backend_port: seen.destination.port(),
                local,
                nat_port: seen.source.port(),
                protocol: Protocol::Tcp.number(),
            };
            let locals = [Some(own), table.local_clients(own)].into_iter().flatten();
            let found = locals.map(key).find_map(|key| table.reply(&key, self.now));
            let entry = table.entry(found?);
            Some(SocketAddr::new(from_octets(entry.client), entry.client_port))
        };
        self.engines.iter().find_map(table).unwrap_or(seen.source)
    }

    fn backend_udp(&self, seen: &Seen, payload: &[u8]) -> Vec<u8> {
        let (source, destination) = (seen.destination.to_string(), seen.source.to_string());
        builder::udp(self.addresses(&source, &destination), payload)
    }

    /// Opens a TCP connection with all three packets; how the backend sees the client.
    fn connect(&mut self, client: &str) -> Seen {
        let syn = self.client_tcp(client, flags::SYN, b"");
        let seen = self.forward(&syn);
        let syn_ack = self.backend_tcp(&seen, flags::SYN | flags::ACK, b"");
        self.forward(&syn_ack);
        let ack = self.client_tcp(client, flags::ACK, b"");
        self.forward(&ack);
        seen
    }
}
