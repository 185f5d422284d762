//! Counts the checks of one backend into a verdict.
//!
//! A backend starts as unknown. The first good check makes it up. `fall` failed checks in a row make it down, from
//! unknown too, so that one packet lost while a link comes up does not remove all backends; `rise` good ones in a row
//! make it up again.

/// The result of all checks of a backend so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Too few checks yet.
    #[default]
    Unknown,
    Up,
    Down,
}

/// Number of checks in a row that change a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thresholds {
    pub(super) rise: u32,
    pub(super) fall: u32,
}

/// The checks of one backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    verdict: Verdict,
    /// Result of the last checks in a row.
    good: bool,
    /// Number of them.
    consecutive: u32,
    /// Number of them that changes the verdict, or has changed it.
    needed: u32,
}

impl Tally {
    pub(super) const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Checks in a row with the same result.
    pub(super) const fn consecutive(&self) -> u32 {
        self.consecutive
    }

    /// Number of checks in a row, with the result of the last one, that changes the verdict or has changed it.
    pub(super) const fn needed(&self) -> u32 {
        self.needed
    }

    /// Counts a check. True if the verdict changed.
    pub(super) fn record(&mut self, good: bool, thresholds: Thresholds) -> bool {
        let row = if good == self.good { self.consecutive } else { 0 };
        self.consecutive = row.saturating_add(1);
        self.good = good;
        let (to, needed) = match (good, self.verdict) {
            (true, Verdict::Unknown) => (Verdict::Up, 1),
            (true, Verdict::Up | Verdict::Down) => (Verdict::Up, thresholds.rise),
            (false, _) => (Verdict::Down, thresholds.fall),
        };
        self.needed = needed;
        if self.verdict == to || self.consecutive < needed {
            return false;
        }
        self.verdict = to;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` is a good check, `-` a failed one; the verdict after each, by its first letter.
    fn run(checks: &str, rise: u32, fall: u32) -> String {
        let mut tally = Tally::default();
        let letter = |check| {
            let before = tally.verdict();
            let changed = tally.record(check == '+', Thresholds { rise, fall });
            assert_eq!(changed, tally.verdict() != before, "{checks}");
            match tally.verdict() {
                Verdict::Unknown => '?',
                Verdict::Up => 'u',
                Verdict::Down => 'd',
            }
        };
        checks.chars().map(letter).collect()
    }

    #[test]
    fn verdicts_follow_consecutive_results() {
        for (what, checks, rise, fall, want) in [
            ("the first good check is enough", "+", 2, 3, "u"),
            ("also after too few failures", "--+", 2, 3, "??u"),
            ("failures only", "---", 2, 3, "??d"),
            ("a single failure changes nothing", "+-+-+", 2, 3, "uuuuu"),
            ("failures must be in a row", "+--+--+---", 2, 3, "uuuuuuuuud"),
            ("so must successes", "+---+-+-++", 2, 3, "uuuddddddu"),
            ("thresholds of one", "+-+-", 1, 1, "udud"),
            ("down stays down", "+-----", 2, 2, "uudddd"),
            (
                "counts start again after each verdict",
                "+--++-+--",
                2,
                2,
                "uudduuuud",
            ),
        ] {
            assert_eq!(run(checks, rise, fall), want, "{what}: {checks}");
        }
    }

    #[test]
    fn consecutive_and_needed_count_towards_the_next_verdict() {
        let thresholds = Thresholds { rise: 2, fall: 3 };
        let mut tally = Tally::default();
        let mut counts = Vec::new();
        for good in [true, true, false, false, false, false, true] {
            tally.record(good, thresholds);
            counts.push((tally.consecutive(), tally.needed()));
        }
        assert_eq!(counts, [(1, 1), (2, 2), (1, 3), (2, 3), (3, 3), (4, 3), (1, 2)]);
    }

    #[test]
    fn lower_counts_apply_from_the_next_check_on() {
        let mut tally = Tally::default();
        for _ in 0..4 {
            tally.record(false, Thresholds { rise: 2, fall: 9 });
        }
        assert_eq!(tally.verdict(), Verdict::Unknown);
        assert!(tally.record(false, Thresholds { rise: 2, fall: 3 }));
    }
}
