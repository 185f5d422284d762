//! Reading flows as they open and close.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::api::{FlowEvent, Time};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Events of one [`Subscription::next`] at most.
const BATCH: usize = 256;
/// Missed events are reported this often, as one event.
const REPORT_LOSS: Duration = Duration::from_secs(1);

/// A reader of flows that open and close. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    queue: mpsc::Receiver<Arc<FlowEvent>>,
    /// Missed events that are not reported yet.
    missed: Arc<AtomicU64>,
    loss_reports: Interval,
}

impl Subscription {
    pub(super) fn new(queue: mpsc::Receiver<Arc<FlowEvent>>, missed: Arc<AtomicU64>) -> Self {
        let mut loss_reports = interval_at(Instant::now() + REPORT_LOSS, REPORT_LOSS);
        loss_reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            queue,
            missed,
            loss_reports,
        }
    }

    /// Waits for the next events. Cancel-safe.
    pub async fn next(&mut self) -> Vec<Arc<FlowEvent>> {
        let mut events = Vec::new();
        loop {
            tokio::select! {
                // The sender lives as long as this subscription.
                _ = self.queue.recv_many(&mut events, BATCH) => return events,
                _ = self.loss_reports.tick() => {
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
