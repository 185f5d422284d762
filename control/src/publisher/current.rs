//! The snapshot in force, and the publisher's counters.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use vl3lb_common::Duration;
use vl3lb_common::dataplane::PublishError;
use vl3lb_common::snapshot::{Generation, Snapshot};
use vl3lb_common::stats::{Counter, Histogram};

use crate::state::Directory;

/// A snapshot that all workers use, and the services and backends in its slots.
#[derive(Debug, Clone)]
pub struct Current {
    pub snapshot: Arc<Snapshot>,
    pub directory: Arc<Directory>,
    /// When the last worker switched to it.
    pub published: SystemTime,
    /// Time from its first change until then.
    pub applied_in: Duration,
}

impl Current {
    /// The snapshot's number.
    pub fn generation(&self) -> Generation {
        self.snapshot.generation
    }
}

/// The newest snapshot; `None` before the first. Borrow it briefly, or clone the `Arc`.
pub type CurrentReceiver = watch::Receiver<Option<Arc<Current>>>;

/// Upper bounds of the time from a change until the last worker has it, in microseconds: from 1 ms, each twice the
/// one before, as in kube-proxy.
pub const APPLY_BOUNDS: [u64; 15] = [
    1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000, 1_024_000, 2_048_000,
    4_096_000, 8_192_000, 16_384_000,
];

/// Upper bounds of the time from a change in Kubernetes until the last worker has it, in microseconds: a selection of
/// those of kube-proxy. Most times in Kubernetes are whole seconds.
pub const PROGRAM_BOUNDS: [u64; 10] = [
    250_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
];

/// Counters of the publisher.
#[derive(Debug, Default)]
pub struct PublisherStats {
    /// Snapshots that reached all workers.
    pub published: Counter,
    /// Snapshots that did not reach all workers.
    pub failed: Counter,
    /// Why the last one failed.
    failure: Mutex<Option<String>>,
    /// Time from a change until the last worker had it.
    pub applied: Histogram<{ APPLY_BOUNDS.len() + 1 }>,
    /// Time from a change in Kubernetes, by its own timestamps, until the last worker had it.
    pub programmed: Histogram<{ PROGRAM_BOUNDS.len() + 1 }>,
}

impl PublisherStats {
    /// Why the newest snapshot did not reach the workers; `None` if it did.
    pub fn failure(&self) -> Option<String> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Counts a published snapshot.
    pub(crate) fn record(&self, outcome: &Result<(), PublishError>) {
        let counter = if outcome.is_ok() {
            &self.published
        } else {
            &self.failed
        };
        counter.add(1);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) =
            outcome.as_ref().err().map(ToString::to_string);
    }
}
