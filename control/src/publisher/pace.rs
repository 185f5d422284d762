//! Decides when the next snapshot is due.
//!
//! The desired set and the network each have a pause of their own after a snapshot with changes of theirs: a change of
//! backends does not wait because neighbours answer. The network's pause is longer, since neighbours answer one after
//! the other and are better taken together.

use tokio::time::Instant;
use vl3lb_common::Duration;

/// The network's pauses are this many times as long.
const NETWORK: u32 = 2;

/// The times of the next snapshots. Pure.
#[derive(Debug)]
pub(super) struct Pace {
    next: Option<Instant>,
    /// Ends of the pauses.
    desired_from: Instant,
    network_from: Instant,
    /// Whether the desired set has changed since the last step.
    desired: bool,
}

impl Pace {
    /// The first step is due at `now`.
    pub(super) const fn from(now: Instant) -> Self {
        Self {
            next: Some(now),
            desired_from: now,
            network_from: now,
            desired: false,
        }
    }

    /// When the next step is due; `None` if it needs a change.
    pub(super) const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// The desired set changed at `now`.
    pub(super) fn desired_changed(&mut self, now: Instant) {
        self.desired = true;
        self.at(now.max(self.desired_from));
    }

    /// The network changed at `now`.
    pub(super) fn network_changed(&mut self, now: Instant) {
        self.at(now.max(self.network_from));
    }

    /// A step ended at `now` and is followed by a pause; the next one is due after `wait` at the latest.
    pub(super) fn stepped(&mut self, now: Instant, pause: Duration, wait: Option<Duration>) {
        self.network_from = now + pause * NETWORK;
        if std::mem::take(&mut self.desired) {
            self.desired_from = now + pause;
        }
        self.next = wait.map(|wait| now + wait.max(pause));
    }

    fn at(&mut self, time: Instant) {
        self.next = Some(self.next.map_or(time, |next| next.min(time)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(5);

    /// A pace at rest, and a time after which no pause is due.
    fn rested() -> (Pace, Instant) {
        let start = Instant::now();
        let mut pace = Pace::from(start);
        pace.stepped(start, PAUSE, None);
        (pace, start + 2 * PAUSE)
    }

    #[test]
    fn the_first_change_is_due_at_once_and_later_ones_after_a_pause() {
        type Change = fn(&mut Pace, Instant);
        let changes: [(Change, Duration); 2] = [
            (Pace::desired_changed, PAUSE),
            (Pace::network_changed, PAUSE * NETWORK),
        ];
        for (change, pause) in changes {
            let (mut pace, now) = rested();
            assert_eq!(pace.next(), None);
            change(&mut pace, now);
            assert_eq!(pace.next(), Some(now));
            pace.stepped(now, PAUSE, None);
            change(&mut pace, now);
            assert_eq!(pace.next(), Some(now + pause));
        }
    }

    #[test]
    fn the_desired_set_does_not_wait_for_the_network() {
        let (mut pace, now) = rested();
        pace.network_changed(now);
        pace.stepped(now, PAUSE, None);
        pace.network_changed(now);
        pace.desired_changed(now);
        assert_eq!(pace.next(), Some(now));
        // That step took the network too.
        pace.stepped(now, PAUSE, None);
        assert_eq!(pace.next(), None);
    }

    #[test]
    fn the_network_waits_after_a_change_of_the_desired_set() {
        let (mut pace, now) = rested();
        pace.desired_changed(now);
        pace.stepped(now, PAUSE, None);
        pace.network_changed(now);
        assert_eq!(pace.next(), Some(now + PAUSE * NETWORK));
    }

    #[test]
    fn a_deadline_respects_the_pause_and_does_not_delay_changes() {
        let (mut pace, now) = rested();
        let wait = Duration::from_secs(1);
        pace.stepped(now, PAUSE, Some(wait));
        assert_eq!(pace.next(), Some(now + wait));
        pace.desired_changed(now + PAUSE);
        assert_eq!(pace.next(), Some(now + PAUSE));
        pace.stepped(now, PAUSE, Some(Duration::ZERO));
        assert_eq!(pace.next(), Some(now + PAUSE));
    }
}
