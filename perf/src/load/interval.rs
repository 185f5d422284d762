//! The intervals of a run: each thread cuts its counts, and those of all threads are put together.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::latency::{Latency, Percentiles};
use super::run::{Outcome, nanos};
use super::tally::Tally;

/// The counts and round trips of one interval of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interval {
    /// Since counting began.
    pub(crate) start: Duration,
    pub(crate) end: Duration,
    pub(crate) tally: Tally,
    pub(crate) latency: Option<Percentiles>,
}

impl Interval {
    /// A count of it, per second.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    pub(crate) fn per_second(&self, count: u64) -> f64 {
        let length = self.end.saturating_sub(self.start);
        count as f64 / length.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// One thread's part of an interval.
#[derive(Debug)]
pub(super) struct Sample {
    index: u32,
    tally: Tally,
    latency: Histogram<u64>,
    /// Where it ended: at the interval's end, or at that of the run.
    end: u64,
}

/// Cuts one thread's counts into intervals, from the end of the warm-up on.
#[derive(Debug)]
pub(crate) struct Window {
    samples: Option<mpsc::Sender<Sample>>,
    warm_up: u64,
    /// When the run ends: what comes later belongs to its last interval.
    end: u64,
    length: u64,
    index: u32,
    /// The counts at the start of this interval.
    before: Tally,
    latency: Histogram<u64>,
}

impl Window {
    pub(super) fn new(
        warm_up: Duration,
        duration: Duration,
        length: Duration,
        samples: Option<mpsc::Sender<Sample>>,
    ) -> Self {
        Self {
            samples,
            warm_up: nanos(warm_up),
            end: nanos(warm_up + duration),
            length: nanos(length).max(1),
            index: 0,
            before: Tally::default(),
            latency: Latency::new().corrected,
        }
    }

    /// A window whose intervals are not reported.
    pub(crate) fn unseen() -> Self {
        Self::new(Duration::ZERO, Duration::ZERO, Duration::from_secs(3600), None)
    }

    /// When this interval ends, nanoseconds since the start of the run.
    pub(super) fn next(&self) -> u64 {
        self.warm_up + self.length.saturating_mul(u64::from(self.index) + 1)
    }

    /// Adds a round trip to this interval.
    pub(super) fn record(&mut self, intended: u64, received: u64) {
        self.latency
            .saturating_record(received.saturating_sub(intended).max(1));
    }

    /// Closes the intervals that are over at `now`.
    pub(super) fn look(&mut self, now: u64, outcome: &Outcome) {
        while now >= self.next() && self.next() < self.end {
            let end = self.next();
            self.emit(end, outcome);
        }
    }

    /// Closes the last interval, at the end of the run.
    pub(super) fn close(&mut self, outcome: &Outcome) {
        let end = outcome.ended;
        if end > self.next() - self.length {
            self.emit(end, outcome);
        }
    }

    fn emit(&mut self, end: u64, outcome: &Outcome) {
        let sample = Sample {
            index: self.index,
            tally: outcome.tally.since(&self.before),
            latency: self.latency.clone(),
            end: end.saturating_sub(self.warm_up),
        };
        self.latency.reset();
        self.before = outcome.tally;
        self.index += 1;
        if let Some(samples) = &self.samples {
            samples.send(sample).expect("the merger outlives the threads");
        }
    }
}

/// Puts the samples of all threads together, interval by interval.
#[derive(Debug)]
pub(super) struct Merger {
    length: Duration,
    threads: usize,
    open: BTreeMap<u32, (usize, Sample)>,
    done: Vec<Interval>,
}

impl Merger {
    /// For intervals of `length` and so many threads.
    pub(super) fn new(length: Duration, threads: usize) -> Self {
        Self {
            length,
            threads,
            open: BTreeMap::new(),
            done: Vec::new(),
        }
    }

    /// Adds a sample; `observer` sees its interval if it was the last one of it.
    pub(super) fn add(&mut self, sample: &Sample, observer: &mut dyn FnMut(&Interval)) {
        let (count, merged) = self.open.entry(sample.index).or_insert_with(|| {
            let empty = Sample {
                index: sample.index,
                tally: Tally::default(),
                latency: Latency::new().corrected,
                end: 0,
            };
            (0, empty)
        });
        *count += 1;
        merged.tally += sample.tally;
        merged.end = merged.end.max(sample.end);
        merged
            .latency
            .add(&sample.latency)
            .expect("histograms of equal bounds");
        if *count == self.threads {
            self.close_first(observer);
        }
    }

    fn close_first(&mut self, observer: &mut dyn FnMut(&Interval)) {
        if let Some((index, (_, sample))) = self.open.pop_first() {
            let interval = Interval {
                start: self.length * index,
                end: Duration::from_nanos(sample.end),
                tally: sample.tally,
                latency: Percentiles::of(&sample.latency),
            };
            observer(&interval);
            self.done.push(interval);
        }
    }

    /// Closes what is open and returns all intervals, in their order.
    pub(super) fn finish(mut self, observer: &mut dyn FnMut(&Interval)) -> Vec<Interval> {
        while !self.open.is_empty() {
            self.close_first(observer);
        }
        self.done
    }
}
