//! Flows that open and close, as it happens.
//!
//! While there are followers, workers put each change into their rings ([`FlowFeed`]). The changes are
//! taken out a hundred times a second, and each follower gets those that it asked for, through a
//! bounded queue of its own: one that reads slowly misses some, and holds up neither a worker nor
//! another follower. What is missed is counted, and told once a second.

mod follower;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::api::{FlowEvent, Time};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::{MissedTickBehavior, interval};
use vl3lb_common::Generation;
use vl3lb_common::dataplane::Dataplane;
use vl3lb_common::flow_feed::{FEED_CAPACITY, FlowChange, FlowFeed};

use crate::observe::report::filter::FlowFilter;
use crate::observe::report::flows::{ServiceNames, service_names, shown};
use crate::publisher::CurrentReceiver;

pub use follower::Follower;

/// Followers at a time: each change is looked at for each of them.
pub const MOST_FOLLOWERS: usize = 16;
/// How often the workers' rings are emptied.
const ROUND: Duration = Duration::from_millis(10);
/// Events that wait for one follower: some 400 bytes each.
const QUEUE: usize = 8192;

/// Everyone who follows.
pub struct FlowEvents {
    dataplane: Arc<dyn Dataplane>,
    current: CurrentReceiver,
    audience: Mutex<Audience>,
    /// Events that did not fit into a follower's queue.
    unread: AtomicU64,
}

impl std::fmt::Debug for FlowEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowEvents")
            .field("followers", &self.followers())
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Audience {
    seats: Vec<Seat>,
    /// Whether a task empties the rings.
    served: bool,
    /// Changes that found a ring full, as far as the followers know.
    overflowed: u64,
    /// The names of the services, and the generation that they are of.
    names: ServiceNames,
    named: Option<Generation>,
}

/// One follower, seen from here.
struct Seat {
    filter: FlowFilter,
    queue: mpsc::Sender<Arc<FlowEvent>>,
    /// Events that it missed and was not told of yet.
    missed: Arc<AtomicU64>,
}

impl FlowEvents {
    /// Nobody follows yet.
    pub fn new(dataplane: Arc<dyn Dataplane>, current: CurrentReceiver) -> Self {
        Self {
            dataplane,
            current,
            audience: Mutex::default(),
            unread: AtomicU64::new(0),
        }
    }

    /// A follower of the flows that `filter` accepts, from now on. It ends when it is dropped. `None` if
    /// there are [`MOST_FOLLOWERS`] already.
    ///
    /// The first one has the rings of the workers allocated, a megabyte each, which stay. Call it in a
    /// tokio runtime.
    pub fn follow(self: &Arc<Self>, filter: FlowFilter) -> Option<Follower> {
        let mut audience = self.audience();
        audience.seats.retain(Seat::is_taken);
        if audience.seats.len() >= MOST_FOLLOWERS {
            return None;
        }
        let (queue, waiting) = mpsc::channel(QUEUE);
        let missed: Arc<AtomicU64> = Arc::default();
        audience.seats.push(Seat {
            filter,
            queue,
            missed: Arc::clone(&missed),
        });
        if !audience.served {
            audience.served = true;
            audience.overflowed = self.overflowed();
            self.feeds().iter().for_each(|feed| feed.start());
            tokio::spawn(Arc::clone(self).serve());
        }
        Some(Follower::new(waiting, missed))
    }

    /// Followers that there are.
    pub fn followers(&self) -> u64 {
        let audience = self.audience();
        audience.seats.iter().filter(|seat| seat.is_taken()).count() as u64
    }

    /// Events that followers missed so far.
    pub fn lost(&self) -> u64 {
        self.overflowed() + self.unread.load(Relaxed)
    }

    /// Empties the rings until the last follower is gone.
    async fn serve(self: Arc<Self>) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.round() {
            rounds.tick().await;
        }
    }

    /// Gives the followers what has happened. False, and the workers are left alone, if there are none.
    fn round(&self) -> bool {
        let mut audience = self.audience();
        audience.seats.retain(Seat::is_taken);
        if audience.seats.is_empty() {
            self.feeds().iter().for_each(|feed| feed.stop());
            audience.served = false;
            return false;
        }
        let changes = self.take_changes();
        audience.tell_overflow(self.overflowed());
        if changes.is_empty() {
            return true;
        }
        audience.learn_names(&self.current);
        let (now, time) = (self.dataplane.now(), Time::now());
        let Audience { seats, names, .. } = &*audience;
        for change in changes {
            let service = names.get(&change.flow.service).map(String::as_str);
            let mut event = None;
            for seat in seats
                .iter()
                .filter(|seat| seat.filter.accepts(&change.flow, service))
            {
                let event = event
                    .get_or_insert_with(|| Arc::new(told(&change, time.before(now.since(change.at)), names)));
                if let Err(TrySendError::Full(_)) = seat.queue.try_send(Arc::clone(event)) {
                    seat.missed.fetch_add(1, Relaxed);
                    self.unread.fetch_add(1, Relaxed);
                }
            }
        }
        true
    }

    /// What waits in the rings, the oldest first. No more than fits into them, so that workers that tell
    /// all the time do not keep it here.
    fn take_changes(&self) -> Vec<FlowChange> {
        let mut changes = Vec::new();
        for feed in self.feeds() {
            changes.extend(std::iter::from_fn(|| feed.pop()).take(FEED_CAPACITY));
        }
        changes.sort_by_key(|change| change.at);
        changes
    }

    fn overflowed(&self) -> u64 {
        self.feeds().iter().map(|feed| feed.lost()).sum()
    }

    fn feeds(&self) -> &[Arc<FlowFeed>] {
        self.dataplane.flow_feeds()
    }

    /// Consistent after every step, so a panic elsewhere does not spoil it.
    fn audience(&self) -> MutexGuard<'_, Audience> {
        self.audience.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Audience {
    /// Nobody knows of whose flows the changes were that found a ring full: all missed them.
    fn tell_overflow(&mut self, overflowed: u64) {
        let new = overflowed - std::mem::replace(&mut self.overflowed, overflowed);
        for seat in &self.seats {
            seat.missed.fetch_add(new, Relaxed);
        }
    }

    fn learn_names(&mut self, current: &CurrentReceiver) {
        let current = current.borrow();
        let generation = current.as_ref().map(|current| current.generation());
        if self.named != generation {
            self.names = current
                .as_ref()
                .map(|current| service_names(&current.directory))
                .unwrap_or_default();
            self.named = generation;
        }
    }
}

impl Seat {
    fn is_taken(&self) -> bool {
        !self.queue.is_closed()
    }
}

fn told(change: &FlowChange, time: Time, names: &ServiceNames) -> FlowEvent {
    let flow = shown(&change.flow, names);
    match change.closed {
        None => FlowEvent::Open { time, flow },
        Some(cause) => FlowEvent::Close {
            time,
            cause: cause.name().to_owned(),
            flow,
        },
    }
}
