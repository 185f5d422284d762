//! Progress of runs on stderr: a bar on a terminal, else a line for each interval.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::load::interval::Interval;
use crate::load::plan::Plan;
use crate::report::number;

/// Progress of all runs of a session.
#[derive(Debug)]
pub(super) struct Progress {
    /// `None` if stderr is not a terminal.
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
                    .expect("a valid template")
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
        let p99 = interval
            .latency
            .map_or_else(|| "-".to_owned(), |latency| number::time(latency.p99));
        let message = format!(
            "{}/s  loss {}  p99 {p99}",
            number::short(interval.per_second(interval.tally.received)),
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

    /// All runs are over: removes the bar.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
