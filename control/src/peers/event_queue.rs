//! Events that wait to be written, by namespace: a namespace whose writes fail delays no other. Pure.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;
use vl3lb_common::Duration;

use super::api_calls::Backoff;

/// Events of a namespace at once, and one more after each [`REFILL`].
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_secs(10);
/// Events that wait, of all namespaces together.
const CAPACITY: usize = 64;
/// The longest pause between two attempts to write an Event.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Bounded queues of Events `T`.
#[derive(Debug)]
pub(super) struct EventQueue<T> {
    namespaces: BTreeMap<String, Namespace<T>>,
}

#[derive(Debug)]
struct Namespace<T> {
    waiting: VecDeque<T>,
    budget: Budget,
    backoff: Backoff,
    /// The earliest time of the next write.
    earliest: Instant,
}

impl<T: Clone> EventQueue<T> {
    pub(super) const fn new() -> Self {
        Self {
            namespaces: BTreeMap::new(),
        }
    }

    /// Adds an Event. Returns how many are dropped: the Event itself if its namespace had too many lately, or the
    /// oldest of the longest queue if too many wait.
    ///
    /// Cost: O(namespaces with recent Events).
    #[must_use]
    pub(super) fn push(&mut self, namespace: &str, event: T, now: Instant) -> u64 {
        self.namespaces
            .retain(|_, state| !state.waiting.is_empty() || !state.budget.is_full(now));
        let state = self.namespaces.entry(namespace.to_owned());
        let state = state.or_insert_with(|| Namespace {
            waiting: VecDeque::new(),
            budget: Budget::new(now),
            backoff: Backoff::default(),
            earliest: now,
        });
        if !state.budget.spend(now) {
            return 1;
        }
        state.waiting.push_back(event);
        let total: usize = self.namespaces.values().map(|state| state.waiting.len()).sum();
        if total <= CAPACITY {
            return 0;
        }
        let longest = self
            .namespaces
            .values_mut()
            .max_by_key(|state| state.waiting.len());
        longest
            .and_then(|state| state.waiting.pop_front())
            .map_or(0, |_| 1)
    }

    /// When the next Event may be written; `None` if none waits.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next().map(|(_, state)| state.earliest)
    }

    /// The Event to write at `now` and its namespace. It waits until [`Self::written`].
    pub(super) fn front(&self, now: Instant) -> Option<(String, T)> {
        let (namespace, state) = self.next().filter(|(_, state)| state.earliest <= now)?;
        Some((namespace.clone(), state.waiting.front()?.clone()))
    }

    /// The first Event of `namespace` was written, or is given up.
    pub(super) fn written(&mut self, namespace: &str, now: Instant) {
        if let Some(state) = self.namespaces.get_mut(namespace) {
            state.waiting.pop_front();
            state.backoff.succeeded();
            // The others first.
            state.earliest = now;
        }
    }

    /// The first Event of `namespace` could not be written.
    pub(super) fn failed(&mut self, namespace: &str, now: Instant) {
        if let Some(state) = self.namespaces.get_mut(namespace) {
            state.earliest = now + state.backoff.failed(LONGEST_PAUSE);
        }
    }

    /// The namespace whose Event has been due for longest.
    fn next(&self) -> Option<(&String, &Namespace<T>)> {
        let waiting = self
            .namespaces
            .iter()
            .filter(|(_, state)| !state.waiting.is_empty());
        waiting.min_by_key(|(_, state)| state.earliest)
    }
}

/// A token bucket.
#[derive(Debug)]
struct Budget {
    left: u32,
    /// The time at which `left` was exact.
    since: Instant,
}

impl Budget {
    const fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    /// Takes one token, if there is one.
    fn spend(&mut self, now: Instant) -> bool {
        while self.left < BURST && now >= self.since + REFILL {
            self.left += 1;
            self.since += REFILL;
        }
        if self.left == BURST {
            self.since = now;
        }
        let has = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has
    }

    /// Whether it is as good as a new one.
    fn is_full(&self, now: Instant) -> bool {
        now >= self.since + REFILL * (BURST - self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes everything that is due, with the result that `accepts` decides by namespace.
    fn write_due(
        queue: &mut EventQueue<u32>,
        now: Instant,
        accepts: impl Fn(&str) -> bool,
    ) -> Vec<(String, u32)> {
        let mut written = Vec::new();
        while let Some((namespace, event)) = queue.front(now) {
            if accepts(&namespace) {
                queue.written(&namespace, now);
                written.push((namespace, event));
            } else {
                queue.failed(&namespace, now);
            }
        }
        written
    }

    #[test]
    fn a_namespace_that_refuses_delays_no_other() {
        let start = Instant::now();
        let mut queue = EventQueue::new();
        assert_eq!(queue.push("refused", 1, start), 0);
        assert_eq!(queue.push("web", 2, start), 0);
        assert_eq!(queue.push("shop", 3, start), 0);
        let written = write_due(&mut queue, start, |namespace| namespace != "refused");
        assert_eq!(written, [("shop".to_owned(), 3), ("web".to_owned(), 2)]);
        assert_eq!(queue.due(), Some(start + Duration::from_secs(1)));
        // Its own Event waits, with pauses that grow.
        let later = start + Duration::from_secs(1);
        assert!(write_due(&mut queue, later, |_| false).is_empty());
        assert_eq!(queue.due(), Some(start + Duration::from_secs(3)));
        let later = start + Duration::from_secs(3);
        assert_eq!(
            write_due(&mut queue, later, |_| true),
            [("refused".to_owned(), 1)]
        );
        assert_eq!(queue.due(), None);
    }

    #[test]
    fn the_longest_queue_makes_room() {
        let start = Instant::now();
        let mut queue = EventQueue::new();
        let mut now = start;
        let mut dropped = 0;
        for event in 0..100 {
            now += REFILL;
            dropped += queue.push("refused", event, now);
        }
        assert_eq!(dropped, 100 - 64);
        assert_eq!(queue.push("web", 1000, now), 1, "of the refused namespace");
        let written = write_due(&mut queue, now, |_| true);
        assert_eq!(written.len(), 64);
        assert!(written.contains(&("web".to_owned(), 1000)));
        assert_eq!(
            written.iter().map(|(_, event)| event).min(),
            Some(&37),
            "the oldest are dropped"
        );
    }

    #[test]
    fn each_namespace_has_its_own_rate_limit() {
        let start = Instant::now();
        let mut queue = EventQueue::new();
        let dropped: u64 = (0..30).map(|event| queue.push("noisy", event, start)).sum();
        assert_eq!(dropped, 10);
        assert_eq!(queue.push("web", 1, start), 0);
    }

    #[test]
    fn a_namespace_without_recent_events_is_forgotten() {
        let start = Instant::now();
        let mut queue = EventQueue::new();
        for number in 0..10 {
            assert_eq!(queue.push(&number.to_string(), 1, start), 0);
        }
        write_due(&mut queue, start, |_| true);
        assert_eq!(queue.push("web", 1, start + REFILL), 0);
        assert_eq!(queue.namespaces.len(), 1);
    }

    #[test]
    fn a_budget_refills_with_time() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut spent = |seconds| {
            let now = start + Duration::from_secs(seconds);
            (0..100).filter(|_| budget.spend(now)).count()
        };
        assert_eq!(spent(1), 20);
        assert_eq!(spent(10), 0);
        assert_eq!(spent(11), 1);
        assert_eq!(spent(36), 2);
        assert_eq!(spent(10_000), 20);
    }
}
