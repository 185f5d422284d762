//! Round trips by windows of 100 ms: the usual latency, without rare disturbances.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::latency::LONGEST;
use crate::summary::Summary;

/// Length of a window. Long enough for a p99 at a thousand requests a second, short enough that a disturbance of some
/// milliseconds once a second leaves nine of ten windows alone.
const WINDOW: Duration = Duration::from_millis(100);

/// The latencies of a load, by windows of 100 ms. A request counts in the window in which it was due: those that are due
/// during a stall are all late in the windows of the stall, however they are answered in one go after it. Some 15 KB
/// for each window.
#[derive(Debug, Clone)]
pub(crate) struct DueWindows(Vec<Histogram<u32>>);

impl DueWindows {
    /// Room for a load of this length.
    pub(crate) fn new(load: Duration) -> Self {
        let count = load.as_nanos().div_ceil(WINDOW.as_nanos());
        let empty = Histogram::new_with_bounds(1, LONGEST, 2).expect("constant bounds");
        Self(vec![empty; usize::try_from(count).unwrap_or(usize::MAX)])
    }

    /// Adds a request that was due so long after the load's start. Nanoseconds both. Takes constant time.
    pub(crate) fn record(&mut self, due: u64, latency: u64) {
        let window = u128::from(due) / WINDOW.as_nanos();
        let window = usize::try_from(window)
            .ok()
            .and_then(|window| self.0.get_mut(window));
        if let Some(window) = window {
            window.saturating_record(latency.max(1));
        }
    }

    /// The median of the windows' p99, in seconds, to two digits. A window without any answer has none; `None` if there
    /// is no other.
    pub(crate) fn typical_p99(&self) -> Option<f64> {
        let answered = self.0.iter().filter(|window| !window.is_empty());
        let p99 =
            |window: &Histogram<u32>| Duration::from_nanos(window.value_at_quantile(0.99)).as_secs_f64();
        Some(Summary::of(answered.map(p99).collect())?.median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: u64 = 1_000_000;
    /// Ten thousand requests a second.
    const STEP: u64 = MILLI / 10;

    /// A second of requests, whose latency depends on when it was due.
    fn second(latency: impl Fn(u64) -> u64) -> DueWindows {
        let mut windows = DueWindows::new(Duration::from_secs(1));
        for due in (0..10_000).map(|request| request * STEP) {
            windows.record(due, latency(due));
        }
        windows
    }

    fn assert_near(windows: &DueWindows, wanted: u64) {
        let measured = windows.typical_p99().unwrap();
        let wanted = Duration::from_nanos(wanted).as_secs_f64();
        assert!(
            (measured / wanted - 1.0).abs() < 0.01,
            "{measured} s, wanted {wanted} s"
        );
    }

    /// What is due while nothing moves is answered at the end of it.
    fn stall(from: u64, length: u64) -> impl Fn(u64) -> u64 {
        move |due| {
            if (from..from + length).contains(&due) {
                from + length - due
            } else {
                20_000
            }
        }
    }

    #[test]
    fn a_short_stall_decides_one_window_only() {
        // 3% of all requests are in it, so the p99 of all is 20 ms.
        assert_near(&second(stall(430 * MILLI, 30 * MILLI)), 20_000);
    }

    #[test]
    fn a_stall_of_most_windows_decides_although_its_answers_come_at_once() {
        let typical = second(stall(100 * MILLI, 800 * MILLI)).typical_p99().unwrap();
        assert!(typical > 0.3, "{typical}");
    }

    #[test]
    fn the_slowest_hundredth_of_each_window_decides() {
        let one_in = |count: u64| {
            move |due: u64| {
                if (due / STEP).is_multiple_of(count) {
                    90_000
                } else {
                    20_000
                }
            }
        };
        assert_near(&second(one_in(50)), 90_000);
        assert_near(&second(one_in(200)), 20_000);
    }

    #[test]
    fn windows_without_replies_are_ignored() {
        let mut windows = DueWindows::new(Duration::from_secs(1));
        assert_eq!(windows.typical_p99(), None);
        windows.record(250 * MILLI, 20_000);
        assert_near(&windows, 20_000);
    }

    #[test]
    fn the_last_window_may_be_short_and_after_it_there_is_none() {
        let mut windows = DueWindows::new(Duration::from_millis(150));
        windows.record(149 * MILLI, 20_000);
        windows.record(200 * MILLI, 90_000);
        windows.record(u64::MAX, 90_000);
        assert_near(&windows, 20_000);
    }
}
