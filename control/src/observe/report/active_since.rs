//! Since when there is something to warn of.

use std::collections::HashMap;

use crate::api::{Time, Warning};

/// What makes two warnings the same one: numbers in the text may change.
type Key = (String, String, Option<String>);

/// When each of the present warnings was there for the first time.
#[derive(Debug, Default)]
pub(super) struct Onsets(HashMap<Key, Time>);

impl Onsets {
    /// Completes `warnings`, which are all there are at `now`: one that does not know since when it is
    /// true has been seen since then, without a gap.
    pub(super) fn follow(&mut self, warnings: &mut [Warning], now: Time) {
        let mut present = HashMap::with_capacity(warnings.len());
        for warning in warnings {
            let key = key(warning);
            let since = self.0.get(&key).copied().unwrap_or(now);
            warning.since.get_or_insert(since);
            present.insert(key, since);
        }
        self.0 = present;
    }
}

fn key(warning: &Warning) -> Key {
    let subject = warning.subject.as_ref().unwrap_or(&warning.text);
    (warning.code.clone(), subject.clone(), warning.next.clone())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use crate::api::Severity;

    use super::*;

    fn at(seconds: u64) -> Time {
        Time(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn warning(subject: &str, text: &str) -> Warning {
        Warning {
            severity: Severity::Warn,
            code: "drops".to_owned(),
            subject: Some(subject.to_owned()),
            since: None,
            text: text.to_owned(),
            next: None,
        }
    }

    fn follow(onsets: &mut Onsets, mut warnings: Vec<Warning>, now: u64) -> Vec<Option<Time>> {
        onsets.follow(&mut warnings, at(now));
        warnings.into_iter().map(|warning| warning.since).collect()
    }

    #[test]
    fn a_warning_dates_from_when_it_came_and_not_from_when_its_numbers_changed() {
        let mut onsets = Onsets::default();
        follow(&mut onsets, vec![warning("ledger", "3/s")], 10);
        let since = follow(
            &mut onsets,
            vec![warning("dns", "1/s"), warning("ledger", "5/s")],
            20,
        );
        assert_eq!(since, [Some(at(20)), Some(at(10))]);
    }

    #[test]
    fn one_that_comes_again_is_new() {
        let mut onsets = Onsets::default();
        follow(&mut onsets, vec![warning("ledger", "3/s")], 10);
        follow(&mut onsets, Vec::new(), 20);
        let since = follow(&mut onsets, vec![warning("ledger", "3/s")], 30);
        assert_eq!(since, [Some(at(30))]);
    }

    #[test]
    fn one_that_knows_better_keeps_its_time() {
        let known = Warning {
            since: Some(at(1)),
            ..warning("ledger", "down")
        };
        assert_eq!(follow(&mut Onsets::default(), vec![known], 10), [Some(at(1))]);
    }
}
