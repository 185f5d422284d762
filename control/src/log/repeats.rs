//! Folding of lines that repeat: a few are written, the others are counted and told together.

use std::collections::HashMap;
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::{Level, Metadata};
use vl3lb_common::Duration;

/// Lines of one place in the code that are written in a second; the others are folded.
const LINES_PER_SECOND: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// How long folded lines are collected before they are told.
const FOLD: Duration = Duration::from_secs(10);

/// What was written lately, by the place in the code that wrote it. There are as many entries as
/// such places: a few hundred.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    codes: HashMap<Identifier, Code>,
}

#[derive(Debug)]
struct Code {
    level: Level,
    target: String,
    second: Instant,
    lines: u32,
    folded: Option<Folding>,
}

#[derive(Debug)]
struct Folding {
    since: Instant,
    count: u64,
    last: String,
}

/// Lines that were not written, to be told as one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Folded {
    pub(super) level: Level,
    pub(super) target: String,
    pub(super) message: String,
}

impl Repeats {
    /// Whether a line may be written now; if not, it is counted.
    pub(super) fn admit(&mut self, metadata: &Metadata<'_>, message: &str, now: Instant) -> bool {
        let code = self.codes.entry(metadata.callsite()).or_insert_with(|| Code {
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            second: now,
            lines: 0,
            folded: None,
        });
        if now.duration_since(code.second) >= SECOND {
            code.second = now;
            code.lines = 0;
        }
        if code.lines < LINES_PER_SECOND {
            code.lines += 1;
            return true;
        }
        let folding = code.folded.get_or_insert_with(|| Folding {
            since: now,
            count: 0,
            last: String::new(),
        });
        folding.count += 1;
        message.clone_into(&mut folding.last);
        false
    }

    /// What was collected for long enough.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Folded> {
        self.take(now, FOLD)
    }

    /// All that was collected: the end is near.
    pub(super) fn rest(&mut self, now: Instant) -> Vec<Folded> {
        self.take(now, Duration::ZERO)
    }

    fn take(&mut self, now: Instant, age: Duration) -> Vec<Folded> {
        let due = |code: &mut Code| {
            let folding = code
                .folded
                .take_if(|folding| now.duration_since(folding.since) >= age)?;
            let seconds = now.duration_since(folding.since).as_secs_f64().ceil();
            Some(Folded {
                level: code.level,
                target: code.target.clone(),
                message: format!(
                    "… {} more in {seconds}s, the last: {}",
                    folding.count, folding.last
                ),
            })
        };
        self.codes.values_mut().filter_map(due).collect()
    }
}
