//! Throttling: which lines are written, and the summary of those that are suppressed.
//!
//! A call site writes ten lines a second at most, and its last line not again within ten seconds. Other
//! lines are suppressed: counted, and summarized in one line. Nothing is suppressed until
//! [`LogThrottle::enable`]: every line about a failing start matters.

use std::collections::HashMap;
use std::time::Instant;

use tracing::callsite::Identifier;
use vl3lb_common::Duration;

use super::line::Line;

/// Lines of one call site in a second.
const LINES_PER_SECOND: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// Suppressed lines are summarized after this time, and an equal line is suppressed for this time.
const SUMMARY: Duration = Duration::from_secs(10);

/// The recent lines by call site: a few hundred entries.
#[derive(Debug, Default)]
pub(super) struct LogThrottle {
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

impl LogThrottle {
    /// Suppresses lines from now on.
    pub(super) const fn enable(&mut self) {
        self.enabled = true;
    }

    /// Whether to write `line` now; if not, it is counted as suppressed.
    pub(super) fn admit(&mut self, call_site: Identifier, line: &Line, now: Instant) -> bool {
        if !self.enabled {
            return true;
        }
        let call_site = self.call_sites.entry(call_site).or_insert_with(|| CallSite {
            last: None,
            second: now,
            lines: 0,
            suppressed: None,
        });
        call_site.admit(line, now)
    }

    /// Summaries of lines whose suppression began ten seconds before `now` or earlier.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Line> {
        self.summaries(now, SUMMARY)
    }

    /// Summaries of all suppressed lines, for the end of the process.
    pub(super) fn rest(&mut self, now: Instant) -> Vec<Line> {
        self.summaries(now, Duration::ZERO)
    }

    fn summaries(&mut self, now: Instant, age: Duration) -> Vec<Line> {
        self.call_sites
            .values_mut()
            .filter_map(|call_site| call_site.summary(now, age))
            .collect()
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

    fn summary(&mut self, now: Instant, age: Duration) -> Option<Line> {
        let Suppressed { since, count, last } = self
            .suppressed
            .take_if(|suppressed| now.duration_since(suppressed.since) >= age)?;
        let seconds = now.duration_since(since).as_secs().max(1);
        let message = format!("… {count} more in {seconds}s, the last: {}", last.message);
        if let Some((line, written)) = &mut self.last
            && *line == last
        {
            // The summary repeats the line.
            *written = now;
        }
        Some(Line { message, ..last })
    }
}
