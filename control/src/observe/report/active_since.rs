//! Since when each warning is active.

use std::collections::HashMap;

use crate::api::{Time, Warning};

/// Identity of a warning: code, subject, next step. Numbers in the text may change.
type Key = (String, String, Option<String>);

/// When each of the present warnings became active.
#[derive(Debug, Default)]
pub(super) struct ActiveSince(HashMap<Key, Time>);

impl ActiveSince {
    /// Sets `since` in `warnings`, which are all warnings of `now`, where a warning does not state it
    /// itself: the first report of an unbroken series that had the warning.
    pub(super) fn update(&mut self, warnings: &mut [Warning], now: Time) {
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

    fn update(active_since: &mut ActiveSince, mut warnings: Vec<Warning>, now: u64) -> Vec<Option<Time>> {
        active_since.update(&mut warnings, at(now));
        warnings.into_iter().map(|warning| warning.since).collect()
    }

    #[test]
    fn changed_numbers_keep_the_time_of_a_warning() {
        let mut active_since = ActiveSince::default();
        update(&mut active_since, vec![warning("ledger", "3/s")], 10);
        let since = update(
            &mut active_since,
            vec![warning("dns", "1/s"), warning("ledger", "5/s")],
            20,
        );
        assert_eq!(since, [Some(at(20)), Some(at(10))]);
    }

    #[test]
    fn a_warning_that_returns_is_new() {
        let mut active_since = ActiveSince::default();
        update(&mut active_since, vec![warning("ledger", "3/s")], 10);
        update(&mut active_since, Vec::new(), 20);
        let since = update(&mut active_since, vec![warning("ledger", "3/s")], 30);
        assert_eq!(since, [Some(at(30))]);
    }

    #[test]
    fn a_warning_with_a_time_of_its_own_keeps_it() {
        let known = Warning {
            since: Some(at(1)),
            ..warning("ledger", "down")
        };
        assert_eq!(
            update(&mut ActiveSince::default(), vec![known], 10),
            [Some(at(1))]
        );
    }
}
