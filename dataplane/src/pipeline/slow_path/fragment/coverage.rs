//! Which bytes of a datagram its fragments have covered so far.

/// Disjoint runs of bytes that are remembered: enough for a datagram of 64 KB whose fragments of 1,000 bytes or more
/// arrive in any order.
const RUNS: usize = 32;

/// The bytes of one datagram that were seen, as disjoint runs in order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coverage {
    runs: [Run; RUNS],
    count: u8,
    /// The datagram's length, once its last fragment was seen.
    end: Option<u16>,
}

/// From the first byte to the one behind the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Run {
    from: u16,
    to: u16,
}

/// How a fragment fits to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It has new bytes only.
    New,
    /// All its bytes were seen before.
    Repeated,
    /// Some of its bytes were seen before, or it contradicts the datagram's length.
    Conflict,
    /// It would leave more than 32 runs.
    TooManyGaps,
}

impl Coverage {
    pub(super) const EMPTY: Self = Self {
        runs: [Run { from: 0, to: 0 }; RUNS],
        count: 0,
        end: None,
    };

    /// Adds the bytes from `from` to `to`, which are not empty; `more` fragments follow them. Unless it is
    /// [`Fit::New`], nothing changes. O(runs).
    pub(super) fn add(&mut self, from: u16, to: u16, more: bool) -> Fit {
        let runs = &self.runs[..usize::from(self.count)];
        // The first run that ends behind the new one's begin or at it.
        let at = runs.partition_point(|run| run.to < from);
        let last = runs.last().map_or(0, |run| run.to);
        if self.end.is_some_and(|end| to > end || !more && to != end) || !more && last > to {
            return Fit::Conflict;
        }
        let joins_left = runs.get(at).is_some_and(|run| run.to == from);
        let next = at + usize::from(joins_left);
        if let Some(run) = runs.get(next).filter(|run| run.from < to) {
            return if run.from <= from && to <= run.to {
                Fit::Repeated
            } else {
                Fit::Conflict
            };
        }
        let joins_right = runs.get(next).is_some_and(|run| run.from == to);
        match (joins_left, joins_right) {
            (true, true) => {
                self.runs[at].to = self.runs[next].to;
                self.remove(next);
            }
            (true, false) => self.runs[at].to = to,
            (false, true) => self.runs[next].from = from,
            (false, false) if runs.len() == RUNS => return Fit::TooManyGaps,
            (false, false) => self.insert(at, Run { from, to }),
        }
        if !more {
            self.end = Some(to);
        }
        Fit::New
    }

    /// Whether the whole datagram was seen.
    pub(super) fn is_complete(&self) -> bool {
        self.count == 1 && self.runs[0].from == 0 && self.end == Some(self.runs[0].to)
    }

    fn insert(&mut self, at: usize, run: Run) {
        let count = usize::from(self.count);
        self.runs.copy_within(at..count, at + 1);
        self.runs[at] = run;
        self.count += 1;
    }

    fn remove(&mut self, at: usize) {
        let count = usize::from(self.count);
        self.runs.copy_within(at + 1..count, at);
        self.count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fragments_in_any_order_complete_a_datagram_once() {
        let fragments: Vec<_> = (0..48_u16)
            .map(|index| (index * 1_360, (index * 1_360).saturating_add(1_360), index < 47))
            .collect();
        let mut orders = vec![fragments.clone(), fragments.iter().rev().copied().collect()];
        // Even ones first: the most gaps that there can be.
        let (even, odd): (Vec<_>, Vec<_>) = fragments.iter().partition(|&&(from, ..)| from / 1_360 % 2 == 0);
        orders.push([even, odd].concat());
        for order in orders {
            let mut coverage = Coverage::EMPTY;
            for (seen, &(from, to, more)) in order.iter().enumerate() {
                assert!(!coverage.is_complete(), "after {seen} fragments");
                assert_eq!(coverage.add(from, to, more), Fit::New);
            }
            assert!(coverage.is_complete());
        }
    }

    #[test]
    fn more_gaps_than_are_remembered_are_refused() {
        let mut coverage = Coverage::EMPTY;
        for gap in 0..32 {
            assert_eq!(coverage.add(8 + gap * 16, 16 + gap * 16, true), Fit::New);
        }
        assert_eq!(coverage.add(2_000, 2_008, true), Fit::TooManyGaps);
        assert_eq!(coverage.add(16, 24, true), Fit::New, "it fills a gap");
    }

    /// The same, byte by byte.
    #[derive(Default)]
    struct Model {
        seen: std::collections::BTreeSet<u16>,
        end: Option<u16>,
    }

    impl Model {
        fn add(&mut self, from: u16, to: u16, more: bool) -> Fit {
            let beyond = self.seen.last().is_some_and(|&last| last >= to);
            if self.end.is_some_and(|end| to > end || !more && to != end) || !more && beyond {
                return Fit::Conflict;
            }
            let known = (from..to).filter(|byte| self.seen.contains(byte)).count();
            if known == usize::from(to - from) {
                return Fit::Repeated;
            }
            if known > 0 {
                return Fit::Conflict;
            }
            self.seen.extend(from..to);
            if !more {
                self.end = Some(to);
            }
            Fit::New
        }

        fn is_complete(&self) -> bool {
            self.end.is_some_and(|end| self.seen.len() == usize::from(end))
        }
    }

    proptest! {
        #[test]
        fn runs_are_the_same_as_single_bytes(
            fragments in prop::collection::vec((0..12_u16, 1..4_u16, prop::bool::weighted(0.9)), 1..40),
        ) {
            let (mut coverage, mut model) = (Coverage::EMPTY, Model::default());
            for (from, units, more) in fragments {
                let (from, to) = (from * 8, (from + units) * 8);
                prop_assert_eq!(coverage.add(from, to, more), model.add(from, to, more));
                prop_assert_eq!(coverage.is_complete(), model.is_complete());
            }
        }
    }
}
