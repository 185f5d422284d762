//! The core that a worker is pinned to, and when it goes to another one.
//!
//! The kernel receives for an interface before any process of the same core runs, and does not end while packets come as
//! fast as it takes them (receive livelock). On veth that begins where a packet is sent to the interface, which may be the
//! worker's own transmit call: then a flood leaves the worker some rounds a second, although the flood is shed. A worker
//! that is kept from running in this way goes on at a core that no worker has. Cores of the configuration are never left.

use core_affinity::CoreId;
use vl3lb_common::{Duration, Timestamp};

use super::Worker;
use crate::port::Port;

/// A round of a worker that has packets takes less, unless the core did something else.
const LONG_ROUND: Duration = Duration::from_millis(2);
/// The worker leaves its core after so many intervals in a row that passed in long rounds for the most part.
const INTERVALS: u32 = 2;
/// Time between two moves, in which it shows how a core is.
const STAY: Duration = Duration::from_millis(500);
/// Time for which it is known how a core was: where all are bad, little is lost by trying each again.
const MEMORY: Duration = Duration::from_secs(10);
/// Time without overload after which the worker returns.
const RETURN: Duration = Duration::from_secs(10);

/// The core that a worker is pinned to, and those that it may go to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pinning {
    /// `None`: on any core.
    home: Option<usize>,
    current: Option<usize>,
    /// Cores without a worker, the one that was left longest ago first.
    spare: Vec<Spare>,
    /// Rounds with packets since the interval began, and the time in long ones.
    rounds: u32,
    in_long_rounds: Duration,
    /// Intervals in a row that passed in long rounds.
    deprived: u32,
    /// All such intervals at this core since the overload began: their time and their rounds.
    deprived_total: (Duration, u32),
    interval_began: Timestamp,
    moved_at: Timestamp,
    overloaded_at: Timestamp,
}

/// A core without a worker.
#[derive(Debug, Clone, Copy)]
struct Spare {
    core: usize,
    /// How long a round took there, and when the worker left it.
    was: Option<(Duration, Timestamp)>,
}

/// From one core to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) from: usize,
    pub(super) to: usize,
}

impl Pinning {
    /// Pinned to `home`, from which it may go to the cores in `spare`.
    pub(crate) fn new(home: usize, spare: Vec<usize>) -> Self {
        let spare = spare.into_iter().map(|core| Spare { core, was: None });
        Self {
            home: Some(home),
            current: Some(home),
            spare: spare.collect(),
            rounds: 0,
            in_long_rounds: Duration::ZERO,
            deprived: 0,
            deprived_total: (Duration::ZERO, 0),
            interval_began: Timestamp(0),
            moved_at: Timestamp(0),
            overloaded_at: Timestamp(0),
        }
    }

    /// Pins the calling thread.
    ///
    /// # Errors
    ///
    /// The core, if the kernel refuses: the scheduler chooses one then.
    pub(super) fn pin(&self) -> Result<(), usize> {
        match self.current {
            Some(core) if !set(core) => Err(core),
            _ => Ok(()),
        }
    }

    /// Notes a round that had packets.
    #[inline]
    pub(super) fn note_round(&mut self, length: Duration) {
        self.rounds += 1;
        if length >= LONG_ROUND {
            self.in_long_rounds += length;
        }
    }

    /// Ends an interval of some milliseconds. Pins the calling thread to another core if it is time for that.
    fn end_interval(&mut self, is_overloaded: bool, now: Timestamp) -> Option<Move> {
        let next = self.next(is_overloaded, now)?;
        if set(next.to) {
            return Some(next);
        }
        // The process may not use that core any more.
        self.go(next.to, next.from, Some(Duration::MAX), now);
        None
    }

    /// Where to go at the end of an interval.
    fn next(&mut self, is_overloaded: bool, now: Timestamp) -> Option<Move> {
        let length = now.since(std::mem::replace(&mut self.interval_began, now));
        let rounds = std::mem::take(&mut self.rounds);
        if std::mem::take(&mut self.in_long_rounds) * 2 >= length {
            self.deprived += 1;
            self.deprived_total.0 += length;
            self.deprived_total.1 += rounds;
        } else {
            self.deprived = 0;
            if !is_overloaded {
                self.deprived_total = (Duration::ZERO, 0);
            }
        }
        let from = self.current?;
        if !is_overloaded {
            let home = self.home.filter(|&home| home != from)?;
            // Again later where the kernel refuses it.
            let since = now.since(self.overloaded_at.max(self.moved_at));
            return (since >= RETURN).then(|| self.go(from, home, None, now));
        }
        self.overloaded_at = now;
        if self.deprived < INTERVALS || now.since(self.moved_at) < STAY {
            return None;
        }
        let round = self.deprived_total.0 / self.deprived_total.1.max(1);
        let is_better = |spare: &&Spare| {
            let known = spare.was.filter(|&(_, left)| now.since(left) < MEMORY);
            known.is_none_or(|(was, _)| was < round)
        };
        let to = self.spare.iter().find(is_better)?.core;
        Some(self.go(from, to, Some(round), now))
    }

    /// Goes from a core where a round took so long, if that says anything.
    fn go(&mut self, from: usize, to: usize, round: Option<Duration>, now: Timestamp) -> Move {
        self.spare.retain(|spare| spare.core != to);
        let was = round.map(|round| (round, now));
        self.spare.push(Spare { core: from, was });
        self.current = Some(to);
        self.moved_at = now;
        self.deprived = 0;
        self.deprived_total = (Duration::ZERO, 0);
        Move { from, to }
    }
}

impl<P: Port> Worker<P> {
    /// Goes to another core if it is time for that.
    pub(super) fn review_pinning(&mut self, now: Timestamp) {
        let Some(Move { from, to }) = self.pinning.end_interval(self.engine.is_overloaded(), now) else {
            return;
        };
        self.stats.core.set(to as u64);
        self.stats.core_moves.add(1);
        self.engine.report_move(from, to);
    }
}

fn set(core: usize) -> bool {
    core_affinity::set_for_current(CoreId { id: core })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(10);

    struct World {
        pinning: Pinning,
        now: Timestamp,
    }

    impl World {
        fn new(spare: &[usize]) -> Self {
            Self {
                pinning: Pinning::new(1, spare.to_vec()),
                now: Timestamp(100_000_000_000),
            }
        }

        /// An interval with rounds of this length.
        fn interval(&mut self, round: Duration, is_overloaded: bool) -> Option<usize> {
            let length = INTERVAL.max(round);
            let mut passed = Duration::ZERO;
            while passed < length {
                self.pinning.note_round(round);
                passed += round;
            }
            self.now = self.now + length;
            let next = self.pinning.next(is_overloaded, self.now)?;
            assert_ne!(next.from, next.to);
            assert_eq!(self.pinning.current, Some(next.to));
            Some(next.to)
        }

        /// The moves in so many intervals, with rounds of this length by the core.
        fn intervals(
            &mut self,
            count: u32,
            round: impl Fn(usize) -> Duration,
            is_overloaded: bool,
        ) -> Vec<usize> {
            let interval = |_| {
                let core = self.pinning.current.unwrap_or(0);
                self.interval(round(core), is_overloaded)
            };
            (0..count).filter_map(interval).collect()
        }
    }

    const SHORT: Duration = Duration::from_micros(300);
    const LONG: Duration = Duration::from_millis(26);

    #[test]
    fn a_worker_under_a_flood_that_hardly_runs_goes_to_another_core_and_returns() {
        let mut world = World::new(&[0]);
        assert_eq!(world.interval(SHORT, false), None);
        assert_eq!(world.intervals(2, |_| LONG, true), [0]);
        // The flood goes on, and the worker runs.
        assert_eq!(world.intervals(1_000, |_| SHORT, true), []);
        assert_eq!(world.intervals(990, |_| SHORT, false), []);
        assert_eq!(world.intervals(20, |_| SHORT, false), [1]);
        assert_eq!(world.intervals(2_000, |_| SHORT, false), []);
        assert_eq!(world.intervals(2, |_| LONG, true), [0]);
    }

    #[test]
    fn a_worker_that_runs_or_has_no_overload_stays() {
        let mut world = World::new(&[0]);
        assert_eq!(world.intervals(1_000, |_| SHORT, true), []);
        assert_eq!(world.intervals(1_000, |_| LONG, false), []);
        // When the overload is noticed, it goes at once.
        assert_eq!(world.interval(LONG, true), Some(0));
        let mut world = World::new(&[0]);
        for _ in 0..1_000 {
            assert_eq!(world.interval(LONG, true), None);
            assert_eq!(world.interval(SHORT, true), None);
        }
    }

    #[test]
    fn where_all_cores_are_bad_it_stays_at_the_least_bad_one() {
        let mut world = World::new(&[0, 2]);
        let bad = |core| Duration::from_millis([3, 26, 8][core]);
        // 9 s.
        assert_eq!(world.intervals(900, bad, true), [0, 2, 0]);
        // What it has learned is forgotten, and each is tried again.
        let moves = world.intervals(900, bad, true);
        assert!((2..=6).contains(&moves.len()), "{moves:?}");
        assert_eq!(world.pinning.current, Some(0));
        // From wherever it is, it returns.
        world.intervals(2_000, |_| SHORT, false);
        assert_eq!(world.pinning.current, Some(1));
        let mut spare: Vec<_> = world.pinning.spare.iter().map(|spare| spare.core).collect();
        spare.sort_unstable();
        assert_eq!(spare, [0, 2]);
    }

    #[test]
    fn without_a_spare_core_or_a_home_it_stays() {
        let mut world = World::new(&[]);
        assert_eq!(world.intervals(100, |_| LONG, true), []);
        world.pinning = Pinning::default();
        assert_eq!(world.intervals(100, |_| LONG, true), []);
    }
}
