//! TCP connections whose backend has died: both ends are to be reset.

use std::collections::VecDeque;

use super::endpoint::Endpoint;
use super::entry::HotEntry;
use super::state::Direction;

/// A connection that ended here and not at its ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Orphan {
    pub entry: HotEntry,
    pub backend: Endpoint,
    /// The next sequence number, by sender.
    next: [u32; 2],
}

impl Orphan {
    pub(super) fn new(entry: HotEntry, backend: Endpoint) -> Self {
        let next = [Direction::In, Direction::Out].map(|sender| entry.sequence.end(sender));
        Self { entry, backend, next }
    }

    /// The sequence number that the receiver of `sender`'s segments waits for, unless some were lost.
    pub(crate) const fn next(&self, sender: Direction) -> u32 {
        self.next[sender as usize]
    }
}

/// Connections that wait for their resets, bounded.
#[derive(Debug)]
pub(super) struct Orphans(VecDeque<Orphan>);

impl Orphans {
    /// More than one sweep finds.
    const MOST: usize = 512;

    pub(super) fn new() -> Self {
        Self(VecDeque::with_capacity(Self::MOST))
    }

    /// Adds one if there is room. Else its ends are reset when they send.
    pub(super) fn push(&mut self, orphan: Orphan) {
        if self.0.len() < Self::MOST {
            self.0.push_back(orphan);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Orphan> {
        self.0.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
