//! The packet logic: decides about a packet in a sequence of named steps.
//!
//! [`Engine`] sees bytes, time and tables, and returns a [`Verdict`]; it owns no socket and reads no clock, so tests,
//! benchmarks and fuzzers run exactly this code. One engine belongs to one worker. Every packet that is not forwarded
//! is counted under a reason, here or by the worker.
//!
//! | step | file | does |
//! |---|---|---|
//! | batch | `batch.rs` | takes a burst in groups, so that the cache misses of a group overlap |
//! | classify | `classify.rs` | parses; separates packets of flows, of the slow path, and strays |
//! | shortcut | `shortcut.rs` | forwards plain packets of flows that go on as they are; all others go on here |
//! | decide | `decide.rs` | connects the next steps: a known flow, an ended one, none |
//! | look up | `lookup.rs` | finds the packet's flow: reply, request or none |
//! | admit | `admit.rs`, `syn.rs`, `select.rs`, `early_selection.rs` | opens a flow for a request without one: source ranges, backend, NAT port |
//! | forecast | `selection_query.rs` | answers the control side which backend a new flow would get, by the functions of `admit` |
//! | overload | `overload.rs`, `proven.rs`, `refused_syns.rs`, `known_flows.rs` | which new flows, and packets of none, are refused while a flood is more than the worker can take |
//! | local client | `local_client.rs` | packets from and to clients in the balancer's own network namespace |
//! | translate | `translate.rs` | moves the flow's state, rewrites the packet, counts it |
//! | client address | `client_address.rs` | puts a header before the client's stream, and renumbers what follows |
//! | emit | `emit.rs`, `next_hop.rs`, `size.rs`, `divide.rs` | MAC addresses; divides or refuses what is too long |
//! | overflow | `overflow.rs` | passes what has no room at a client's home to another worker |
//! | orphan | `orphan.rs` | resets both ends of a connection whose backend has died, and the backend of a half-open one that made room |
//! | slow path | `slow_path/` | fragments, ICMP, SCTP, packets to an address that is gone |
//! | promote | `promotion.rs` | hands established flows to the in-kernel path, and takes them back |
//! | capture | `capture/` | copies packets for captures, while there are any |
//! | unsent | `unsent.rs` | counts what the worker could not send |
//! | reject | `reject.rs`, `limit.rs` | ICMP errors and TCP resets, rate-limited |
//!
//! Steps get what they need: the packet's [`Context`], the [`Policy`] of the snapshot in use, the worker's [`Tables`]
//! and its [`Signals`] to the control side. They reject a packet by returning a [`DropContext`].
//!
//! The steps of a known flow are `inline(always)`: otherwise the compiler makes calls of them and passes packet, key
//! and flow through memory, which costs 5 to 10% of the whole.

mod admit;
mod batch;
mod capture;
mod classify;
mod client_address;
mod decide;
mod divide;
mod early_selection;
mod emit;
mod identification;
mod known_flows;
mod limit;
mod local_client;
mod lookup;
mod next_hop;
mod orphan;
mod overflow;
mod overload;
mod path_mtu;
mod placement;
mod policy;
pub(crate) mod promotion;
mod proven;
mod refusal;
mod refused_syns;
mod reject;
mod select;
mod selection_query;
mod services;
mod shortcut;
mod size;
mod slow_path;
mod syn;
#[cfg(test)]
mod tests;
mod translate;
mod tuple;
mod unsent;

use std::io;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use vl3lb_common::flow_feed::FlowFeed;
use vl3lb_common::flow_query::{FlowSlice, WorkerEvent};
use vl3lb_common::hash::OwnerKey;
use vl3lb_common::stats::WorkerStats;
use vl3lb_common::{BackendSlot, DropReason, Duration, Snapshot, Timestamp};

use crate::config::Timeouts;
use crate::flow::{FeedWriter, Flows, Overflow, PlacedFlows};
use crate::packet::{self, Framing, Parsed, TcpFlags, TcpSegment};
use crate::port::Frame;
use crate::shed::{Shed, ShedMemory};

use batch::Prepared;
use capture::Capturing;
pub(crate) use client_address::Insertion;
use identification::Identifications;
use limit::Limits;
use lookup::Lookup;
use overload::Overload;
use path_mtu::PathMtus;
use policy::Policy;
use select::Selector;
use slow_path::FragmentTable;
pub(crate) use slow_path::Ticket;
use tuple::Tuple;
pub(crate) use unsent::Unsent;

/// The decision about a packet.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Translated in place: send all its frames.
    Transmit,
    /// Translated in place, but longer than the MTU: segment it with [`Engine::segment`].
    Segment { mss: u16 },
    /// Translated in place, but longer than the next hop takes: fragment it with [`Engine::fragment_packet`].
    Fragment { mtu: u16 },
    /// Translated in place, but without what its flow carries for the backend: put it in with [`Engine::insert`], in
    /// segments with a payload of at most `limit` bytes; a datagram in packets of at most so many.
    Insert { what: Insertion, limit: u16 },
    /// Translated in place for a client in the balancer's own network namespace: pass it to the kernel.
    Deliver,
    /// The first frame now holds an ICMP error or a TCP reset for the sender: send it, or pass it to the kernel if it
    /// [is local](crate::port::Frame::is_local); release the others.
    Reject,
    /// A fragment whose ports are not known yet: keep its frames until [`Engine::next_release`] returns the ticket.
    Wait(Ticket),
    /// The packet's flow belongs to that worker.
    Handoff(u16),
    /// The packet's client has no room at this worker, its home: that worker has its flow, or opens it. Or the packet is sent
    /// to a service's port, which is that worker's NAT port of an older flow.
    Overflow(u16),
    /// Counted; release its frames.
    Drop,
}

/// How a packet came to this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From the receive queue.
    Queue,
    /// From another worker, because this one owns the flow.
    Handoff,
    /// From the client's home, which has no room for its flows, or from the owner of requests: see [`Verdict::Overflow`].
    Overflow,
}

/// A TCP, UDP or SCTP packet on its way through the steps.
#[derive(Debug, Clone, Copy)]
struct Context<'a> {
    parsed: &'a Parsed,
    lookup: &'a Lookup,
    origin: Origin,
    now: Timestamp,
}

impl Context<'_> {
    #[inline(always)]
    const fn tuple(&self) -> Tuple {
        self.lookup.tuple
    }

    /// The TCP flags; none for UDP. An INIT of SCTP has SYN, its other packets ACK.
    #[inline(always)]
    const fn tcp_flags(&self) -> TcpFlags {
        self.lookup.flags
    }

    /// The TCP segment of a packet, unless it is a fragment.
    #[inline(always)]
    fn segment<F: Frame>(&self, packet: &[F]) -> Option<TcpSegment> {
        packet::tcp_segment(packet.first()?.bytes(), self.parsed)
    }
}

/// The parameters of a worker's engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    pub worker: u16,
    pub workers: u16,
    /// Capacity of this worker's flow table; that of its affinity table follows from it.
    pub flows: u32,
    /// Flows of one client at most, all workers together. `None`: as many as leave room for others.
    pub client_flows: Option<u32>,
    pub timeouts: Timeouts,
    /// Seeds port selection and the flow table's hash.
    pub seed: u64,
    /// The secret of the hash that selects a flow's worker, the same for all workers and the steer program.
    pub owner_key: OwnerKey,
    pub framing: Framing,
}

/// The state of a worker between packets.
#[derive(Debug)]
struct Tables {
    flows: Flows,
    fragments: FragmentTable,
    identifications: Identifications,
    path_mtus: PathMtus,
    selector: Selector,
    overload: Overload,
}

/// The counters and events of a worker for the control side.
#[derive(Debug)]
struct Signals {
    stats: Arc<WorkerStats>,
    /// Of all workers, its own too.
    team: Vec<Arc<WorkerStats>>,
    events: Arc<ArrayQueue<WorkerEvent>>,
}

impl Signals {
    /// Flows that all workers have to a backend. The other workers go on meanwhile: the sum may be off by the flows that
    /// they open or end in that moment. O(workers).
    fn flows_of(&self, backend: BackendSlot) -> u64 {
        let workers = self.team.iter();
        workers.map(|worker| worker.backend(backend).flows.get()).sum()
    }
}

/// Within this time a sweep passes the whole flow table.
const SWEEP_PERIOD: Duration = Duration::from_secs(60);
/// A sweep passes the whole flow table this soon if that is [`SWEPT_AT_ONCE`] entries per call at most: sooner, it would find
/// the same few flows again and again.
const SHORTEST_SWEEP_PERIOD: Duration = Duration::from_millis(250);
/// Table entries below which a sweep waits until more are due.
const FEWEST_SWEPT: usize = 16;
/// Table entries that a frequent sweep looks at in one call: under load, a million in two seconds.
const SWEPT_AT_ONCE: usize = 256;
/// Table entries that a sweep looks at in one call: some 0.3 ms. A worker that wakes once a second sweeps two million in
/// a minute.
const MOST_SWEPT: usize = 32_768;

/// A worker's packet logic: its tables, the snapshot in use and its counters.
pub struct Engine {
    policy: Policy,
    tables: Tables,
    limits: Limits,
    signals: Signals,
    timeouts: Timeouts,
    /// When the last sweep was.
    swept_at: Timestamp,
    /// Room for the packets that [`Engine::forward_burst`] looks at together.
    group: Box<[Prepared]>,
    /// Places of the flow table to be swept without delay, because a backend has died.
    urgent: usize,
    /// When the counters of the in-kernel path are to be read, and whether that is under way.
    fold_due: Timestamp,
    folding: bool,
    /// When all packets that had arrived were sent.
    drained_at: Timestamp,
    capture: Capturing,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("worker", &self.policy.worker)
            .field("flows", &self.tables.flows.table().len())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Allocates the flow table and the affinity table.
    ///
    /// # Errors
    ///
    /// The tables' memory cannot be mapped.
    pub fn new(
        config: &EngineConfig,
        snapshot: Arc<Snapshot>,
        stats: Arc<WorkerStats>,
        events: Arc<ArrayQueue<WorkerEvent>>,
    ) -> io::Result<Self> {
        let nat_ports = snapshot.nat_ports.of_worker(config.worker, config.workers);
        let mut flows = Flows::new(
            config.flows,
            nat_ports,
            config.seed,
            config.timeouts,
            Arc::clone(&stats),
        )?;
        let policy = Policy::new(config, snapshot);
        flows.use_ports(&policy.flow_ports);
        Ok(Self {
            policy,
            tables: Tables {
                flows,
                fragments: FragmentTable::default(),
                identifications: Identifications::new(config.worker, config.workers, config.seed),
                path_mtus: PathMtus::default(),
                selector: Selector::new(config.seed),
                overload: Overload::new(),
            },
            limits: Limits::default(),
            signals: Signals {
                team: vec![Arc::clone(&stats)],
                stats,
                events,
            },
            timeouts: config.timeouts,
            swept_at: Timestamp::default(),
            group: vec![Prepared::EMPTY; batch::GROUP].into(),
            urgent: 0,
            fold_due: Timestamp::default(),
            folding: false,
            drained_at: Timestamp::default(),
            capture: Capturing::default(),
        })
    }

    /// Counts the flows of all these workers, of which this is one, towards limits of flows per backend.
    pub fn set_team(&mut self, stats: &[Arc<WorkerStats>]) {
        self.signals.team = stats.to_vec();
    }

    /// Switches to `snapshot` and returns the one used before. Established flows go on, except those on an own
    /// address that is not in the snapshot, which end with [`CloseCause::InterfaceLost`], and those whose NAT port is the
    /// kernel's now, which end with [`CloseCause::PortTaken`].
    ///
    /// [`CloseCause::InterfaceLost`]: vl3lb_common::stats::CloseCause::InterfaceLost
    /// [`CloseCause::PortTaken`]: vl3lb_common::stats::CloseCause::PortTaken
    pub fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        self.tables.flows.set_snapshot(&snapshot);
        let before = &self.policy.snapshot.kernel_ports;
        let takes_ports =
            !Arc::ptr_eq(before, &snapshot.kernel_ports) && !snapshot.kernel_ports.is_subset(before);
        if takes_ports || orphan::has_died(&self.policy.snapshot, &snapshot) {
            self.urgent = self.tables.flows.table().sweep_len();
        }
        let former = self.policy.set_snapshot(snapshot, self.tables.flows.table());
        self.tables.flows.use_ports(&self.policy.flow_ports);
        self.review_fast_path();
        former
    }

    /// Switches to a new attachment, whose link may have another framing. Established flows go on, but the MAC
    /// addresses of their clients hold no more: each is resolved anew, or learned from the client's next packet.
    pub fn set_framing(&mut self, framing: Framing) {
        self.policy.set_framing(framing);
    }

    /// Decides about one packet and translates it in place. No allocation, no lock, no system call.
    pub fn forward<F: Frame>(&mut self, packet: &mut [F], origin: Origin, now: Timestamp) -> Verdict {
        let mut prepared = Prepared::EMPTY;
        prepared.classify(&self.policy, self.tables.flows.table(), packet);
        if self.capture.is_active() {
            return self.decide_captured(packet, &prepared, origin, now);
        }
        self.decide(packet, &prepared, origin, now)
    }

    /// Ends flows that expired or lost backend or address, and publishes the gauges. A call looks at as many table entries as
    /// [`Self::entries_due`] says.
    pub fn sweep(&mut self, now: Timestamp) {
        let budget = self.entries_due(now.since(self.swept_at));
        if budget > 0 {
            self.swept_at = now;
        }
        self.urgent = self.urgent.saturating_sub(budget);
        let (policy, closing) = (&self.policy, self.timeouts.tcp_closing);
        self.tables.flows.sweep(now, budget, |entry| {
            policy.sweep_cause(entry, closing.saturating_sub(entry.expires_in(now)))
        });
        let flows = &self.tables.flows;
        self.policy.placement.settle(now, |service, by_client, since| {
            flows.are_gone(service, by_client, since)
        });
        self.tables.fragments.expire(now);
        self.tables.path_mtus.expire(&mut self.tables.flows, now);
    }

    /// Table entries that fall to the time since the last sweep: the whole table is swept within [`SWEEP_PERIOD`], however seldom
    /// the worker wakes, but for [`MOST_SWEPT`] entries per call. More frequent calls sweep faster, up to
    /// [`SHORTEST_SWEEP_PERIOD`], and an urgent sweep waits for nothing. 0 while few are due.
    fn entries_due(&self, since: Duration) -> usize {
        let entries = self.tables.flows.table().sweep_len();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "table sizes are far below 2^53, and times are not negative"
        )]
        let within =
            |period: Duration| (entries as f64 * since.as_secs_f64() / period.as_secs_f64()) as usize;
        let at_once = match within(SHORTEST_SWEEP_PERIOD) {
            _ if self.is_urgent() => SWEPT_AT_ONCE,
            due if due < entries.min(FEWEST_SWEPT) => return 0,
            due => due.min(SWEPT_AT_ONCE),
        };
        within(SWEEP_PERIOD).clamp(at_once, MOST_SWEPT)
    }

    /// Ends an interval of some milliseconds, in which the worker `received` packets, and the kernel `lost` packets since
    /// it found no room for them. By this the engine decides how many new flows it admits.
    pub fn end_interval(&mut self, received: u64, lost: u64, now: Timestamp) {
        let refused = self.tables.overload.end_interval(received, lost, now);
        if refused > 0 {
            self.signals.stats.drops[DropReason::Overload.index()].add(refused);
        }
    }

    /// Whether new flows are refused, so that intervals are to be ended in time.
    pub(crate) const fn is_overloaded(&self) -> bool {
        self.tables.overload.is_active()
    }

    /// Reports that this worker runs on another CPU core now.
    pub(crate) fn report_move(&self, from: usize, to: usize) {
        let worker = self.policy.worker;
        self.signals.report(WorkerEvent::Moved { worker, from, to });
    }

    /// Refuses new flows under overload by the steer programs of an attachment, or alone (`None`).
    pub(crate) fn set_shed(&mut self, memory: Option<&Arc<ShedMemory>>) {
        let (worker, owner_key) = (self.policy.worker, self.policy.owner_key);
        let shed = memory.map(|memory| Shed::new(Arc::clone(memory), worker, owner_key));
        self.tables.overload.set_shed(shed);
        self.sample_shed();
    }

    /// While load is shed, notes some flows, so that the program knows their packets; true if there are more.
    #[inline]
    pub(crate) fn note_flows(&mut self, now: Timestamp) -> bool {
        let Tables { flows, overload, .. } = &mut self.tables;
        overload.note_flows(flows.table(), now);
        overload.is_noting()
    }

    /// Flows from table entry `cursor` on, at most `scan` entries: see [`vl3lb_common::flow_query`].
    pub fn flow_slice(&mut self, cursor: u32, scan: u32, now: Timestamp) -> FlowSlice {
        self.tables.flows.slice(cursor, scan, now, self.policy.worker)
    }

    /// Shares the table of clients that overflow with the other workers.
    pub(crate) fn set_overflow(&mut self, overflow: Arc<Overflow>) {
        self.tables.flows.set_overflow(overflow);
    }

    /// Shares the counts of flows by placement with the other workers.
    pub(crate) fn set_placed(&mut self, placed: Arc<PlacedFlows>) {
        self.tables.flows.set_placed(placed, self.policy.worker);
    }

    /// Emits each flow that opens or closes from now on to `feed`, while it has a subscriber.
    pub fn set_flow_feed(&mut self, feed: Arc<FlowFeed>) {
        self.tables.flows.set_feed(FeedWriter {
            feed,
            worker: self.policy.worker,
            timeouts: self.timeouts,
        });
    }

    /// Counts a packet that the worker drops.
    pub fn count_drop(&self, reason: DropReason) {
        self.signals.stats.drop_packet(None, reason);
    }

    /// Bytes of the flow table that grow with its capacity. The NAT ports' maps are not counted.
    pub fn memory_bytes(&self) -> usize {
        self.tables.flows.table().memory_bytes()
    }
}
