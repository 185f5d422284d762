//! Flow events: flows as they open and close.
//!
//! While there are subscribers, workers put each change into their rings ([`FlowFeed`]). The rings are
//! emptied a hundred times a second, and each subscriber gets the changes that its filter accepts,
//! through its own bounded queue: a slow subscriber misses events, and delays neither a worker
//! nor another subscriber. Missed events are counted, and reported once a second.

mod subscription;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::api::{FlowEvent, Time};
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::{MissedTickBehavior, interval};
use vl3lb_common::Generation;
use vl3lb_common::dataplane::Dataplane;
use vl3lb_common::flow_feed::{FEED_CAPACITY, FlowChange, FlowFeed};

use crate::observe::filter::FlowFilter;
use crate::observe::flows::{ServiceNames, service_names, shown};
use crate::publisher::CurrentReceiver;

pub use subscription::Subscription;

/// Subscribers at a time: every change is matched against the filter of each.
pub const MAX_SUBSCRIBERS: usize = 16;
/// How often the workers' rings are emptied.
const ROUND: Duration = Duration::from_millis(10);
/// Events that wait for one subscriber, about 400 bytes each.
const QUEUE: usize = 8192;

/// All subscriptions to flow events.
pub struct FlowEvents {
    dataplane: Arc<dyn Dataplane>,
    current: CurrentReceiver,
    subscribers: Mutex<Subscribers>,
    /// Wakes [`FlowEvents::run`] for the first subscriber.
    subscribed: Notify,
    /// Events that did not fit into a subscriber's queue.
    unread: AtomicU64,
}

impl std::fmt::Debug for FlowEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowEvents")
            .field("subscribers", &self.subscriber_count())
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Subscribers {
    list: Vec<Subscriber>,
    /// Whether the feeds are started and the rings are emptied.
    active: bool,
    /// Changes that found a ring full, as counted for the subscribers so far.
    overflowed: u64,
    /// The names of the services, and the generation that they belong to.
    names: ServiceNames,
    named: Option<Generation>,
}

/// The sending end of one [`Subscription`].
struct Subscriber {
    filter: FlowFilter,
    queue: mpsc::Sender<Arc<FlowEvent>>,
    /// Missed events that are not reported yet.
    missed: Arc<AtomicU64>,
}

impl FlowEvents {
    /// Without subscribers.
    pub fn new(dataplane: Arc<dyn Dataplane>, current: CurrentReceiver) -> Self {
        Self {
            dataplane,
            current,
            subscribers: Mutex::default(),
            subscribed: Notify::new(),
            unread: AtomicU64::new(0),
        }
    }

    /// A subscription to the flows that `filter` accepts, from now on, until it is dropped. `None` if
    /// there are [`MAX_SUBSCRIBERS`] already.
    ///
    /// The first subscription allocates the rings of the workers, a megabyte each, for the life of the
    /// process. [`Self::run`] has to run.
    pub fn subscribe(&self, filter: FlowFilter) -> Option<Subscription> {
        let mut subscribers = self.subscribers();
        subscribers.list.retain(Subscriber::is_connected);
        if subscribers.list.len() >= MAX_SUBSCRIBERS {
            return None;
        }
        let (queue, waiting) = mpsc::channel(QUEUE);
        let missed: Arc<AtomicU64> = Arc::default();
        subscribers.list.push(Subscriber {
            filter,
            queue,
            missed: Arc::clone(&missed),
        });
        if !subscribers.active {
            subscribers.active = true;
            subscribers.overflowed = self.overflowed();
            self.feeds().iter().for_each(|feed| feed.subscribe());
            self.subscribed.notify_one();
        }
        Some(Subscription::new(waiting, missed))
    }

    /// Number of subscribers.
    pub fn subscriber_count(&self) -> u64 {
        let subscribers = self.subscribers();
        subscribers
            .list
            .iter()
            .filter(|subscriber| subscriber.is_connected())
            .count() as u64
    }

    /// Number of events that subscribers missed so far.
    pub fn lost(&self) -> u64 {
        self.overflowed() + self.unread.load(Relaxed)
    }

    /// Empties the rings while there are subscribers, for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.subscribed.notified().await;
            let mut rounds = interval(ROUND);
            rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while self.round() {
                rounds.tick().await;
            }
        }
    }

    /// Empties the rings once. Without subscribers it stops the feeds and returns false.
    fn round(&self) -> bool {
        let mut subscribers = self.subscribers();
        subscribers.list.retain(Subscriber::is_connected);
        if subscribers.list.is_empty() {
            self.feeds().iter().for_each(|feed| feed.unsubscribe());
            subscribers.active = false;
            return false;
        }
        // The first attachment makes the feeds: a subscription may be older.
        self.feeds()
            .iter()
            .filter(|feed| !feed.is_subscribed())
            .for_each(|feed| feed.subscribe());
        let changes = self.take_changes();
        subscribers.count_overflow(self.overflowed());
        if changes.is_empty() {
            return true;
        }
        subscribers.update_names(&self.current);
        let (now, time) = (self.dataplane.now(), Time::now());
        let Subscribers { list, names, .. } = &*subscribers;
        for change in changes {
            let service = names.get(&change.flow.service).map(String::as_str);
            let mut event = None;
            for subscriber in list
                .iter()
                .filter(|subscriber| subscriber.filter.accepts(&change.flow, service))
            {
                let event = event.get_or_insert_with(|| {
                    Arc::new(flow_event(&change, time.before(now.since(change.at)), names))
                });
                if let Err(TrySendError::Full(_)) = subscriber.queue.try_send(Arc::clone(event)) {
                    subscriber.missed.fetch_add(1, Relaxed);
                    self.unread.fetch_add(1, Relaxed);
                }
            }
        }
        true
    }

    /// The changes in the rings, oldest first; at most their capacity, so that workers that refill
    /// them all the time do not keep this loop busy.
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
    fn subscribers(&self) -> MutexGuard<'_, Subscribers> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscribers {
    /// Counts a full ring as a loss of every subscriber, since lost events cannot be filtered.
    fn count_overflow(&mut self, overflowed: u64) {
        let new = overflowed - std::mem::replace(&mut self.overflowed, overflowed);
        for subscriber in &self.list {
            subscriber.missed.fetch_add(new, Relaxed);
        }
    }

    fn update_names(&mut self, current: &CurrentReceiver) {
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

impl Subscriber {
    fn is_connected(&self) -> bool {
        !self.queue.is_closed()
    }
}

fn flow_event(change: &FlowChange, time: Time, names: &ServiceNames) -> FlowEvent {
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
