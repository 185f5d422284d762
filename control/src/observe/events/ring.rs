//! The newest events, in bounded memory.

use std::collections::VecDeque;

use crate::api::Event;

/// Events that are kept, about 200 bytes each.
pub(super) const CAPACITY: usize = 1024;

/// A queue that drops its oldest event when it is full.
#[derive(Debug, Default)]
pub(super) struct Ring {
    events: VecDeque<Event>,
    /// Events pushed so far, which is also the number of the newest.
    total: u64,
}

impl Ring {
    /// Appends an event and numbers it.
    pub(super) fn push(&mut self, event: Event) {
        self.total += 1;
        if self.events.len() == CAPACITY {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            sequence: self.total,
            ..event
        });
    }

    /// Events pushed so far.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// The kept events after number `sequence`, oldest first.
    pub(super) fn after(&self, sequence: u64) -> impl DoubleEndedIterator<Item = &Event> {
        let from = self.events.partition_point(|event| event.sequence <= sequence);
        self.events.range(from..)
    }

    /// Number of events after number `sequence` that are not kept any more.
    pub(super) fn forgotten_after(&self, sequence: u64) -> u64 {
        let oldest_kept = self.events.front().map_or(1, |event| event.sequence);
        (oldest_kept - 1).saturating_sub(sequence)
    }
}
