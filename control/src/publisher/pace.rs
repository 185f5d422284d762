//! When the next snapshot is due.
//!
//! What is wanted, and what the network is, have a pause of their own after each snapshot that had something
//! new of it: so a change of backends does not wait because neighbours answer. The network's is longer, since
//! neighbours answer one after the other and are better taken together.

use tokio::time::Instant;
use vl3lb_common::Duration;

/// The network's pauses are so many times as long.
const NETWORK: u32 = 2;

/// Decides when to look for what is new. Pure.
#[derive(Debug)]
pub(super) struct Pace {
    next: Option<Instant>,
    /// Pauses end then.
    wanted_from: Instant,
    network_from: Instant,
    /// Whether what is wanted has changed since the last look.
    wanted: bool,
}

impl Pace {
    /// The first look is due at `now`.
    pub(super) const fn from(now: Instant) -> Self {
        Self {
            next: Some(now),
            wanted_from: now,
            network_from: now,
            wanted: false,
        }
    }

    /// When to look; `None` if there is nothing to wait for.
    pub(super) const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// What is wanted changed at `now`.
    pub(super) fn wanted(&mut self, now: Instant) {
        self.wanted = true;
        self.at(now.max(self.wanted_from));
    }

    /// The network changed at `now`.
    pub(super) fn network(&mut self, now: Instant) {
        self.at(now.max(self.network_from));
    }

    /// A look ended at `now`, that makes a pause of `pause`; the next is due after `wait` at the latest.
    pub(super) fn stepped(&mut self, now: Instant, pause: Duration, wait: Option<Duration>) {
        self.network_from = now + pause * NETWORK;
        if std::mem::take(&mut self.wanted) {
            self.wanted_from = now + pause;
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

    /// A pace at rest, and a moment from which on nothing has to wait.
    fn rested() -> (Pace, Instant) {
        let start = Instant::now();
        let mut pace = Pace::from(start);
        pace.stepped(start, PAUSE, None);
        (pace, start + 2 * PAUSE)
    }

    #[test]
    fn the_first_change_is_due_at_once_and_those_that_follow_after_a_pause() {
        type Change = fn(&mut Pace, Instant);
        let changes: [(Change, Duration); 2] = [(Pace::wanted, PAUSE), (Pace::network, PAUSE * NETWORK)];
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
    fn what_is_wanted_does_not_wait_for_the_network() {
        let (mut pace, now) = rested();
        pace.network(now);
        pace.stepped(now, PAUSE, None);
        pace.network(now);
        pace.wanted(now);
        assert_eq!(pace.next(), Some(now));
        // The network was looked at with it.
        pace.stepped(now, PAUSE, None);
        assert_eq!(pace.next(), None);
    }

    #[test]
    fn the_network_waits_after_a_change_of_what_is_wanted() {
        let (mut pace, now) = rested();
        pace.wanted(now);
        pace.stepped(now, PAUSE, None);
        pace.network(now);
        assert_eq!(pace.next(), Some(now + PAUSE * NETWORK));
    }

    #[test]
    fn what_only_time_brings_makes_no_haste_and_waits_for_nobody() {
        let (mut pace, now) = rested();
        let wait = Duration::from_secs(1);
        pace.stepped(now, PAUSE, Some(wait));
        assert_eq!(pace.next(), Some(now + wait));
        pace.wanted(now + PAUSE);
        assert_eq!(pace.next(), Some(now + PAUSE));
        pace.stepped(now, PAUSE, Some(Duration::ZERO));
        assert_eq!(pace.next(), Some(now + PAUSE));
    }
}
