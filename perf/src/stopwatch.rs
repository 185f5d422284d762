//! The processor's time stamp counter.

use std::sync::atomic::{Ordering, fence};

use quanta::Clock;

/// Counts cycles of the time stamp counter (x86: `rdtsc`). It ticks at a constant rate, which is
/// not the rate that the core runs at; on the machines of measured figures both are close.
#[derive(Debug)]
pub(crate) struct Stopwatch(Clock);

impl Stopwatch {
    /// Calibrates the counter: takes up to 200 ms once.
    pub(crate) fn new() -> Self {
        Self(Clock::new())
    }

    /// The counter now. Everything before has taken effect: without the fence the processor would
    /// read the counter while the packets' loads are still under way.
    #[inline]
    pub(crate) fn read(&self) -> u64 {
        fence(Ordering::SeqCst);
        let ticks = self.0.raw();
        fence(Ordering::SeqCst);
        ticks
    }

    /// Ticks in a nanosecond, to four digits.
    pub(crate) fn ticks_per_nano(&self) -> f64 {
        /// Long enough for four digits.
        const TICKS: u64 = 1 << 40;
        let start = self.0.raw();
        #[expect(clippy::cast_precision_loss, reason = "numbers of 41 bits")]
        let ratio = TICKS as f64 / self.0.delta_as_nanos(start, start + TICKS) as f64;
        ratio
    }

    /// Whether the processor has a constant counter. If not, ticks are nanoseconds.
    pub(crate) fn counts_cycles(&self) -> bool {
        (self.ticks_per_nano() - 1.0).abs() > 1e-6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_go_forward_at_a_plausible_rate() {
        let stopwatch = Stopwatch::new();
        let (first, second) = (stopwatch.read(), stopwatch.read());
        assert!(second >= first);
        assert!((0.02..10.0).contains(&stopwatch.ticks_per_nano()));
    }
}
