//! Folding: which lines are written, and what is told about those that are not.
//!
//! A code, which is a place in the program that logs, writes ten lines a second at most, and what
//! it wrote last not again within ten seconds. All else is counted, and told in one line. Nothing
//! is folded until [`Repeats::fold`]: every word about a start that fails matters.

use std::collections::HashMap;
use std::time::Instant;

use tracing::callsite::Identifier;
use vl3lb_common::Duration;

use super::line::Line;

/// Lines that one code may write in a second.
const LINES_PER_SECOND: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// How long folded lines are collected before they are told, and how long a line stands for others
/// that say the same.
const FOLD: Duration = Duration::from_secs(10);

/// What was written lately. There are as many entries as codes: a few hundred.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    folding: bool,
    codes: HashMap<Identifier, Code>,
}

#[derive(Debug)]
struct Code {
    /// What was told last, and when.
    last: Option<(Line, Instant)>,
    /// Since when `lines` are counted.
    second: Instant,
    lines: u32,
    folded: Option<Folded>,
}

/// Lines that were not written and not told yet.
#[derive(Debug)]
struct Folded {
    since: Instant,
    count: u64,
    last: Line,
}

impl Repeats {
    /// From now on lines are folded.
    pub(super) const fn fold(&mut self) {
        self.folding = true;
    }

    /// Whether `line` of `code` is to be written now; if not, it is counted.
    pub(super) fn admit(&mut self, code: Identifier, line: &Line, now: Instant) -> bool {
        if !self.folding {
            return true;
        }
        let code = self.codes.entry(code).or_insert_with(|| Code {
            last: None,
            second: now,
            lines: 0,
            folded: None,
        });
        code.admit(line, now)
    }

    /// What is to be told now about lines that were folded long enough ago.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Line> {
        self.tell(now, FOLD)
    }

    /// What is to be told about all lines that were folded: the end is near.
    pub(super) fn rest(&mut self, now: Instant) -> Vec<Line> {
        self.tell(now, Duration::ZERO)
    }

    fn tell(&mut self, now: Instant, age: Duration) -> Vec<Line> {
        self.codes
            .values_mut()
            .filter_map(|code| code.tell(now, age))
            .collect()
    }
}

impl Code {
    fn admit(&mut self, line: &Line, now: Instant) -> bool {
        if now.duration_since(self.second) >= SECOND {
            self.second = now;
            self.lines = 0;
        }
        // While some are folded, the next joins them: they are told together soon.
        let joins = self.folded.as_ref().is_some_and(|folded| folded.last == *line);
        let repeated = self
            .last
            .as_ref()
            .is_some_and(|(last, told)| last == line && (joins || now.duration_since(*told) < FOLD));
        if !repeated && self.lines < LINES_PER_SECOND {
            self.lines += 1;
            self.last = Some((line.clone(), now));
            return true;
        }
        match &mut self.folded {
            Some(folded) => {
                folded.count += 1;
                folded.last.clone_from(line);
            }
            None => {
                self.folded = Some(Folded {
                    since: now,
                    count: 1,
                    last: line.clone(),
                });
            }
        }
        false
    }

    fn tell(&mut self, now: Instant, age: Duration) -> Option<Line> {
        let Folded { since, count, last } = self
            .folded
            .take_if(|folded| now.duration_since(folded.since) >= age)?;
        let seconds = now.duration_since(since).as_secs().max(1);
        let message = format!("… {count} more in {seconds}s, the last: {}", last.message);
        if let Some((line, told)) = &mut self.last
            && *line == last
        {
            // Told again just now, so it stands for others for another while.
            *told = now;
        }
        Some(Line { message, ..last })
    }
}
