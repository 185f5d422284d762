//! Time as data: decisions take `now` as a parameter; only a worker's clock reads the time.

pub use std::time::Duration;

/// A point on the monotonic clock, in nanoseconds since an arbitrary start that all threads share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Whole and parts of seconds since the start.
    pub const fn from_duration(since_start: Duration) -> Self {
        // 584 years fit.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "584 years of nanoseconds fit in 64 bits"
        )]
        Self(since_start.as_nanos() as u64)
    }

    /// Time passed since the start of the clock.
    pub const fn since_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// Time from `earlier` to `self`, zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(Self::from_duration(rhs).0))
    }
}
