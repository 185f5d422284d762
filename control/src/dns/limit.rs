//! Limits of UDP responses, because the source of a datagram may be forged: the victim of a forged source gets at most
//! [`PER_SOURCE`] responses per second, and all sources together at most [`TOTAL`]. Responses over TCP are not limited.
//!
//! A client that exceeds its limit gets every second of the excess responses empty and truncated, so that a real client
//! repeats its query over TCP (response rate limiting, as BIND and Knot DNS do it).

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;
use vl3lb_common::Duration;

/// Responses per second to one source: an IPv4 address or an IPv6 /64. [`BURST`] seconds of it may come at once.
const PER_SOURCE: u64 = 500;
/// Responses per second to all sources: a third of a core.
const TOTAL: u64 = 20_000;
/// How long a source may exceed its rate.
const BURST: Duration = Duration::from_secs(2);
/// Buckets of sources. Sources share one by chance, with a key that nobody else knows. 512 KiB.
const BUCKETS: usize = 1 << 16;

/// The decision about one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Send,
    /// The response is sent without records and with the truncation flag.
    Truncate,
    Drop,
}

/// Token buckets by source, and one for all.
#[derive(Debug)]
pub(super) struct ResponseLimit {
    start: Instant,
    hasher: RandomState,
    sources: Box<[Bucket]>,
    total: Bucket,
    /// Excess responses so far.
    excess: AtomicU64,
}

impl Default for ResponseLimit {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            hasher: RandomState::new(),
            sources: (0..BUCKETS).map(|_| Bucket::default()).collect(),
            total: Bucket::default(),
            excess: AtomicU64::new(0),
        }
    }
}

impl ResponseLimit {
    /// Decides about a response to `source` and counts it. Lock-free, O(1).
    pub(super) fn decide(&self, source: IpAddr) -> Decision {
        let now = self.start.elapsed();
        #[expect(clippy::cast_possible_truncation, reason = "the low bits of a hash")]
        let index = self.hasher.hash_one(network(source)) as usize % BUCKETS;
        let within = self
            .sources
            .get(index)
            .is_some_and(|bucket| bucket.take(now, PER_SOURCE));
        if !within && self.excess.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return Decision::Drop;
        }
        match (self.total.take(now, TOTAL), within) {
            (false, _) => Decision::Drop,
            (true, true) => Decision::Send,
            (true, false) => Decision::Truncate,
        }
    }
}

/// The part of an address that one host or site has for itself.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
        address => address,
    }
}

/// A token bucket as one number: the time at which it is full again, in nanoseconds.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Bucket {
    /// Takes a token, if there is one.
    fn take(&self, now: Duration, per_second: u64) -> bool {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let burst = u64::try_from(BURST.as_nanos()).unwrap_or(u64::MAX);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full| {
            let full = full.max(now) + 1_000_000_000 / per_second;
            (full - now <= burst).then_some(full)
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decisions(limit: &ResponseLimit, source: &str, count: u64) -> [u64; 3] {
        let source = source.parse().unwrap();
        let mut counts = [0; 3];
        for _ in 0..count {
            counts[limit.decide(source) as usize] += 1;
        }
        counts
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_gets_its_rate_and_half_of_the_excess_truncated() {
        let limit = ResponseLimit::default();
        assert_eq!(decisions(&limit, "192.0.2.1", 3000), [1000, 1000, 1000]);
        // Addresses of one /64 are one source, written in either form; another one has its own limit.
        assert_eq!(decisions(&limit, "::ffff:192.0.2.1", 2), [0, 1, 1]);
        assert_eq!(decisions(&limit, "2001:db8::1", 1000), [1000, 0, 0]);
        assert_eq!(decisions(&limit, "2001:db8::2", 2), [0, 1, 1]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(decisions(&limit, "192.0.2.1", 502), [500, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn all_sources_together_are_limited() {
        let limit = ResponseLimit::default();
        let sent: u64 = (0..100_000u32)
            .map(|number| {
                let source = IpAddr::from(number.to_be_bytes());
                u64::from(limit.decide(source) == Decision::Send)
            })
            .sum();
        assert_eq!(sent, 2 * TOTAL);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(decisions(&limit, "192.0.2.1", 10), [10, 0, 0]);
    }
}
