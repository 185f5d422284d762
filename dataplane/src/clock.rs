//! The workers' clock.

use rustix::time::{ClockId, clock_gettime};
use vl3lb_common::{Duration, Timestamp};

/// The kernel's monotonic clock: the same for all threads and processes of this boot, so that a
/// stored time stays meaningful after a restart. Reading it costs a vDSO call, some 20 ns: once a
/// burst, never per packet.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock;

impl Clock {
    /// The time now.
    #[inline]
    pub(crate) fn now(self) -> Timestamp {
        let time = clock_gettime(ClockId::Monotonic);
        // Neither part of a monotonic time is ever negative.
        Timestamp::from_duration(Duration::new(
            u64::try_from(time.tv_sec).unwrap_or(0),
            u32::try_from(time.tv_nsec).unwrap_or(0),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_monotonic() {
        let first = Clock.now();
        assert!(first > Timestamp(0));
        assert!(Clock.now() >= first);
    }
}
