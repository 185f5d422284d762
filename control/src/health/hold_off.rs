//! Counts the new flows that a backend fails into hold-offs, each twice as long as the one before.

use tokio::time::Instant;
use vl3lb_common::Duration;

use crate::config::PassiveCheck;

/// New flows since the last look: failed by RST, by silence and by ICMP unreachable, and answered by SYN-ACK.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct NewFlows {
    pub(super) failed: u64,
    pub(super) answered: u64,
}

/// The hold-offs of one backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct HoldOff {
    /// Failed flows in a row.
    failures: u64,
    phase: Phase,
    /// Length of the present hold-off, or of the last one.
    length: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// It was never held off.
    #[default]
    Untried,
    HeldUntil(Instant),
    /// Since that time it gets new flows again, and has answered one or not.
    Released {
        at: Instant,
        answered: bool,
    },
}

impl HoldOff {
    /// Whether the backend is held off.
    pub(super) const fn is_held(&self) -> bool {
        matches!(self.phase, Phase::HeldUntil(_))
    }

    /// Counts `flows` at the time `now`. True if a hold-off begins or ends.
    ///
    /// A flow that was answered ends the row: which one came first within a look is not known, and a backend that answers is
    /// not dead. A backend that has answered, and was used for as long as its last hold-off, begins with the shortest again.
    pub(super) fn observe(&mut self, flows: NewFlows, now: Instant, rule: &PassiveCheck) -> bool {
        if let Phase::HeldUntil(until) = self.phase {
            // Flows that end meanwhile were opened before.
            if now < until {
                return false;
            }
            self.failures = 0;
            self.phase = Phase::Released {
                at: now,
                answered: false,
            };
            return true;
        }
        if flows.answered > 0 {
            self.failures = 0;
            if let Phase::Released { answered, .. } = &mut self.phase {
                *answered = true;
            }
            return false;
        }
        self.failures = self.failures.saturating_add(flows.failed);
        if self.failures < u64::from(rule.failures) {
            return false;
        }
        let is_repeated = match self.phase {
            Phase::Released { at, answered } => !answered || now < at + self.length,
            Phase::Untried | Phase::HeldUntil(_) => false,
        };
        self.length = if is_repeated {
            (self.length * 2).clamp(rule.hold_off, rule.max_hold_off)
        } else {
            rule.hold_off
        };
        self.phase = Phase::HeldUntil(now + self.length);
        true
    }

    /// Why the backend is held off, or that this is over; `None` if it never was, or has answered since.
    pub(super) fn why(&self) -> Option<String> {
        let length = crate::config::duration::format(self.length);
        match self.phase {
            Phase::HeldUntil(_) => {
                let failures = self.failures;
                Some(format!(
                    "passive: {failures} new flows in a row failed; held off for {length}"
                ))
            }
            Phase::Released { answered: false, .. } => {
                Some(format!("passive: the hold-off of {length} is over"))
            }
            Phase::Released { .. } | Phase::Untried => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> PassiveCheck {
        PassiveCheck {
            failures: 3,
            hold_off: Duration::from_secs(10),
            max_hold_off: Duration::from_secs(35),
        }
    }

    const GOOD: NewFlows = NewFlows {
        failed: 0,
        answered: 1,
    };
    const BAD: NewFlows = NewFlows {
        failed: 1,
        answered: 0,
    };
    const NONE: NewFlows = NewFlows {
        failed: 0,
        answered: 0,
    };

    #[test]
    fn failures_in_a_row_hold_a_backend_off() {
        let now = Instant::now();
        for (what, looks, want) in [
            ("too few", &[BAD, BAD][..], false),
            ("in a row", &[BAD, BAD, BAD], true),
            ("with pauses", &[BAD, NONE, BAD, NONE, BAD], true),
            ("an answer between", &[BAD, BAD, GOOD, BAD, BAD], false),
            (
                "at once",
                &[NewFlows {
                    failed: 9,
                    answered: 0,
                }],
                true,
            ),
            (
                "some are answered",
                &[
                    NewFlows {
                        failed: 9,
                        answered: 1,
                    },
                    BAD,
                    BAD,
                ],
                false,
            ),
        ] {
            let mut hold_off = HoldOff::default();
            for look in looks {
                hold_off.observe(*look, now, &rule());
            }
            assert_eq!(hold_off.is_held(), want, "{what}");
        }
    }

    #[test]
    fn each_hold_off_in_a_row_is_twice_as_long_up_to_a_limit() {
        let mut now = Instant::now();
        let mut hold_off = HoldOff::default();
        let all_fail = NewFlows {
            failed: 5,
            answered: 0,
        };
        for seconds in [10, 20, 35, 35] {
            assert!(hold_off.observe(all_fail, now, &rule()));
            let why = hold_off.why().unwrap();
            let length = crate::config::duration::format(Duration::from_secs(seconds));
            assert_eq!(
                why,
                format!("passive: 5 new flows in a row failed; held off for {length}")
            );
            now += Duration::from_secs(seconds - 1);
            assert!(!hold_off.observe(BAD, now, &rule()), "held");
            now += Duration::from_secs(1);
            assert!(hold_off.observe(BAD, now, &rule()), "over");
            assert!(!hold_off.is_held());
            assert_eq!(
                hold_off.why().unwrap(),
                format!("passive: the hold-off of {length} is over")
            );
            // It answers for a while, but not as long as it was held off.
            now += Duration::from_secs(9);
            assert!(!hold_off.observe(GOOD, now, &rule()));
            assert_eq!(hold_off.why(), None);
        }
        now += Duration::from_secs(40);
        hold_off.observe(all_fail, now, &rule());
        assert!(
            hold_off.why().unwrap().ends_with("held off for 10s"),
            "the shortest again"
        );
        // One that never answers is no better for being left alone.
        now += Duration::from_secs(10);
        hold_off.observe(NONE, now, &rule());
        now += Duration::from_secs(1000);
        hold_off.observe(all_fail, now, &rule());
        assert!(hold_off.why().unwrap().ends_with("held off for 20s"));
    }
}
