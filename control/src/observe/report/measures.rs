//! The course of a few measures over the last minutes, for the status page.

use std::collections::VecDeque;

use vl3lb_common::{Duration, Timestamp};

use crate::api::Report;

/// Measures that are kept.
pub const MEASURES: usize = 60;
/// Time between two.
pub const MEASURE_STEP: Duration = Duration::from_secs(5);

/// Rates at one time, each over the report's window; `None` while unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measures {
    /// Packets per second from clients to backends.
    pub packets_in: Option<f64>,
    /// Packets per second from backends to clients.
    pub packets_out: Option<f64>,
    /// Bytes per second from clients to backends.
    pub bytes_in: Option<f64>,
    /// Bytes per second from backends to clients.
    pub bytes_out: Option<f64>,
    /// New flows per second.
    pub new_flows: Option<f64>,
    /// Dropped packets per second.
    pub drops: Option<f64>,
}

impl From<&Report> for Measures {
    fn from(report: &Report) -> Self {
        let totals = &report.status.totals;
        Self {
            packets_in: totals.inbound.packets_per_second,
            packets_out: totals.outbound.packets_per_second,
            bytes_in: totals.inbound.bytes_per_second,
            bytes_out: totals.outbound.bytes_per_second,
            new_flows: report.new_flows_per_second(),
            drops: totals.drops_per_second,
        }
    }
}

/// The last [`MEASURES`], one every [`MEASURE_STEP`].
#[derive(Debug, Default)]
pub(super) struct Course {
    points: VecDeque<Measures>,
    last: Option<Timestamp>,
}

impl Course {
    /// Keeps the measures of `report`, which was built at `now`, if it is time.
    pub(super) fn record(&mut self, report: &Report, now: Timestamp) {
        if self.last.is_some_and(|last| now.since(last) < MEASURE_STEP) {
            return;
        }
        self.last = Some(now);
        if self.points.len() == MEASURES {
            self.points.pop_front();
        }
        self.points.push_back(Measures::from(report));
    }

    /// Oldest first.
    pub(super) fn points(&self) -> Vec<Measures> {
        self.points.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::report::fixture;

    #[test]
    fn the_last_five_minutes_are_kept_in_steps_of_five_seconds() {
        let mut course = Course::default();
        let mut report = fixture::report();
        for second in 0..=400_u32 {
            report.status.totals.inbound.packets_per_second = Some(f64::from(second));
            course.record(&report, fixture::at(second.into()));
        }
        let points = course.points();
        assert_eq!(points.len(), MEASURES);
        let seen: Vec<_> = points.iter().map(|point| point.packets_in.unwrap()).collect();
        let wanted: Vec<_> = (0..60_u32).map(|step| f64::from(105 + 5 * step)).collect();
        assert_eq!(seen, wanted);
    }
}
