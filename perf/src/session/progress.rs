//! What is shown while runs go on: a bar on a terminal, else a line for each interval. Always on stderr.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::load::interval::Interval;
use crate::load::plan::Plan;
use crate::report::number;

/// Progress of all runs of a session.
#[derive(Debug)]
pub(super) struct Progress {
    /// `None` where nobody would see it move.
    bar: Option<ProgressBar>,
    run: Duration,
    warm_up: Duration,
    runs: u32,
    current: u32,
}

impl Progress {
    pub(super) fn new(plan: &Plan, runs: u32, title: &str) -> Self {
        eprintln!("load  {title}");
        let run = plan.warm_up + plan.duration;
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(millis(run * runs));
            bar.set_style(
                ProgressStyle::with_template("{prefix}  [{bar:20}]  {eta} left  {msg}")
                    .expect("a template that is right")
                    .progress_chars("=> "),
            );
            bar
        });
        Self {
            bar,
            run,
            warm_up: plan.warm_up,
            runs,
            current: 0,
        }
    }

    /// A run begins.
    pub(super) fn start(&mut self, number: u32) {
        self.current = number;
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("run {}/{}", number + 1, self.runs));
            bar.set_position(millis(self.run * number));
            bar.set_message("warm-up");
        }
    }

    /// An interval is over.
    pub(super) fn show(&self, interval: &Interval) {
        let seconds = interval.end.saturating_sub(interval.start).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let rate = interval.tally.received as f64 / seconds.max(f64::MIN_POSITIVE);
        let p99 = interval
            .latency
            .map_or_else(|| "-".to_owned(), |latency| number::time(latency.p99));
        let message = format!(
            "{}/s  loss {}  p99 {p99}",
            number::short(rate),
            number::percent(interval.tally.loss()),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(millis(self.run * self.current + self.warm_up + interval.end));
                bar.set_message(message);
            }
            None => eprintln!(
                "run {}/{}  {:.1}s  {message}",
                self.current + 1,
                self.runs,
                interval.end.as_secs_f64()
            ),
        }
    }

    /// All runs are over: the bar goes.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
