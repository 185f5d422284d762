//! Rate limits in all and for each source: of the packets with which the balancer rejects others, so that one scanner
//! does not silence them for others, and of new flows under overload.

use std::hash::{BuildHasher, RandomState};

use vl3lb_common::Timestamp;

/// The limits of one worker.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) icmp_errors: Limit,
    pub(super) tcp_resets: Limit,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f): Linux' own default rate.
            icmp_errors: Limit::new(Rate::new(1_000, 200), Rate::new(100, 20)),
            // More, since a reset spares a client the wait for its timeout.
            tcp_resets: Limit::new(Rate::new(20_000, 2_000), Rate::new(2_000, 200)),
        }
    }
}

/// A rate limit in all and by source.
#[derive(Debug)]
pub(super) struct Limit {
    all: TokenBucket,
    rate: Rate,
    rate_of_source: Rate,
    /// By a keyed hash of the address: a source shares its bucket with few others, and cannot choose them.
    sources: Box<[TokenBucket]>,
    hasher: RandomState,
}

/// Buckets of sources.
const SOURCES: usize = 1024;

impl Limit {
    pub(super) fn new(rate: Rate, rate_of_source: Rate) -> Self {
        Self {
            all: TokenBucket::full(rate),
            rate,
            rate_of_source,
            sources: vec![TokenBucket::full(rate_of_source); SOURCES].into(),
            hasher: RandomState::new(),
        }
    }

    /// Whether one more packet may be sent to `source`.
    pub(super) fn allows(&mut self, source: &[u8; 16], now: Timestamp) -> bool {
        let place = usize::try_from(self.hasher.hash_one(source) % SOURCES as u64).unwrap_or(0);
        let bucket = &mut self.sources[place];
        bucket.refill(self.rate_of_source, now);
        self.all.refill(self.rate, now);
        if bucket.tokens == 0 || self.all.tokens == 0 {
            return false;
        }
        bucket.tokens -= 1;
        self.all.tokens -= 1;
        true
    }
}

/// Packets a second, and how many at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    per_second: u64,
    burst: u64,
}

impl Rate {
    pub(super) const fn new(per_second: u64, burst: u64) -> Self {
        Self { per_second, burst }
    }
}

/// A token bucket.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenBucket {
    tokens: u64,
    filled: Timestamp,
}

impl TokenBucket {
    const fn full(rate: Rate) -> Self {
        Self {
            tokens: rate.burst,
            filled: Timestamp(0),
        }
    }

    pub(super) const fn empty(now: Timestamp) -> Self {
        Self {
            tokens: 0,
            filled: now,
        }
    }

    /// Takes a token, if there is one.
    pub(super) const fn take(&mut self) -> bool {
        let taken = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        taken
    }

    /// Adds the tokens of the time since they were last added.
    pub(super) fn refill(&mut self, rate: Rate, now: Timestamp) {
        const NANOS: u128 = 1_000_000_000;
        let earned = now.since(self.filled).as_nanos() * u128::from(rate.per_second) / NANOS;
        if earned > 0 {
            let earned = u64::try_from(earned).unwrap_or(u64::MAX);
            self.tokens = rate.burst.min(self.tokens.saturating_add(earned));
            self.filled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn source(number: u16) -> [u8; 16] {
        let [a, b] = number.to_be_bytes();
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, a, b]
    }

    /// Packets that one source may have.
    fn drain(limit: &mut Limit, number: u16, at: u64) -> usize {
        (0..10_000)
            .filter(|_| limit.allows(&source(number), Timestamp(at)))
            .count()
    }

    #[test]
    fn a_source_has_its_burst_and_then_its_rate() {
        let mut limit = Limit::new(Rate::new(10_000, 5_000), Rate::new(1_000, 5));
        assert_eq!(drain(&mut limit, 1, 0), 5);
        assert_eq!(drain(&mut limit, 1, 999_999), 0);
        assert_eq!(drain(&mut limit, 1, 3_000_000), 3);
        assert_eq!(drain(&mut limit, 1, 60 * SECOND), 5);
    }

    #[test]
    fn one_source_leaves_enough_for_others() {
        let mut limit = Limits::default().icmp_errors;
        for round in 0..100 {
            let at = round * SECOND / 100;
            drain(&mut limit, 1, at);
            let served = (10..13).filter(|&number| limit.allows(&source(number), Timestamp(at)));
            assert!(served.count() >= 2, "unless two share a bucket");
        }
    }

    #[test]
    fn all_sources_together_have_a_limit() {
        let mut limit = Limits::default().icmp_errors;
        let sent: usize = (0..1_000).map(|number| drain(&mut limit, number, 0)).sum();
        assert_eq!(sent, 200);
    }
}
