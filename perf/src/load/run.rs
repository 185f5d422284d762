//! A whole run: threads start together, their counts are put together.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::check::Checker;
use super::clock::Monotonic;
use super::connection;
use super::cpu::CpuMeter;
use super::engine::{self, Engine, Engines};
use super::interval::{Interval, Merger, Window};
use super::latency::Latency;
use super::pacing::{Rate, Schedule};
use super::pattern::Pattern;
use super::plan::{Plan, Protocol};
use super::probe;
use super::sender::{self, Job};
use super::tally::Tally;
use crate::failure::Failure;

/// A generator that is busy for a larger share of the time may be the limit.
const BUSY_LIMIT: f64 = 0.9;
/// The share of due packets that must have been sent.
const RATE_TOLERANCE: f64 = 0.98;

/// The result of one run, without its warm-up.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// When counting began.
    pub(crate) started: SystemTime,
    /// For how long packets were sent and counted.
    pub(crate) duration: Duration,
    pub(crate) tally: Tally,
    pub(crate) latency: Latency,
    pub(crate) intervals: Vec<Interval>,
    /// The part of the time in which the busiest thread was working, 0 to 1.
    pub(crate) busy_ratio: f64,
    /// Packets that came back and were dropped because the generator was too slow. They count as lost, although the
    /// target did not lose them. With those of the warm-up; not counted with sockets.
    pub(crate) overrun: u64,
    /// CPU time of the target process, if it was given.
    pub(crate) target_cpu: Option<Duration>,
    /// The requested packets per second, on average; `None` if flat out.
    pub(crate) wanted_rate: Option<f64>,
    /// Why the generator may have been the limit, and not the target.
    pub(crate) bound: Option<Bound>,
    pub(crate) interrupted: bool,
    pub(crate) used: Used,
}

/// A limit on the generator's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bound {
    /// It was busy nearly all the time.
    Busy,
    /// It could not receive all replies.
    Overrun,
    /// It could not send all packets that were due.
    MissedRate,
    /// All connections waited for responses, so that requests waited for a connection.
    Connections,
}

/// The engine of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Used {
    /// `xdp` or `socket`.
    pub(crate) engine: &'static str,
    /// Why this engine.
    pub(crate) reason: String,
    /// AF_XDP: the interface and how it was attached to.
    pub(crate) interface: Option<String>,
    pub(crate) mode: Option<String>,
}

impl Run {
    /// Packets or answers that came back, per second.
    pub(crate) fn packets_per_second(&self) -> f64 {
        self.per_second(self.tally.received)
    }

    /// Packets or requests sent, per second.
    pub(crate) fn sent_per_second(&self) -> f64 {
        self.per_second(self.tally.sent)
    }

    /// Bytes that came back, per second.
    pub(crate) fn bytes_per_second(&self) -> f64 {
        self.per_second(self.tally.bytes_received)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    pub(crate) fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.duration.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// The result of one thread.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) latency: Latency,
    /// Nanoseconds in which it was busy.
    pub(super) busy: u64,
    /// When it stopped sending, nanoseconds since the start.
    pub(crate) ended: u64,
    /// Received packets that were dropped for lack of room.
    pub(super) overrun: u64,
    /// Packets that were due by then, and packets that were made.
    pub(crate) due: u64,
    pub(super) made: u64,
}

impl Outcome {
    pub(super) fn new() -> Self {
        Self {
            tally: Tally::default(),
            latency: Latency::new(),
            busy: 0,
            ended: 0,
            overrun: 0,
            due: 0,
            made: 0,
        }
    }
}

/// Runs `plan` once. Blocks for its warm-up, duration and timeout. `observer` receives each interval at its end; `stop`
/// ends the run early.
///
/// # Errors
///
/// The target does not answer; an interface, a capability or a resource is missing.
pub(crate) fn run(
    plan: &Plan,
    observer: &mut dyn FnMut(&Interval),
    stop: &AtomicBool,
) -> Result<Run, Failure> {
    let number = RandomState::new().hash_one(plan.seed).to_be_bytes();
    let number = u16::from_be_bytes([number[0], number[1]]);
    match plan.protocol {
        Protocol::Udp | Protocol::TcpPackets => match engine::open(plan)? {
            (Engines::Xdp(engine), used) => run_packets(plan, number, used, observer, stop, vec![*engine]),
            (Engines::Sockets(engines), used) => run_packets(plan, number, used, observer, stop, engines),
        },
        Protocol::Tcp => {
            let drivers = connection::open(plan, number, stop)?;
            let used = Used {
                engine: "socket",
                reason: "TCP connections need sockets".to_owned(),
                interface: None,
                mode: None,
            };
            run_threads(
                plan,
                used,
                observer,
                stop,
                drivers,
                |mut driver, thread, clock, window| {
                    pin(plan, thread);
                    driver.drive(clock, window, stop)
                },
            )
        }
    }
}

fn run_packets<E: Engine + Send>(
    plan: &Plan,
    number: u16,
    used: Used,
    observer: &mut dyn FnMut(&Interval),
    stop: &AtomicBool,
    mut engines: Vec<E>,
) -> Result<Run, Failure> {
    if !plan.one_way
        && let Some(first) = engines.first_mut()
    {
        probe::reach(first, plan, number, stop)?;
    }
    run_threads(
        plan,
        used,
        observer,
        stop,
        engines,
        |mut engine, thread, clock, window| {
            pin(plan, thread);
            let mut job = job(plan, number, thread);
            sender::drive(&mut engine, clock, &mut job, window, stop)
        },
    )
}

/// Starts one thread for each of `workers` and puts their outcomes together.
fn run_threads<W: Send>(
    plan: &Plan,
    used: Used,
    observer: &mut dyn FnMut(&Interval),
    stop: &AtomicBool,
    workers: Vec<W>,
    work: impl Fn(W, u32, &Monotonic, &mut Window) -> Result<Outcome, Failure> + Sync,
) -> Result<Run, Failure> {
    let (samples, incoming) = mpsc::channel();
    let begin = Instant::now();
    let clock = Monotonic::from(begin);
    let started = SystemTime::now() + plan.warm_up;
    let threads = workers.len();
    let mut meter = plan.target_pid.map(CpuMeter::new).transpose()?;
    let mut merger = Merger::new(plan.interval, threads);
    let outcomes = thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> = (0..)
            .zip(workers)
            .map(|(thread, worker)| {
                let mut window =
                    Window::new(plan.warm_up, plan.duration, plan.interval, Some(samples.clone()));
                scope.spawn(move || work(worker, thread, &clock, &mut window))
            })
            .collect();
        drop(samples);
        let mut counting = false;
        loop {
            let left = plan.warm_up.saturating_sub(begin.elapsed());
            if left.is_zero() && !counting {
                counting = true;
                meter.iter_mut().for_each(CpuMeter::start);
            }
            match incoming.recv_timeout(if counting { plan.interval } else { left }) {
                Ok(sample) => merger.add(&sample, observer),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        handles
            .into_iter()
            .map(|handle| {
                handle
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect::<Result<Vec<_>, _>>()
    })?;
    let mut run = summarize(plan, &outcomes, used);
    run.started = started;
    run.target_cpu = meter
        .and_then(|meter| meter.seconds())
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    run.intervals = merger.finish(observer);
    run.interrupted = stop.load(std::sync::atomic::Ordering::Relaxed);
    Ok(run)
}

fn summarize(plan: &Plan, outcomes: &[Outcome], used: Used) -> Run {
    let warm_up = nanos(plan.warm_up);
    let mut tally = Tally::default();
    let mut latency = Latency::new();
    let overrun = outcomes.iter().map(|outcome| outcome.overrun).sum();
    let (mut due, mut made, mut ended, mut busy_ratio) = (0, 0, 0, 0.0_f64);
    for outcome in outcomes {
        tally += outcome.tally;
        latency.add(&outcome.latency);
        due += outcome.due.min(plan.count);
        made += outcome.made;
        ended = ended.max(outcome.ended);
        // The last burst may go a little beyond the end.
        busy_ratio = busy_ratio.max(ratio(outcome.busy, outcome.ended).min(1.0));
    }
    let missed = plan.rate != Rate::FlatOut && ratio(made, due) < RATE_TOLERANCE;
    let bound = if busy_ratio > BUSY_LIMIT {
        Some(Bound::Busy)
    } else if overrun > 0 {
        Some(Bound::Overrun)
    } else if missed {
        Some(match plan.protocol {
            Protocol::Tcp => Bound::Connections,
            Protocol::Udp | Protocol::TcpPackets => Bound::MissedRate,
        })
    } else {
        None
    };
    Run {
        started: SystemTime::UNIX_EPOCH,
        duration: Duration::from_nanos(ended.saturating_sub(warm_up)),
        tally,
        latency,
        intervals: Vec::new(),
        busy_ratio,
        overrun,
        target_cpu: None,
        wanted_rate: plan
            .rate
            .mean(warm_up, ended.max(warm_up), plan.warm_up + plan.duration),
        bound,
        interrupted: false,
        used,
    }
}

#[expect(clippy::cast_precision_loss, reason = "hours in nanoseconds are below 2^53")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn job(plan: &Plan, number: u16, thread: u32) -> Job {
    let pattern = Pattern::new(plan.spread(), plan.flows(), thread, plan.threads, plan.seed);
    let rate = plan.rate.share(pattern.share());
    Job {
        schedule: Schedule::new(rate, plan.warm_up + plan.duration),
        checker: Checker::new(number, thread, plan.threads, pattern.flows(), nanos(plan.warm_up)),
        size: plan.size(),
        end: nanos(plan.warm_up + plan.duration),
        count: share_of_count(plan, thread),
        grace: nanos(plan.timeout),
        one_way: plan.one_way,
        due_windows: None,
        pattern,
    }
}

/// Flows of one thread: those of rank thread, thread + threads, ...
pub(super) fn flows_of(plan: &Plan, thread: u32) -> u32 {
    plan.flows().saturating_sub(thread).div_ceil(plan.threads)
}

/// Packets of one thread at most.
pub(super) fn share_of_count(plan: &Plan, thread: u32) -> u64 {
    let threads = u64::from(plan.threads);
    plan.count / threads + u64::from(u64::from(thread) < plan.count % threads)
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Pins the calling thread, so that its clock and its pace are steady. If the kernel refuses, it runs on any core.
fn pin(plan: &Plan, thread: u32) {
    let available = core_affinity::get_core_ids().unwrap_or_default();
    let id = match &plan.cores {
        Some(cores) => cores.get(thread as usize % cores.len().max(1)).copied(),
        // The last ones: the first one often serves interrupts.
        None => available
            .iter()
            .rev()
            .nth(thread as usize % available.len().max(1))
            .map(|core| core.id),
    };
    if let Some(id) = id {
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
}
