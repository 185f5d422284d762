//! Throttling: which lines are written, and the summary of those that are suppressed.
//!
//! A call site writes at most ten lines a second, and repeats its last line at most every ten seconds. Other
//! lines are suppressed: counted, and summarized in one line. Nothing is suppressed until
//! [`LogThrottle::enable`]: every line about a failing start matters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::layer::{self, Context};
use vl3lb_common::Duration;

/// Lines of one call site in a second.
const LINES_PER_SECOND: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// Suppressed lines are summarized after this time, and an equal line is suppressed for this time.
const SUMMARY: Duration = Duration::from_secs(10);

/// A line without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) target: &'static str,
    /// The message and the fields.
    pub(super) text: String,
}

impl Line {
    fn of(event: &Event<'_>) -> Self {
        let mut text = String::new();
        // Writing to a string cannot fail.
        DefaultFields::new()
            .format_fields(Writer::new(&mut text), event)
            .ok();
        Self {
            level: *event.metadata().level(),
            target: event.metadata().target(),
            text,
        }
    }
}

/// Which lines are written.
#[derive(Debug, Default)]
pub(super) struct LogThrottle(Mutex<Recent>);

/// The recent lines by call site: a few hundred entries.
#[derive(Debug, Default)]
struct Recent {
    enabled: bool,
    call_sites: HashMap<Identifier, CallSite>,
}

#[derive(Debug)]
struct CallSite {
    /// The last written line, and when.
    last: Option<(Line, Instant)>,
    /// Start of the second in which `lines` are counted.
    second: Instant,
    lines: u32,
    suppressed: Option<Suppressed>,
}

/// Lines that were not written and are not summarized yet.
#[derive(Debug)]
struct Suppressed {
    since: Instant,
    count: u64,
    last: Line,
}

/// Lines that were suppressed, for one line of the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) count: u64,
    /// How long they were suppressed, rounded up to a second at least.
    pub(super) seconds: u64,
    pub(super) last: Line,
}

impl LogThrottle {
    /// Suppresses lines from now on.
    pub(super) fn enable(&self) {
        self.recent().enabled = true;
    }

    /// Whether to write `line` now; if not, it is counted as suppressed.
    pub(super) fn admit(&self, call_site: Identifier, line: &Line, now: Instant) -> bool {
        let mut recent = self.recent();
        if !recent.enabled {
            return true;
        }
        let call_site = recent.call_sites.entry(call_site).or_insert_with(|| CallSite {
            last: None,
            second: now,
            lines: 0,
            suppressed: None,
        });
        call_site.admit(line, now)
    }

    /// Summaries of lines whose suppression began ten seconds before `now` or earlier.
    pub(super) fn due(&self, now: Instant) -> Vec<Summary> {
        self.summaries(now, SUMMARY)
    }

    /// Summaries of all suppressed lines, for the end of the process.
    pub(super) fn rest(&self, now: Instant) -> Vec<Summary> {
        self.summaries(now, Duration::ZERO)
    }

    fn summaries(&self, now: Instant, age: Duration) -> Vec<Summary> {
        let mut recent = self.recent();
        let call_sites = recent.call_sites.values_mut();
        call_sites
            .filter_map(|call_site| call_site.summary(now, age))
            .collect()
    }

    /// Consistent after every step, so a panic elsewhere does not spoil it.
    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes the lines that a throttle admits, and all summaries.
#[derive(Debug)]
pub(super) struct Filter(pub(super) Arc<LogThrottle>);

impl<S: Subscriber> layer::Filter<S> for Filter {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        metadata.target() == module_path!()
            || self
                .0
                .admit(metadata.callsite(), &Line::of(event), Instant::now())
    }
}

/// Logs summaries, each at the level of its lines. The event's target is this module.
pub(super) fn write(summaries: &[Summary]) {
    for summary in summaries {
        let Summary { count, seconds, last } = summary;
        let Line { level, target, text } = last;
        macro_rules! line {
            ($log:ident) => {
                tracing::$log!(
                    suppressed = count,
                    from = target,
                    "… {count} more in {seconds}s, the last: {text}"
                )
            };
        }
        match *level {
            Level::ERROR => line!(error),
            Level::WARN => line!(warn),
            Level::INFO => line!(info),
            Level::DEBUG => line!(debug),
            Level::TRACE => line!(trace),
        }
    }
}

impl CallSite {
    fn admit(&mut self, line: &Line, now: Instant) -> bool {
        if now.duration_since(self.second) >= SECOND {
            self.second = now;
            self.lines = 0;
        }
        // An equal line joins the suppressed ones until their summary.
        let joins = self
            .suppressed
            .as_ref()
            .is_some_and(|suppressed| suppressed.last == *line);
        let repeated = self
            .last
            .as_ref()
            .is_some_and(|(last, written)| last == line && (joins || now.duration_since(*written) < SUMMARY));
        if !repeated && self.lines < LINES_PER_SECOND {
            self.lines += 1;
            self.last = Some((line.clone(), now));
            return true;
        }
        match &mut self.suppressed {
            Some(suppressed) => {
                suppressed.count += 1;
                suppressed.last.clone_from(line);
            }
            None => {
                self.suppressed = Some(Suppressed {
                    since: now,
                    count: 1,
                    last: line.clone(),
                });
            }
        }
        false
    }

    fn summary(&mut self, now: Instant, age: Duration) -> Option<Summary> {
        let Suppressed { since, count, last } = self
            .suppressed
            .take_if(|suppressed| now.duration_since(suppressed.since) >= age)?;
        if let Some((line, written)) = &mut self.last
            && *line == last
        {
            // The summary repeats the line.
            *written = now;
        }
        Some(Summary {
            count,
            seconds: now.duration_since(since).as_secs().max(1),
            last,
        })
    }
}
