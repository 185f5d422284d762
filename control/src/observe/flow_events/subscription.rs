//! One who follows flows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::api::{FlowEvent, Time};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Events that are handed over at a time, at most.
const BATCH: usize = 256;
/// What was missed is told this often, in one event.
const FOLD: Duration = Duration::from_secs(1);

/// A reader of flows that open and close. Dropping it ends the following.
#[derive(Debug)]
pub struct Follower {
    waiting: mpsc::Receiver<Arc<FlowEvent>>,
    /// Events that it missed and was not told of yet.
    missed: Arc<AtomicU64>,
    folds: Interval,
}

impl Follower {
    pub(super) fn new(waiting: mpsc::Receiver<Arc<FlowEvent>>, missed: Arc<AtomicU64>) -> Self {
        let mut folds = interval_at(Instant::now() + FOLD, FOLD);
        folds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            waiting,
            missed,
            folds,
        }
    }

    /// Waits until there is something new. May be cancelled.
    pub async fn next(&mut self) -> Vec<Arc<FlowEvent>> {
        let mut events = Vec::new();
        loop {
            tokio::select! {
                // The sender lives as long as this follower.
                _ = self.waiting.recv_many(&mut events, BATCH) => return events,
                _ = self.folds.tick() => {
                    let missed = self.missed.swap(0, Relaxed);
                    if missed > 0 {
                        let time = Time::now();
                        return vec![Arc::new(FlowEvent::Lost { time, events: missed })];
                    }
                }
            }
        }
    }
}
