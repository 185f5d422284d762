//! The loop that sends packets when they are due and checks those that come back.
//!
//! It is an open loop: replies do not influence the packets sent. A packet that is sent late keeps its due time in its
//! stamp.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::check::Checker;
use super::clock::Clock;
use super::due_windows::DueWindows;
use super::engine::{BURST, Engine};
use super::interval::Window;
use super::pacing::Schedule;
use super::pattern::Pattern;
use super::run::Outcome;
use crate::failure::Failure;

/// The shortest wait that is worth a system call, in nanoseconds.
const SHORTEST_WAIT: u64 = 100_000;
/// Waits end this much early, since the kernel's timers are about that late.
const WAKE_EARLY: u64 = 60_000;
/// The longest wait, so that a signal is noticed.
const LONGEST_WAIT: u64 = 20_000_000;

/// The work of one thread. Times in nanoseconds since the start of the run.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) schedule: Schedule,
    pub(crate) pattern: Pattern,
    pub(crate) checker: Checker,
    /// Bytes of a frame.
    pub(crate) size: usize,
    /// When the last packet is sent at the latest.
    pub(crate) end: u64,
    pub(crate) count: u64,
    /// Time to wait for packets under way at the end.
    pub(crate) grace: u64,
    pub(crate) one_way: bool,
    /// Round trips by the time at which packets were due, if wanted.
    pub(crate) due_windows: Option<DueWindows>,
}

/// Sends and receives until the end of `job`, or until `stop`; the counts of each interval go to `window`.
///
/// # Errors
///
/// The kernel refuses to send.
pub(crate) fn drive<E: Engine, C: Clock>(
    engine: &mut E,
    clock: &C,
    job: &mut Job,
    window: &mut Window,
    stop: &AtomicBool,
) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::new();
    let overrun = engine.overrun();
    // Packets made; those that the engine has not sent yet are among them.
    let mut made = 0;
    let mut now = clock.now();
    while now < job.end && made < job.count && !stop.load(Ordering::Relaxed) {
        let due = job.schedule.due(now).min(job.count).saturating_sub(made);
        let batch = due.min(engine.room() as u64).min(BURST as u64);
        for _ in 0..batch {
            let intended = job.schedule.intended(made).unwrap_or(now);
            let flow = job.pattern.next_flow();
            let stamp = job.checker.stamp(flow, intended, now);
            engine.push(flow, &stamp);
            job.checker.sent(&stamp, job.size, &mut outcome.tally);
            made += 1;
        }
        let sent = engine.flush(&mut outcome.tally.errors)?;
        let received = receive(engine, clock, job, window, &mut outcome);
        let after = clock.now();
        if sent + received > 0 {
            outcome.busy += after.saturating_sub(now);
        }
        if sent + received == 0 || batch == 0 {
            idle(engine, job, made, after, window);
        }
        now = clock.now();
        window.look(now, &outcome);
    }
    outcome.ended = now.min(job.end);
    outcome.due = job.schedule.due(outcome.ended).min(job.count);
    outcome.made = made;
    let deadline = now.saturating_add(if job.one_way { 0 } else { job.grace });
    // What the engine had no room for is late, but not lost.
    while now < deadline && (engine.room() < BURST || outcome.tally.lost() > 0) {
        engine.flush(&mut outcome.tally.errors)?;
        if receive(engine, clock, job, window, &mut outcome) == 0 {
            engine.wait(Duration::from_nanos((deadline - now).min(LONGEST_WAIT)));
        }
        now = clock.now();
        if stop.load(Ordering::Relaxed) && outcome.ended + LONGEST_WAIT < now {
            break;
        }
    }
    outcome.overrun = engine.overrun() - overrun;
    window.close(&outcome);
    Ok(outcome)
}

fn receive<E: Engine, C: Clock>(
    engine: &mut E,
    clock: &C,
    job: &mut Job,
    window: &mut Window,
    outcome: &mut Outcome,
) -> usize {
    let (checker, due_windows, size) = (&mut job.checker, &mut job.due_windows, job.size);
    let mut errors = std::mem::take(&mut outcome.tally.errors);
    let tally = &mut outcome.tally;
    let latency = &mut outcome.latency;
    let count = engine.receive(&mut errors, &mut |flow, payload| {
        let now = clock.now();
        if let Some(stamp) = checker.received(flow, payload, size, tally) {
            latency.record(stamp.intended, stamp.sent, now);
            window.record(stamp.intended, now);
            if let Some(due_windows) = due_windows {
                due_windows.record(stamp.intended, now.saturating_sub(stamp.intended));
            }
        }
    });
    outcome.tally.errors += errors;
    count
}

/// Waits until the next packet is due, if that is worth it.
fn idle<E: Engine>(engine: &mut E, job: &Job, made: u64, now: u64, window: &Window) {
    let Some(next) = job.schedule.intended(made) else {
        // Flat out and nothing moves: the kernel has no room.
        if engine.room() == 0 {
            engine.wait(Duration::from_nanos(SHORTEST_WAIT));
        }
        return;
    };
    let until = next.min(job.end).min(window.next());
    let wait = until.saturating_sub(now);
    if wait >= SHORTEST_WAIT {
        engine.wait(Duration::from_nanos((wait - WAKE_EARLY).min(LONGEST_WAIT)));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    use super::*;
    use crate::load::pacing::Rate;
    use crate::load::pattern::Spread;
    use crate::load::payload::{STAMP_LEN, Stamp};
    use crate::load::tally::Errors;

    const MILLISECOND: u64 = 1_000_000;

    #[derive(Clone)]
    struct Virtual(Rc<Cell<u64>>);

    impl Clock for Virtual {
        fn now(&self) -> u64 {
            // Time passes with each look, or the loop would wait for ever.
            self.0.set(self.0.get() + 100);
            self.0.get()
        }
    }

    /// Answers each packet after `delay`, and takes none at all during a stall.
    struct Echo {
        clock: Virtual,
        delay: u64,
        stall: std::ops::Range<u64>,
        pushed: Vec<(u32, Vec<u8>)>,
        under_way: VecDeque<(u64, u32, Vec<u8>)>,
    }

    impl Echo {
        fn stalled(&self) -> bool {
            self.stall.contains(&self.clock.0.get())
        }
    }

    impl Engine for Echo {
        fn room(&self) -> usize {
            BURST - self.pushed.len()
        }

        fn push(&mut self, flow: u32, stamp: &Stamp) {
            let mut payload = vec![0; STAMP_LEN];
            stamp.write(&mut payload);
            self.pushed.push((flow, payload));
        }

        fn flush(&mut self, _errors: &mut Errors) -> Result<usize, Failure> {
            if self.stalled() {
                return Ok(0);
            }
            let due = self.clock.0.get() + self.delay;
            let sent = self.pushed.len();
            self.under_way
                .extend(self.pushed.drain(..).map(|(flow, payload)| (due, flow, payload)));
            Ok(sent)
        }

        fn receive(&mut self, _errors: &mut Errors, arrived: &mut dyn FnMut(u32, &[u8])) -> usize {
            let mut count = 0;
            while let Some((due, ..)) = self.under_way.front()
                && *due <= self.clock.0.get()
            {
                let (_, flow, payload) = self.under_way.pop_front().unwrap();
                arrived(flow, &payload);
                count += 1;
            }
            count
        }

        fn wait(&mut self, limit: Duration) {
            let limit = self.clock.0.get() + u64::try_from(limit.as_nanos()).unwrap();
            let arrival = self.under_way.front().map_or(limit, |(due, ..)| *due);
            self.clock.0.set(limit.min(arrival).max(self.clock.0.get()));
        }

        fn overrun(&self) -> u64 {
            0
        }
    }

    struct Setup {
        rate: Rate,
        count: u64,
        stall: std::ops::Range<u64>,
        stopped: bool,
    }

    const EVEN: Setup = Setup {
        rate: Rate::Fixed(1000.0),
        count: 1_000_000,
        stall: 0..0,
        stopped: false,
    };
    const STALLED: Setup = Setup {
        stall: 400 * MILLISECOND..600 * MILLISECOND,
        ..EVEN
    };

    /// Runs for a second.
    fn run(setup: Setup) -> Outcome {
        let duration = Duration::from_secs(1);
        let clock = Virtual(Rc::new(Cell::new(0)));
        let mut echo = Echo {
            clock: clock.clone(),
            delay: 50_000,
            stall: setup.stall,
            pushed: Vec::new(),
            under_way: VecDeque::new(),
        };
        let mut job = Job {
            schedule: Schedule::new(setup.rate, duration),
            pattern: Pattern::new(Spread::Uniform, 8, 0, 1, 1),
            checker: Checker::new(1, 0, 1, 8, 0),
            size: 64,
            end: 1000 * MILLISECOND,
            count: setup.count,
            grace: 100 * MILLISECOND,
            one_way: false,
            due_windows: None,
        };
        let mut window = Window::unseen();
        let stop = AtomicBool::new(setup.stopped);
        drive(&mut echo, &clock, &mut job, &mut window, &stop).unwrap()
    }

    #[test]
    fn every_packet_that_is_due_is_sent_and_comes_back() {
        let outcome = run(EVEN);
        assert_eq!((outcome.tally.sent, outcome.tally.received), (1000, 1000));
        assert_eq!(outcome.tally.lost(), 0);
        let worst = outcome.latency.corrected.max();
        assert!((50_000..100_000).contains(&worst), "{worst}");
    }

    #[test]
    fn a_stall_counts_for_every_packet_that_was_due_in_it() {
        // 200 of 1,000 packets are due while nothing moves for 200 ms.
        let outcome = run(STALLED);
        assert_eq!(outcome.tally.lost(), 0);
        let corrected = &outcome.latency.corrected;
        let p90 = corrected.value_at_quantile(0.9);
        assert!(
            (90 * MILLISECOND..110 * MILLISECOND).contains(&p90),
            "a tenth of all packets waited 100 ms or longer: {p90}"
        );
        assert!(corrected.max() > 190 * MILLISECOND, "{}", corrected.max());
        assert!(corrected.value_at_quantile(0.75) < MILLISECOND);
    }

    #[test]
    fn the_service_time_leaves_out_the_wait_before_sending() {
        let outcome = run(STALLED);
        let (corrected, service) = (&outcome.latency.corrected, &outcome.latency.service);
        assert!(
            service.value_at_quantile(0.9) < corrected.value_at_quantile(0.9),
            "packets that were made late started late"
        );
    }

    #[test]
    fn a_stop_ends_it() {
        let outcome = run(Setup {
            stopped: true,
            ..EVEN
        });
        assert_eq!(outcome.tally.sent, 0);
    }

    #[test]
    fn a_count_ends_it_early() {
        for rate in [Rate::Fixed(1000.0), Rate::FlatOut] {
            let outcome = run(Setup {
                rate,
                count: 100,
                ..EVEN
            });
            assert_eq!((outcome.tally.sent, outcome.tally.received), (100, 100));
        }
    }
}
