//! Reading events as they are emitted.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Event, Events};
use crate::api::{self, EventCode, Time};

/// A reader of all events. A slow reader misses the oldest events and delays no other.
#[derive(Debug)]
pub struct Subscription {
    events: Arc<Events>,
    newest: watch::Receiver<u64>,
    /// The number of the last event that was read.
    seen: u64,
}

/// The events since the last read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Number of missed events, all before `events`.
    pub lost: u64,
    /// Oldest first.
    pub events: Vec<api::Event>,
}

impl Subscription {
    pub(super) const fn new(events: Arc<Events>, newest: watch::Receiver<u64>, seen: u64) -> Self {
        Self { events, newest, seen }
    }

    /// Waits for the next events. Cancel-safe.
    pub async fn next(&mut self) -> Batch {
        let seen = self.seen;
        let changed = self.newest.wait_for(|newest| *newest > seen).await;
        drop(changed.expect("the sender lives in `self.events`"));
        let batch = self.events.take_after(seen);
        self.seen = batch.events.last().map_or(seen, |event| event.sequence);
        batch
    }
}

impl Batch {
    /// An `events_lost` event in place of the missed ones; `None` if none were missed.
    pub fn loss(&self, now: Time) -> Option<api::Event> {
        (self.lost > 0).then(|| {
            let first = self.events.first().map_or(1, |event| event.sequence);
            let text = format!("{} events were missed: the reader is too slow", self.lost);
            api::Event {
                sequence: first - 1,
                ..Event::warn(EventCode::EventsLost, text).at(now)
            }
        })
    }
}
