//! TCP connections and SCTP associations that end here and not at their ends, which are to be reset: both, if the backend has died or the NAT port is the kernel's now; the backend,
//! if a half-open connection made room for another one. Else that one's SYN meets the former connection there if it has
//! its NAT port, and is refused until it is repeated.

use std::collections::VecDeque;

use vl3lb_common::Timestamp;

use super::endpoint::Endpoint;
use super::entry::HotEntry;
use super::inserted::header_len;
use super::state::{Direction, State};

/// A connection that ended here and not at its ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Orphan {
    pub entry: HotEntry,
    pub backend: Endpoint,
    /// TCP: the next sequence number, by sender, as that one counts.
    next: [u32; 2],
    /// What the backend counts more than the client.
    inserted: u32,
    /// The client gets a reset too.
    pub has_client: bool,
}

impl Orphan {
    pub(super) fn new(entry: HotEntry, backend: Endpoint) -> Self {
        let next = [Direction::In, Direction::Out].map(|sender| entry.sequence.end(sender));
        let is_sent = entry.has_header() && !matches!(entry.state(), State::Opening | State::Answered);
        Self {
            inserted: if is_sent { header_len(&entry) } else { 0 },
            entry,
            backend,
            next,
            has_client: true,
        }
    }

    /// A half-open connection: only the backend has accepted it.
    pub(super) fn half_open(entry: HotEntry, backend: Endpoint) -> Self {
        Self {
            has_client: false,
            ..Self::new(entry, backend)
        }
    }

    /// The sequence number that the receiver of `sender`'s segments waits for, unless some were lost.
    pub(crate) const fn next(&self, sender: Direction) -> u32 {
        match sender {
            Direction::In => self.next[0].wrapping_add(self.inserted),
            Direction::Out => self.next[1],
        }
    }

    /// What the receiver of `sender`'s segments has acknowledged, as the sender counts.
    pub(crate) const fn acknowledged(&self, sender: Direction) -> u32 {
        self.next[sender as usize]
    }
}

/// Connections that wait for their resets, bounded.
#[derive(Debug)]
pub(super) struct Orphans {
    waiting: VecDeque<Orphan>,
    /// The window of time in which half-open connections are counted, and their number.
    window: u64,
    half_open: u32,
}

/// Length of a window.
const WINDOW_NANOS: u64 = 10_000_000;
/// Half-open connections that are reset in a window: 20,000 a second, as many as other resets.
const MOST_HALF_OPEN: u32 = 200;

impl Orphans {
    /// More than one sweep finds.
    const MOST: usize = 512;

    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::with_capacity(Self::MOST),
            window: 0,
            half_open: 0,
        }
    }

    /// Adds one if there is room. Else its ends are reset when they send.
    pub(super) fn push(&mut self, orphan: Orphan) {
        if self.waiting.len() < Self::MOST {
            self.waiting.push_back(orphan);
        }
    }

    /// Adds a half-open one, within a limit: a flood of SYNs evicts one with each. Half of the room is kept for others.
    pub(super) fn push_half_open(&mut self, orphan: Orphan, now: Timestamp) {
        let window = now.0 / WINDOW_NANOS;
        if self.window != window {
            (self.window, self.half_open) = (window, 0);
        }
        if self.half_open < MOST_HALF_OPEN && self.waiting.len() < Self::MOST / 2 {
            self.half_open += 1;
            self.push(orphan);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Orphan> {
        self.waiting.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
