//! One worker's flows in the fast path.

use std::sync::Arc;
use vl3lb_common::sync::atomic::Ordering;

use vl3lb_common::Timestamp;
use vl3lb_common::hash::OwnerKey;

use super::layout::{BYTES, NUMBERS, PACKETS, USED, index_word, side, unpaired};
use super::memory::FastMemory;
use super::promotion::{self, Hop, Promotion};
use crate::flow::Direction;

/// Looks at the number of a CPU that runs the program, before its end is left for later: some microseconds.
const LOOKS: u32 = 200;
/// The same for a flow that has to leave at once, between two offers of this CPU to others.
const LOOKS_AT_ONCE: u32 = 10_000;

/// A flow cannot be taken: no record is free, or its bucket of the index is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRoom;

/// What the program did for a flow since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// By [`Direction`].
    pub(crate) packets: [u64; 2],
    /// Of IP packets.
    pub(crate) bytes: [u64; 2],
    /// The last packet, if there was one.
    pub(crate) used: Option<Timestamp>,
    /// TCP: the number behind what was sent in order, and what was acknowledged.
    pub(crate) ends: [u32; 2],
    pub(crate) acknowledged: [u32; 2],
}

impl Usage {
    /// Whether there were packets.
    pub(crate) const fn is_none(&self) -> bool {
        self.packets[0] == 0 && self.packets[1] == 0
    }
}

/// The worker's side of a record.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The flow's number in the flow table.
    flow: u32,
    /// The counters as last read.
    packets: [u64; 2],
    bytes: [u64; 2],
    /// Places of the index words; of a flow without a reply, the request's only.
    words: [Option<usize>; 2],
    /// Its place in `open`, while it is open.
    at: usize,
    /// Packets at the last look for idle flows, and looks in a row that found no more.
    looked: u64,
    idle: u32,
}

/// The part of the fast path that one worker writes.
pub(crate) struct FastTable {
    memory: Arc<FastMemory>,
    key: OwnerKey,
    /// The first record of this worker.
    first: u32,
    slots: Box<[Slot]>,
    /// By flow: its slot plus one, 0 for none.
    slot_of: Box<[u32]>,
    free: Vec<u32>,
    /// Slots that the program may use.
    open: Vec<u32>,
    /// Slots whose words are cleared, but that a program may still know.
    closing: Vec<u32>,
}

impl std::fmt::Debug for FastTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FastTable")
            .field("open", &self.open.len())
            .field("closing", &self.closing.len())
            .field("free", &self.free.len())
            .finish_non_exhaustive()
    }
}

impl FastTable {
    /// The share of `worker` among `workers` in `memory`, for a flow table of `flows` entries. `key` is that of the
    /// program's hash.
    pub(crate) fn new(
        memory: Arc<FastMemory>,
        key: OwnerKey,
        (worker, workers): (u16, u16),
        flows: u32,
    ) -> Self {
        let share = memory.record_count() / u32::from(workers.max(1));
        Self {
            key,
            first: share * u32::from(worker),
            slots: vec![Slot::default(); share as usize].into(),
            slot_of: vec![0; flows as usize].into(),
            free: (0..share).rev().collect(),
            open: Vec::with_capacity(share as usize),
            closing: Vec::with_capacity(share as usize),
            memory,
        }
    }

    /// Flows in the fast path.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether no flow is in the fast path.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether [`finish_quiet`](Self::finish_quiet) has something to do.
    pub(crate) fn has_closing(&self) -> bool {
        !self.closing.is_empty()
    }

    /// The flow at a place of the list of flows in the fast path. A flow that leaves moves another one to its place.
    pub(crate) fn flow_at(&self, place: usize) -> Option<u32> {
        Some(self.slots[*self.open.get(place)? as usize].flow)
    }

    /// Lets the program take the packets of `flow`, which has no record.
    ///
    /// # Errors
    /// No room; nothing has changed.
    pub(crate) fn open(&mut self, flow: u32, promotion: &Promotion) -> Result<(), NoRoom> {
        let number = *self.free.last().ok_or(NoRoom)?;
        let record = self.first + number;
        promotion.write(self.memory.record(record), &self.key);
        let [request, reply] = promotion.hashes(&self.key);
        let request = self.insert(request, record, Direction::In)?;
        let reply = match (!promotion.is_unreplied).then(|| self.insert(reply, record, Direction::Out)) {
            None => None,
            Some(Ok(place)) => Some(place),
            Some(Err(full)) => {
                // Programs may know the record by the first word: it is free again when they have ended.
                self.memory.index_word(request).store(0, Ordering::Release);
                self.wait();
                return Err(full);
            }
        };
        self.free.pop();
        self.slots[number as usize] = Slot {
            flow,
            packets: [0; 2],
            bytes: [0; 2],
            words: [Some(request), reply],
            at: self.open.len(),
            looked: 0,
            idle: 0,
        };
        self.slot_of[flow as usize] = number + 1;
        self.open.push(number);
        Ok(())
    }

    /// Puts a word into its bucket. Other workers do the same at the same time.
    fn insert(&self, hash: u64, record: u32, direction: Direction) -> Result<usize, NoRoom> {
        let (start, bucket) = self.memory.bucket(hash);
        let word = index_word(hash, record, direction);
        bucket
            .iter()
            .position(|place| {
                place
                    .compare_exchange(0, word, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            })
            .map(|at| start + at)
            .ok_or(NoRoom)
    }

    /// Takes a flow back: programs that start from now on do not find it. Those that run may still use it, until
    /// [`finish`](Self::finish) or [`finish_quiet`](Self::finish_quiet). Harmless if it is not in the fast path.
    pub(crate) fn close(&mut self, flow: u32) {
        let Some(number) = self.slot(flow) else { return };
        let slot = self.slots[number as usize];
        if self.open.get(slot.at) != Some(&number) {
            return;
        }
        for place in slot.words.into_iter().flatten() {
            self.memory.index_word(place).store(0, Ordering::Release);
        }
        self.open.swap_remove(slot.at);
        if let Some(&moved) = self.open.get(slot.at) {
            self.slots[moved as usize].at = slot.at;
        }
        self.slots[number as usize].at = usize::MAX;
        self.closing.push(number);
    }

    /// Takes a flow back and waits until no program knows it; then its record is free. Returns what the program did
    /// since the last look; `None` if the flow has no record.
    pub(crate) fn finish(&mut self, flow: u32) -> Option<Usage> {
        let number = self.slot(flow)?;
        self.close(flow);
        self.wait();
        self.closing.retain(|&closing| closing != number);
        Some(self.release(number))
    }

    /// Frees the records of flows that were taken back, if no program knows them any more, and gives each flow with
    /// what the program did since the last look to `finished`.
    pub(crate) fn finish_quiet(&mut self, mut finished: impl FnMut(u32, Usage)) {
        if self.closing.is_empty() || !self.memory.is_quiet(LOOKS) {
            return;
        }
        while let Some(number) = self.closing.pop() {
            let flow = self.slots[number as usize].flow;
            let usage = self.release(number);
            finished(flow, usage);
        }
    }

    fn release(&mut self, number: u32) -> Usage {
        let usage = self.read(number);
        self.slot_of[self.slots[number as usize].flow as usize] = 0;
        self.free.push(number);
        usage
    }

    /// The second half of [`finish`](Self::finish), without the wait.
    #[cfg(test)]
    pub(super) fn release_closing(&mut self, flow: u32) -> Usage {
        let number = self.slot(flow).expect("a flow that closes");
        self.closing.retain(|&closing| closing != number);
        self.release(number)
    }

    fn wait(&self) {
        while !self.memory.is_quiet(LOOKS_AT_ONCE) {
            std::thread::yield_now();
        }
    }

    /// What the program did for a flow since the last look; `None` if the flow has no record.
    pub(crate) fn usage(&mut self, flow: u32) -> Option<Usage> {
        let number = self.slot(flow)?;
        Some(self.read(number))
    }

    fn read(&mut self, number: u32) -> Usage {
        let record = self.memory.record(self.first + number);
        let slot = &mut self.slots[number as usize];
        let mut usage = Usage::default();
        let mut used = 0;
        for direction in [Direction::In, Direction::Out] {
            let (at, word) = (direction as usize, side(direction));
            let get = |place: usize| record[word + place].load(Ordering::Relaxed);
            let (packets, bytes) = (get(PACKETS), get(BYTES));
            usage.packets[at] = packets.wrapping_sub(slot.packets[at]);
            usage.bytes[at] = bytes.wrapping_sub(slot.bytes[at]);
            (slot.packets[at], slot.bytes[at]) = (packets, bytes);
            (usage.ends[at], usage.acknowledged[at]) = unpaired(get(NUMBERS));
            used = used.max(get(USED));
        }
        usage.used = (!usage.is_none()).then_some(Timestamp(used));
        usage
    }

    /// How many times in a row this was called without a packet of the flow in between, as [`usage`](Self::usage) has
    /// read them.
    pub(crate) fn idle_looks(&mut self, flow: u32) -> u32 {
        let Some(number) = self.slot(flow) else { return 0 };
        let slot = &mut self.slots[number as usize];
        let packets = slot.packets[0].wrapping_add(slot.packets[1]);
        slot.idle = if packets == slot.looked { slot.idle + 1 } else { 0 };
        slot.looked = packets;
        slot.idle
    }

    /// Gives a flow other next hops, from the program's next packet on. Harmless if it is not in the fast path.
    pub(crate) fn set_hops(&mut self, flow: u32, hops: &[Hop; 2]) {
        if let Some(number) = self.slot(flow) {
            promotion::write_hops(self.memory.record(self.first + number), hops);
        }
    }

    /// Whether the program may take the flow's packets.
    pub(crate) fn is_open(&self, flow: u32) -> bool {
        self.slot(flow)
            .is_some_and(|number| self.open.get(self.slots[number as usize].at) == Some(&number))
    }

    fn slot(&self, flow: u32) -> Option<u32> {
        self.slot_of.get(flow as usize)?.checked_sub(1)
    }
}
