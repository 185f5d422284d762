//! Following events as they happen.

use std::sync::Arc;

use crate::api::{Event, EventCode, Time};
use tokio::sync::watch;

use super::{Events, Happening};

/// One who wants to hear of every event. Slow ones hold up nobody.
#[derive(Debug)]
pub struct Follower {
    events: Arc<Events>,
    newest: watch::Receiver<u64>,
    /// The number of the last event that it knows.
    seen: u64,
}

/// What a follower did not know yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Events before the others that it missed.
    pub lost: u64,
    /// Oldest first.
    pub events: Vec<Event>,
}

impl Follower {
    pub(super) const fn new(events: Arc<Events>, newest: watch::Receiver<u64>, seen: u64) -> Self {
        Self { events, newest, seen }
    }

    /// Waits until there is something new. May be cancelled.
    pub async fn next(&mut self) -> Batch {
        let seen = self.seen;
        let news = self.newest.wait_for(|newest| *newest > seen).await;
        drop(news.expect("the sender is in the events that are held here"));
        let batch = self.events.take_after(seen);
        self.seen = batch.events.last().map_or(seen, |event| event.sequence);
        batch
    }
}

impl Batch {
    /// What is to be told of the missed events; an event like others.
    pub fn loss(&self, now: Time) -> Option<Event> {
        (self.lost > 0).then(|| {
            let first = self.events.first().map_or(1, |event| event.sequence);
            let text = format!(
                "{} events were missed: they came faster than they were read",
                self.lost
            );
            Event {
                sequence: first - 1,
                ..Happening::warn(EventCode::EventsLost, text).at(now)
            }
        })
    }
}
