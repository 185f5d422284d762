//! Round-trip times.

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest time that is distinguished: a minute, in nanoseconds.
pub(super) const LONGEST: u64 = 60_000_000_000;
/// Significant digits kept.
const DIGITS: u8 = 3;

/// Round trips measured in two ways, in nanoseconds. About 400 KB.
#[derive(Debug, Clone)]
pub(crate) struct Latency {
    /// From the time at which the packet should have been sent. A stall of the system under test, or of the
    /// generator, is in it with its whole length (no coordinated omission).
    pub(crate) corrected: Histogram<u64>,
    /// From the time at which it was sent: what the network and the other side needed.
    pub(crate) service: Histogram<u64>,
}

impl Latency {
    pub(crate) fn new() -> Self {
        let empty = || Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("bounds that are in order");
        Self {
            corrected: empty(),
            service: empty(),
        }
    }

    /// Adds a round trip. Times as in a [`Stamp`](super::payload::Stamp).
    pub(crate) fn record(&mut self, intended: u64, sent: u64, received: u64) {
        self.corrected
            .saturating_record(received.saturating_sub(intended).max(1));
        self.service
            .saturating_record(received.saturating_sub(sent).max(1));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let fits = "histograms of equal bounds";
        self.corrected.add(&other.corrected).expect(fits);
        self.service.add(&other.service).expect(fits);
    }
}

/// Percentiles of a [`Histogram`], in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) p9999: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
}

impl Percentiles {
    /// `None` if nothing was recorded.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let quantile = |quantile| seconds(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Self {
            min: seconds(histogram.min()),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            p9999: quantile(0.9999),
            max: seconds(histogram.max()),
            mean: histogram.mean() / 1e9,
        })
    }
}

/// Nanoseconds in seconds.
#[expect(clippy::cast_precision_loss, reason = "hours in nanoseconds are below 2^53")]
pub(crate) const fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
