//! Whether packets reach the endpoint, judged by echo requests. Pure: the driver sends them and reports what came back.
//!
//! A connection that is declared dead is replaced, which costs all flows and perhaps the address. So the judgement is
//! slow on purpose, and an endpoint that has never answered (a policy may forbid it) is doubted more and more rarely.

use tokio::time::Instant;
use vl3lb_common::Duration;

use super::stepper::DataPlane;

/// The pause between echo requests while they are answered.
const CALM_INTERVAL: Duration = Duration::from_secs(1);
/// The pause between echo requests otherwise.
const DOUBT_INTERVAL: Duration = Duration::from_millis(500);
/// An endpoint that was silent for this long, and left [`LOST`] requests unanswered, is dead.
const SILENT_AFTER: Duration = Duration::from_secs(5);
/// Unanswered requests in a row. Half of the packets of an overloaded link may be lost without a false verdict.
const LOST: u32 = 8;
/// An endpoint that never answered is believed dead after this time, which doubles with each replacement.
const FIRST_SILENCE_LIMIT: Duration = Duration::from_secs(10);
const LONGEST_SILENCE_LIMIT: Duration = Duration::from_secs(600);
/// An interface is replaced within this time when the connection heals.
const ABSENT_AFTER: Duration = Duration::from_millis(300);

/// What echo requests have shown of one connection after the other.
#[derive(Debug, Clone)]
pub(super) struct Liveness {
    /// Since when the present connection is judged.
    since: Instant,
    /// The limit for an endpoint that has never answered.
    silence_limit: Duration,
    /// When the last answered request was sent, and how long the answer took.
    answered: Option<(Instant, Duration)>,
    /// Unanswered requests since then.
    lost: u32,
    silent: bool,
    /// When there was no interface; `None` while there is one.
    absent_since: Option<Instant>,
    /// Whether this process may not send echo requests.
    forbidden: bool,
    last_sent: Option<Instant>,
    next: Instant,
}

impl Liveness {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            since: now,
            silence_limit: FIRST_SILENCE_LIMIT,
            answered: None,
            lost: 0,
            silent: false,
            absent_since: Some(now),
            forbidden: false,
            last_sent: None,
            next: now,
        }
    }

    /// Judges another connection from now on.
    pub(super) fn restart(&mut self, now: Instant) {
        let first = self.answered.is_none() && self.lost == 0;
        self.silence_limit = if self.answered.is_some() || first {
            FIRST_SILENCE_LIMIT
        } else {
            (self.silence_limit * 2).min(LONGEST_SILENCE_LIMIT)
        };
        (self.answered, self.lost, self.silent) = (None, 0, false);
        (self.since, self.next) = (now, now);
        if let Some(since) = &mut self.absent_since {
            *since = now;
        }
    }

    /// Whether there is an interface now.
    pub(super) fn set_interface(&mut self, present: bool, now: Instant) {
        if present {
            if self.absent_since.take().is_some() {
                self.next = now;
            }
        } else {
            self.absent_since.get_or_insert(now);
        }
    }

    /// This process may not send echo requests: nothing is known of the endpoint.
    pub(super) fn forbid(&mut self) {
        self.forbidden = true;
    }

    /// When the next request is due; `None` if there is no use in any.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.forbidden && self.absent_since.is_none()).then_some(self.next)
    }

    /// A request is sent.
    pub(super) fn sent(&mut self, now: Instant) {
        let answered = self.answered.map(|(last, _)| last);
        let calm = answered.is_some() && answered == self.last_sent;
        self.next = now + if calm { CALM_INTERVAL } else { DOUBT_INTERVAL };
        self.last_sent = Some(now);
    }

    /// The request sent at `sent` was answered.
    pub(super) fn replied(&mut self, sent: Instant, now: Instant) {
        if sent < self.since {
            return;
        }
        let newest = self.answered.is_none_or(|(last, _)| last <= sent);
        if newest {
            self.answered = Some((sent, now - sent));
        }
        (self.lost, self.silent) = (0, false);
    }

    /// The request sent at `sent` was not answered in time, or could not be sent.
    pub(super) fn lost(&mut self, sent: Instant, now: Instant) {
        let outdated = sent < self.since || self.answered.is_some_and(|(last, _)| sent <= last);
        if outdated {
            return;
        }
        self.lost += 1;
        let quiet = match self.answered {
            Some((last, _)) => now - last >= SILENT_AFTER,
            None => now - self.since >= self.silence_limit,
        };
        self.silent = self.lost >= LOST && quiet;
    }

    /// The state of the data plane at `now`.
    pub(super) fn verdict(&self, now: Instant) -> DataPlane {
        match self.absent_since {
            Some(since) if now - since >= ABSENT_AFTER => DataPlane::Absent,
            Some(_) => DataPlane::Unknown,
            None if self.silent => DataPlane::Silent,
            None if self.answered.is_some() => DataPlane::Alive,
            None => DataPlane::Unknown,
        }
    }

    /// When the verdict changes without another input.
    pub(super) fn turns(&self, now: Instant) -> Option<Instant> {
        let turns = self.absent_since? + ABSENT_AFTER;
        (turns > now).then_some(turns)
    }

    /// How long the last answer took.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.answered.map(|(_, took)| took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends requests as they fall due, each answered after 1 ms or lost after 1 s, until `end`.
    fn probe(liveness: &mut Liveness, now: &mut Instant, end: Instant, answered: impl Fn(u32) -> bool) {
        let mut waiting: Vec<Instant> = Vec::new();
        let mut number = 0;
        while *now < end {
            waiting.retain(|&sent| {
                let late = *now - sent >= Duration::from_secs(1);
                if late {
                    liveness.lost(sent, *now);
                }
                !late
            });
            if liveness.due().is_some_and(|due| due <= *now) {
                liveness.sent(*now);
                number += 1;
                if answered(number) {
                    liveness.replied(*now, *now + Duration::from_millis(1));
                } else {
                    waiting.push(*now);
                }
            }
            *now += Duration::from_millis(10);
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// An endpoint that has answered.
    fn alive(now: &mut Instant) -> Liveness {
        let mut liveness = Liveness::new(*now);
        liveness.set_interface(true, *now);
        assert_eq!(liveness.verdict(*now), DataPlane::Unknown);
        let end = *now + seconds(3);
        probe(&mut liveness, now, end, |_| true);
        assert_eq!(liveness.verdict(*now), DataPlane::Alive);
        assert_eq!(liveness.round_trip(), Some(Duration::from_millis(1)));
        liveness
    }

    #[test]
    fn a_dead_endpoint_is_noticed_within_seven_seconds() {
        let mut now = Instant::now();
        let mut liveness = alive(&mut now);
        let (mut early, mut then) = (liveness.clone(), now);
        probe(&mut early, &mut then, now + seconds(5), |_| false);
        assert_eq!(early.verdict(then), DataPlane::Alive);
        let end = now + seconds(7);
        probe(&mut liveness, &mut now, end, |_| false);
        assert_eq!(liveness.verdict(now), DataPlane::Silent);
        let end = now + seconds(1);
        probe(&mut liveness, &mut now, end, |_| true);
        assert_eq!(liveness.verdict(now), DataPlane::Alive);
    }

    #[test]
    fn an_overloaded_link_is_not_dead() {
        let mut now = Instant::now();
        let mut liveness = alive(&mut now);
        for _ in 0..100 {
            let end = now + seconds(3);
            probe(&mut liveness, &mut now, end, |number| number % 5 == 0);
            assert_eq!(liveness.verdict(now), DataPlane::Alive);
        }
    }

    #[test]
    fn an_endpoint_that_never_answers_is_doubted_more_and_more_rarely() {
        let mut now = Instant::now();
        let mut liveness = Liveness::new(now);
        liveness.set_interface(true, now);
        for limit in [10, 20, 40, 80, 160, 320, 600, 600] {
            let began = now;
            probe(&mut liveness, &mut now, began + seconds(limit), |_| false);
            assert_eq!(liveness.verdict(now), DataPlane::Unknown, "{limit}");
            probe(&mut liveness, &mut now, began + seconds(limit + 3), |_| false);
            assert_eq!(liveness.verdict(now), DataPlane::Silent, "{limit}");
            liveness.restart(now);
            assert_eq!(liveness.verdict(now), DataPlane::Unknown);
        }
    }

    #[test]
    fn an_interface_may_be_absent_for_a_moment() {
        let mut now = Instant::now();
        let mut liveness = alive(&mut now);
        liveness.set_interface(false, now);
        assert_eq!(liveness.due(), None);
        assert_eq!(liveness.verdict(now), DataPlane::Unknown);
        let gone = liveness.turns(now).unwrap();
        assert_eq!(liveness.verdict(gone), DataPlane::Absent);
        assert_eq!(liveness.turns(gone), None);
        liveness.set_interface(true, gone);
        assert_eq!(liveness.verdict(gone), DataPlane::Alive);
        assert_eq!(liveness.due(), Some(gone));
    }

    #[test]
    fn without_permission_nothing_is_known() {
        let now = Instant::now();
        let mut liveness = Liveness::new(now);
        liveness.set_interface(true, now);
        liveness.forbid();
        assert_eq!(liveness.due(), None);
        assert_eq!(liveness.verdict(now + seconds(100)), DataPlane::Unknown);
    }

    #[test]
    fn answers_of_an_earlier_connection_do_not_count() {
        let mut now = Instant::now();
        let mut liveness = alive(&mut now);
        let sent = now;
        now += seconds(1);
        liveness.restart(now);
        liveness.replied(sent, now);
        liveness.lost(sent, now);
        assert_eq!(liveness.verdict(now), DataPlane::Unknown);
    }
}
