//! The flow feed: a record of each flow that opens or closes, for subscribers.
//!
//! Each worker has a [`FlowFeed`]. Without a subscriber, a flow that opens or closes costs the worker one
//! load of a flag. With one, the worker puts each change into a bounded ring; a change that finds the ring
//! full is lost and counted.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::flow_query::FlowRecord;
use crate::stats::{CloseCause, Counter};
use crate::time::Timestamp;

/// Capacity of one worker's ring: over a megabyte, and enough for 800,000 changes a second if it is read a
/// hundred times a second.
pub const FEED_CAPACITY: usize = 8192;

/// A flow was opened or closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowChange {
    /// When, on the workers' clock.
    pub at: Timestamp,
    /// Why it was closed; `None` if it was opened.
    pub closed: Option<CloseCause>,
    /// The flow at that time, including the packet that closed it.
    pub flow: FlowRecord,
}

/// One worker's changes on their way to the control side.
#[derive(Debug, Default)]
pub struct FlowFeed {
    subscribed: AtomicBool,
    /// Allocated for the first subscriber and kept for later ones.
    ring: OnceLock<ArrayQueue<FlowChange>>,
    lost: Counter,
}

impl FlowFeed {
    /// Worker: whether a subscriber exists.
    #[inline]
    pub fn is_subscribed(&self) -> bool {
        self.subscribed.load(Ordering::Relaxed)
    }

    /// Worker: emits a change, or counts it as lost. Neither allocates nor waits.
    pub fn push(&self, change: FlowChange) {
        if self.ring.get().is_none_or(|ring| ring.push(change).is_err()) {
            self.lost.add(1);
        }
    }

    /// Control: starts the feed. Allocates the ring if there is none yet; discards changes left from before.
    pub fn subscribe(&self) {
        let ring = self.ring.get_or_init(|| ArrayQueue::new(FEED_CAPACITY));
        while ring.pop().is_some() {}
        self.subscribed.store(true, Ordering::Relaxed);
    }

    /// Control: stops the feed. A change that the worker is about to emit may still arrive.
    pub fn unsubscribe(&self) {
        self.subscribed.store(false, Ordering::Relaxed);
    }

    /// Control: takes the oldest change.
    pub fn pop(&self) -> Option<FlowChange> {
        self.ring.get()?.pop()
    }

    /// Changes that found the ring full, so far.
    pub fn lost(&self) -> u64 {
        self.lost.get()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::addr::Protocol;
    use crate::backend::{BackendSlot, ServiceSlot};
    use crate::flow_query::FlowState;

    fn change(number: u64) -> FlowChange {
        let address = IpAddr::from([10, 0, 0, 1]);
        FlowChange {
            at: Timestamp(number),
            closed: None,
            flow: FlowRecord {
                worker: 0,
                protocol: Protocol::Tcp,
                client: address,
                client_port: 40_000,
                service_address: address,
                service_port: 80,
                nat_port: 20_000,
                backend: address,
                backend_port: 8080,
                service: ServiceSlot(0),
                backend_slot: BackendSlot(0),
                state: FlowState::Opening,
                age_micros: 0,
                idle_micros: 0,
                expires_micros: 0,
                packets_in: 0,
                bytes_in: 0,
                packets_out: 0,
                bytes_out: 0,
                fast: false,
            },
        }
    }

    #[test]
    fn changes_beyond_the_capacity_are_lost_and_counted() {
        let feed = FlowFeed::default();
        assert!(!feed.is_subscribed());
        feed.subscribe();
        assert!(feed.is_subscribed());
        let all = FEED_CAPACITY as u64 + 3;
        (0..all).map(change).for_each(|change| feed.push(change));
        assert_eq!(feed.lost(), 3);
        let emitted: Vec<_> = std::iter::from_fn(|| feed.pop())
            .map(|change| change.at.0)
            .collect();
        assert_eq!(
            emitted,
            (0..all - 3).collect::<Vec<_>>(),
            "the oldest, in their order"
        );
    }

    #[test]
    fn a_new_subscriber_gets_no_earlier_changes() {
        let feed = FlowFeed::default();
        feed.subscribe();
        feed.unsubscribe();
        assert!(!feed.is_subscribed());
        // The worker read the flag just before.
        feed.push(change(1));
        feed.subscribe();
        feed.push(change(2));
        assert_eq!(feed.pop(), Some(change(2)));
        assert_eq!((feed.pop(), feed.lost()), (None, 0));
    }
}
