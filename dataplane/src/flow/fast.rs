//! Flows in the in-kernel path ([`crate::fastpath`]): into it, out of it, and what its program did for them.
//!
//! A flow that is taken back keeps its record until no program knows it. So its entry is marked as promoted for a moment
//! longer; [`Flows::end`] waits for that before the NAT port is free.

use vl3lb_common::{BackendSlot, Protocol, ServiceSlot};

use super::accounting::traffic;
use super::lifecycle::Flows;
use super::state::{Direction, State};
use super::table::FlowId;
use crate::fastpath::{FastTable, Hop, Promotion, Usage};

/// Flows that may wait for promotion; others are nominated again by later packets.
const CANDIDATES: usize = 256;

/// A flow without a packet at so many looks in a row, twice a second, makes room for others: ten seconds.
const IDLE_LOOKS: u32 = 20;

/// The in-kernel path of a worker's flows, which may be missing.
pub(super) struct FastFlows {
    table: Option<FastTable>,
    /// Flows with enough packets.
    candidates: Vec<FlowId>,
    /// A flow is nominated when the count of its packets in a direction has none of these bits.
    pub(super) mask: u32,
    /// The next place of the list of promoted flows to be folded.
    cursor: usize,
}

impl FastFlows {
    pub(super) fn new() -> Self {
        Self {
            table: None,
            candidates: Vec::with_capacity(CANDIDATES),
            mask: u32::MAX,
            cursor: 0,
        }
    }
}

impl Flows {
    /// Begins to use an in-kernel path, whose table is new, or ends that. Flows are nominated after `after` packets in
    /// a direction, and again after as many if they are not promoted; a power of two. Waits until no program knows a
    /// flow of the former one.
    pub(crate) fn set_fast_path(&mut self, table: Option<FastTable>, after: u32) {
        while let Some(id) = self.fast_flow_at(0) {
            self.leave_fast_path(id);
        }
        while self.fast.table.as_ref().is_some_and(FastTable::has_closing) {
            self.finish_quiet();
        }
        self.fast.candidates.clear();
        self.fast.mask = if table.is_some() {
            after.next_power_of_two() - 1
        } else {
            u32::MAX
        };
        self.fast.table = table;
        self.publish_fast_len();
    }

    /// Flows in the in-kernel path.
    pub(crate) fn fast_len(&self) -> usize {
        self.fast.table.as_ref().map_or(0, FastTable::len)
    }

    /// The flow at a place of the list of those in the in-kernel path. Taking it back moves the last one there.
    pub(crate) fn fast_flow_at(&self, place: usize) -> Option<FlowId> {
        self.fast.table.as_ref()?.flow_at(place).map(FlowId)
    }

    /// Notes that a flow may be promoted.
    #[cold]
    pub(super) fn nominate(&mut self, id: FlowId) {
        let entry = self.table.entry(id);
        // The program makes no CRC32c.
        let is_sctp = entry.protocol == Protocol::Sctp.number();
        let is_possible = self.fast.table.is_some() && !entry.is_promoted() && !is_sctp;
        if is_possible && self.fast.candidates.len() < CANDIDATES {
            self.fast.candidates.push(id);
        }
    }

    /// The next flow to be promoted that is live and open.
    pub(crate) fn next_candidate(&mut self) -> Option<FlowId> {
        while let Some(id) = self.fast.candidates.pop() {
            if self.table.is_live(id) && is_promotable(self.table.entry(id).state()) {
                return Some(id);
            }
        }
        None
    }

    /// Puts an open flow into the in-kernel path. False if there is no room, or it is in it.
    pub(crate) fn promote(&mut self, id: FlowId, hops: &[Hop; 2]) -> bool {
        let entry = *self.table.entry(id);
        let endpoint = self.table.endpoint(&entry);
        let Some(table) = &mut self.fast.table else {
            return false;
        };
        if entry.is_promoted() || !is_promotable(entry.state()) {
            return false;
        }
        let sequence = &entry.sequence;
        let both = [Direction::In, Direction::Out];
        let is_tcp = entry.protocol == Protocol::Tcp.number();
        let promotion = Promotion {
            client: entry.client,
            local: self.table.local_address(entry.local),
            backend: endpoint.address,
            client_port: entry.client_port,
            service_port: entry.service_port,
            nat_port: entry.nat_port,
            backend_port: endpoint.port,
            protocol: entry.protocol,
            hops: *hops,
            ends: both.map(|side| if is_tcp { sequence.end(side) } else { 0 }),
            windows: both.map(|side| if is_tcp { sequence.window(side) } else { 0 }),
            is_unreplied: entry.state() == State::Unreplied,
        };
        if table.open(id.0, &promotion).is_err() {
            self.stats.fast_path.full.add(1);
            return false;
        }
        self.table.entry_mut(id).set_promoted(true);
        self.stats.fast_path.promoted.add(1);
        self.publish_fast_len();
        true
    }

    /// Gives a flow that is in the in-kernel path other next hops.
    pub(crate) fn set_fast_hops(&mut self, id: FlowId, hops: &[Hop; 2]) {
        if let Some(table) = &mut self.fast.table {
            table.set_hops(id.0, hops);
        }
    }

    /// Takes a flow back: packets that arrive from now on come to the worker. Harmless if it is not in the in-kernel
    /// path.
    #[cold]
    pub(crate) fn demote(&mut self, id: FlowId) {
        if let Some(table) = &mut self.fast.table {
            table.close(id.0);
        }
        self.fold(id);
        // Nearly always at once.
        self.finish_quiet();
        self.publish_fast_len();
    }

    /// Whether the program may take the flow's packets.
    pub(crate) fn is_fast(&self, id: FlowId) -> bool {
        self.fast.table.as_ref().is_some_and(|table| table.is_open(id.0))
    }

    /// A promoted flow is about to enter a state: takes it back if the worker has to see its packets then, or if the
    /// program takes those of one direction only. It is nominated again by later packets.
    #[cold]
    pub(super) fn leave_for(&mut self, id: FlowId, state: State) {
        let is_first_reply = self.table.entry(id).state() == State::Unreplied;
        if is_first_reply || !is_promotable(state) {
            self.demote(id);
        }
    }

    /// Takes a flow back and waits until no program knows it. Some 100 ns per CPU.
    #[cold]
    pub(super) fn leave_fast_path(&mut self, id: FlowId) {
        let usage = self.fast.table.as_mut().and_then(|table| table.finish(id.0));
        if let Some(usage) = usage {
            self.take_in(id, &usage);
        }
        self.table.entry_mut(id).set_promoted(false);
        self.publish_fast_len();
    }

    /// Frees the records of flows that were taken back, if no program knows them any more.
    pub(crate) fn finish_quiet(&mut self) {
        let Some(mut table) = self.fast.table.take() else {
            return;
        };
        table.finish_quiet(|flow, usage| {
            self.take_in(FlowId(flow), &usage);
            self.table.entry_mut(FlowId(flow)).set_promoted(false);
        });
        self.fast.table = Some(table);
    }

    /// Takes what the program did for the next `budget` flows into counters and timers, and takes back those that are
    /// idle. True at the end of the list.
    pub(crate) fn fold_next(&mut self, budget: usize) -> bool {
        for _ in 0..budget {
            let Some(id) = self.fast_flow_at(self.fast.cursor) else {
                self.fast.cursor = 0;
                return true;
            };
            self.fold(id);
            let table = self.fast.table.as_mut();
            if table.is_some_and(|table| table.idle_looks(id.0) >= IDLE_LOOKS) {
                self.demote(id);
            } else {
                self.fast.cursor += 1;
            }
        }
        false
    }

    /// Takes what the program did for a promoted flow into counters and timers.
    pub(super) fn fold(&mut self, id: FlowId) {
        let usage = self.fast.table.as_mut().and_then(|table| table.usage(id.0));
        if let Some(usage) = usage {
            self.take_in(id, &usage);
        }
    }

    fn take_in(&mut self, id: FlowId, usage: &Usage) {
        let Some(used) = usage.used else { return };
        let entry = *self.table.entry(id);
        let owner: (ServiceSlot, BackendSlot) = entry.owner();
        for direction in [Direction::In, Direction::Out] {
            let at = direction as usize;
            let (packets, bytes) = (usage.packets[at], usage.bytes[at]);
            let (service, backend) = traffic(&self.stats, owner, direction);
            for traffic in [service, backend, &self.stats.fast_path.traffic[at]] {
                traffic.packets.add(packets);
                traffic.bytes.add(bytes);
            }
            self.table.counters_mut(id).add(direction, packets, bytes);
        }
        if entry.protocol == Protocol::Tcp.number() {
            self.table
                .entry_mut(id)
                .sequence
                .take_in(usage.ends, usage.acknowledged);
        }
        let lifetime = self.lifetimes.of(entry.state());
        self.table.entry_mut(id).extend(used, lifetime);
    }

    fn publish_fast_len(&self) {
        self.stats.fast_path.flows.set(self.fast_len() as u64);
    }
}

/// Whether the packets that the program takes change nothing about a flow in this state.
const fn is_promotable(state: State) -> bool {
    state.is_open() || matches!(state, State::Unreplied | State::Replied)
}
