//! Rate limits of the packets with which the balancer rejects others.

use vl3lb_common::Timestamp;

/// The limits of one worker.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) icmp_errors: TokenBucket,
    pub(super) tcp_resets: TokenBucket,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f): Linux' own default rate.
            icmp_errors: TokenBucket::new(1_000, 200),
            // More, since a reset spares a client the wait for its timeout.
            tcp_resets: TokenBucket::new(20_000, 2_000),
        }
    }
}

impl Limits {
    /// Adds the tokens of the time since the last call.
    pub(super) fn refill(&mut self, now: Timestamp) {
        self.icmp_errors.refill(now);
        self.tcp_resets.refill(now);
    }
}

/// A token bucket. Refilled by sweeps, not by every packet.
#[derive(Debug)]
pub(super) struct TokenBucket {
    per_second: u64,
    burst: u64,
    tokens: u64,
    filled: Timestamp,
}

impl TokenBucket {
    const fn new(per_second: u64, burst: u64) -> Self {
        Self {
            per_second,
            burst,
            tokens: burst,
            filled: Timestamp(0),
        }
    }

    fn refill(&mut self, now: Timestamp) {
        const NANOS: u128 = 1_000_000_000;
        let earned = now.since(self.filled).as_nanos() * u128::from(self.per_second) / NANOS;
        if earned > 0 {
            self.tokens = self.burst.min(
                self.tokens
                    .saturating_add(u64::try_from(earned).unwrap_or(u64::MAX)),
            );
            self.filled = now;
        }
    }

    /// Takes a token, if there is one.
    pub(super) const fn take(&mut self) -> bool {
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_allows_its_burst_and_then_its_rate() {
        let mut bucket = TokenBucket::new(1_000, 5);
        let drain = |bucket: &mut TokenBucket| std::iter::from_fn(|| bucket.take().then_some(())).count();
        bucket.refill(Timestamp(0));
        assert_eq!(drain(&mut bucket), 5);
        bucket.refill(Timestamp(999_999));
        assert_eq!(drain(&mut bucket), 0);
        bucket.refill(Timestamp(3_000_000));
        assert_eq!(drain(&mut bucket), 3);
        bucket.refill(Timestamp(60_000_000_000));
        assert_eq!(drain(&mut bucket), 5);
    }
}
