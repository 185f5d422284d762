//! Histograms of counters with one writer, and their bounds.

use crate::stats::{Counter, absorb_each};

/// A histogram with fixed bounds; bucket `i` counts values up to and including `bounds[i]`, the
/// last bucket all above.
#[derive(Debug)]
pub struct Histogram<const BUCKETS: usize> {
    buckets: [Counter; BUCKETS],
    /// Sum of all values, in microseconds.
    sum_micros: Counter,
}

impl<const BUCKETS: usize> Default for Histogram<BUCKETS> {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Counter::default()),
            sum_micros: Counter::default(),
        }
    }
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    /// Counts a value, in microseconds; `bounds` are BUCKETS - 1 upper bounds, ascending.
    pub fn observe(&self, micros: u64, bounds: &[u64]) {
        let bucket = bounds
            .iter()
            .position(|&bound| micros <= bound)
            .unwrap_or(bounds.len());
        if let Some(counter) = self.buckets.get(bucket) {
            counter.add(1);
        }
        self.sum_micros.add(micros);
    }

    pub(crate) fn absorb(&self, other: &Self) {
        absorb_each(&self.buckets, &other.buckets);
        self.sum_micros.add(other.sum_micros.get());
    }

    /// Counts per bucket (not cumulative).
    pub fn counts(&self) -> [u64; BUCKETS] {
        std::array::from_fn(|i| self.buckets[i].get())
    }

    /// Sum of all values, in microseconds.
    pub fn sum_micros(&self) -> u64 {
        self.sum_micros.get()
    }
}

/// Upper bounds of the time from SYN to the backend's SYN-ACK, in microseconds.
pub const CONNECT_BOUNDS: [u64; 15] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    3_000_000,
];
/// Upper bounds of the life of closed flows, in microseconds.
pub const DURATION_BOUNDS: [u64; 8] = [
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    60_000_000,
    300_000_000,
    1_800_000_000,
    3_600_000_000,
];
