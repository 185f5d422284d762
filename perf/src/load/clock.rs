//! The clock of the senders.

use std::time::Instant;

/// A clock that only goes forward.
pub(crate) trait Clock {
    /// Nanoseconds since the start of the run, 0 before it.
    fn now(&self) -> u64;
}

/// The system's monotonic clock, on x86 the time stamp counter read without a system call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Monotonic {
    start: Instant,
}

impl Monotonic {
    /// Starts at `start`, which may lie in the future.
    pub(crate) const fn from(start: Instant) -> Self {
        Self { start }
    }
}

impl Clock for Monotonic {
    fn now(&self) -> u64 {
        let elapsed = Instant::now().saturating_duration_since(self.start);
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }
}
