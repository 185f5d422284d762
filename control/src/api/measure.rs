//! Measures that several parts share.

use serde::{Deserialize, Serialize};

/// Packets and bytes in one direction. Bytes count IP packets, without the Ethernet header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    pub packets_total: u64,
    pub bytes_total: u64,
    pub packets_per_second: Option<f64>,
    pub bytes_per_second: Option<f64>,
}

/// Packets not forwarded for one reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReasonCount {
    /// Name of a [`vl3lb_common::DropReason`].
    pub reason: String,
    pub packets_total: u64,
    pub packets_per_second: Option<f64>,
}

/// Flows that ended for one cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CauseCount {
    /// Name of a [`vl3lb_common::stats::CloseCause`].
    pub cause: String,
    pub flows_total: u64,
}

/// One bucket of a [`Distribution`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bucket {
    /// Upper bound, included; `None` for the last bucket, which has none.
    pub upper_seconds: Option<f64>,
    /// Values in this bucket alone.
    pub count: u64,
}

/// A distribution of durations, in seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Distribution {
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub p999: Option<f64>,
    /// The largest value; `None` where only buckets are kept.
    pub max: Option<f64>,
    pub count: u64,
    pub sum: f64,
    pub buckets: Vec<Bucket>,
}

impl Distribution {
    /// From the counts of buckets whose upper bounds are `bounds_micros`, the last one open.
    ///
    /// Quantiles are interpolated within a bucket; one that falls into the open bucket is unknown.
    pub fn from_buckets(counts: &[u64], bounds_micros: &[u64], sum_micros: u64) -> Self {
        let bounds = bounds_micros.iter().map(|&micros| Some(seconds(micros)));
        let buckets: Vec<Bucket> = bounds
            .chain([None])
            .zip(counts)
            .map(|(upper_seconds, &count)| Bucket { upper_seconds, count })
            .collect();
        Self {
            p50: quantile(&buckets, 0.5),
            p90: quantile(&buckets, 0.9),
            p99: quantile(&buckets, 0.99),
            p999: quantile(&buckets, 0.999),
            max: None,
            count: counts.iter().sum(),
            sum: seconds(sum_micros),
            buckets,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "2^53 microseconds are 285 years; beyond that a rounding error is no harm"
)]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a quantile of more than 2^53 values may be off by one value"
)]
fn quantile(buckets: &[Bucket], q: f64) -> Option<f64> {
    let total: u64 = buckets.iter().map(|bucket| bucket.count).sum();
    let rank = q * total as f64;
    let mut below = 0;
    let mut lower = 0.0;
    for bucket in buckets {
        let upper = bucket.upper_seconds?;
        if bucket.count > 0 && (below + bucket.count) as f64 >= rank {
            let part = (rank - below as f64) / bucket.count as f64;
            return Some(lower + (upper - lower) * part);
        }
        below += bucket.count;
        lower = upper;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated_and_unknown_in_the_open_bucket() {
        let d = Distribution::from_buckets(&[0, 100, 0, 0], &[1_000, 2_000, 4_000], 150_000);
        assert_eq!(d.p50, Some(0.0015));
        assert_eq!(d.count, 100);
        assert!((d.sum - 0.15).abs() < 1e-9);
        assert_eq!(d.buckets[3].upper_seconds, None);
        let d = Distribution::from_buckets(&[50, 0, 0, 50], &[1_000, 2_000, 4_000], 0);
        assert_eq!((d.p50, d.p99), (Some(0.001), None));
        let none = Distribution::from_buckets(&[0, 0], &[1_000], 0);
        assert_eq!((none.p50, none.count), (None, 0));
    }
}
