//! The legitimate traffic beside a flood: connections that are established before it, and new ones all the time. Both
//! are loads of `vl3-perf load` over the kernel's TCP.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;

use crate::compare::error::CompareError;
use crate::compare::services::WEB;
use crate::failure::Failure;
use crate::load::interval::Interval;
use crate::load::pacing::Rate;
use crate::load::plan::Plan;
use crate::load::run;
use crate::load::tally::Tally;
use crate::net::{BALANCER_ADDRESS, Netns};

use super::Phases;

/// Requests per second over all established connections.
const REQUESTS: f64 = 1000.0;
/// New connections per second; each carries one request.
const CONNECTIONS: f64 = 200.0;
/// Time in which a new connection must have its response.
pub(super) const CONNECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Time until the balancer passes the first connection.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const START_POLL: Duration = Duration::from_millis(50);
/// The resolution of all times.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);
/// The length of what is judged as recovered or not.
const RECOVERED: Duration = Duration::from_secs(1);
/// The part that must arrive.
pub(super) const WANTED: f64 = 0.95;

/// One of the loads.
#[derive(Debug)]
pub(super) struct Load {
    plan: Plan,
    rate: f64,
}

/// A command line of `vl3-perf load`.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    plan: Plan,
}

impl Load {
    /// Requests over 64 connections that stay. A lost packet is the kernel's to send again; a connection is given up
    /// and opened anew when a response takes three seconds.
    pub(super) fn established(phases: &Phases) -> Result<Self, Failure> {
        Self::new("--keep -c 64 --timeout 3s", REQUESTS, phases)
    }

    /// New connections with a request each.
    pub(super) fn new_connections(phases: &Phases) -> Result<Self, Failure> {
        Self::new("--close fin -c 400 --timeout 1s", CONNECTIONS, phases)
    }

    fn new(options: &str, rate: f64, phases: &Phases) -> Result<Self, Failure> {
        let duration = (phases.before + phases.flood + phases.after).as_millis();
        let line = format!(
            "load {} -p tcp {options} --omit 500ms -d {duration}ms -i {}ms",
            target(),
            INTERVAL.as_millis()
        );
        let mut plan = Line::parse_from(line.split(' ')).plan;
        // Any core, as the servers.
        plan.cores = Some(Vec::new());
        Ok(Self {
            plan: plan.complete(Rate::Fixed(rate), 1, 1)?,
            rate,
        })
    }

    /// Runs it in `netns`; `passed` gets the time since the start at the end of each interval.
    pub(super) fn run(
        &self,
        netns: &Netns,
        passed: &mpsc::Sender<Duration>,
        stop: &AtomicBool,
    ) -> Result<Traffic, Failure> {
        let run = netns.run(|| {
            run::run(
                &self.plan,
                // Without a receiver nobody waits for it any more.
                &mut |interval| {
                    passed.send(interval.end).ok();
                },
                stop,
            )
        })?;
        Ok(Traffic {
            started: run.started,
            intervals: run.intervals,
            rate: self.rate,
        })
    }
}

/// Waits until a connection from `netns` through the balancer is accepted.
pub(super) fn wait(netns: &Netns) -> Result<(), CompareError> {
    let connect = || TcpStream::connect_timeout(&target(), CONNECTION_TIMEOUT).map(drop);
    let start = Instant::now();
    loop {
        match netns.run(connect) {
            Ok(()) => return Ok(()),
            Err(cause) if start.elapsed() > START_TIMEOUT => {
                return Err(not_accepted(cause));
            }
            Err(_) => std::thread::sleep(START_POLL),
        }
    }
}

fn not_accepted(cause: io::Error) -> CompareError {
    CompareError::NotAccepted {
        address: target(),
        limit: START_TIMEOUT,
        cause,
    }
}

fn target() -> SocketAddr {
    (BALANCER_ADDRESS, WEB.port).into()
}

/// What became of a load.
#[derive(Debug)]
pub(super) struct Traffic {
    /// When the first interval began.
    pub(super) started: SystemTime,
    pub(super) intervals: Vec<Interval>,
    /// Requests per second that were due.
    pub(super) rate: f64,
}

impl Traffic {
    /// The counts between two times, of the intervals that lie in between, and the length of these in seconds.
    fn between(&self, from: SystemTime, to: SystemTime) -> (Tally, f64) {
        let mut sum = Tally::default();
        let mut length = Duration::ZERO;
        for interval in &self.intervals {
            if self.started + interval.start >= from && self.started + interval.end <= to {
                sum += interval.tally;
                length += interval.end - interval.start;
            }
        }
        (sum, length.as_secs_f64())
    }

    /// The responses that arrived between two times, as a share of the requests that were due.
    pub(super) fn goodput(&self, from: SystemTime, to: SystemTime) -> f64 {
        let (tally, length) = self.between(from, to);
        ratio(tally.received, self.rate * length)
    }

    /// The share of the requests sent between two times that had their response within the timeout.
    pub(super) fn succeeded(&self, from: SystemTime, to: SystemTime) -> f64 {
        let (sent, _) = self.between(from, to);
        // A failure shows when the time is over, an interval later at the latest.
        let (ended, _) = self.between(from, to + CONNECTION_TIMEOUT + INTERVAL);
        let errors = ended.errors;
        let failed = errors.connect + errors.timeout + errors.reset + errors.payload;
        #[expect(clippy::cast_precision_loss, reason = "requests, far below 2^53")]
        let due = sent.sent as f64;
        ratio(sent.sent.saturating_sub(failed), due)
    }

    /// Connections that were opened between two times.
    pub(super) fn opened(&self, from: SystemTime, to: SystemTime) -> u64 {
        self.between(from, to).0.connected
    }
}

/// The time from `end` on until everything arrives again for a second; `None` if that did not happen.
pub(super) fn recovery(loads: [&Traffic; 2], end: SystemTime) -> Option<Duration> {
    let [first, _] = loads;
    let starts = first
        .intervals
        .iter()
        .map(|interval| first.started + interval.start);
    let last = first.started + first.intervals.last()?.end;
    starts
        .filter(|&start| start >= end && start + RECOVERED <= last)
        .find(|&start| {
            let mut loads = loads.into_iter();
            loads.all(|load| load.goodput(start, start + RECOVERED) >= WANTED)
        })
        .map(|start| start.duration_since(end).unwrap_or_default())
}

#[expect(clippy::cast_precision_loss, reason = "requests, far below 2^53")]
fn ratio(part: u64, whole: f64) -> f64 {
    if whole > 0.0 { part as f64 / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tally::Errors;

    /// Intervals with these responses and timeouts, of 10 requests each.
    fn traffic(intervals: &[(u64, u64)]) -> Traffic {
        let intervals = (0..)
            .zip(intervals)
            .map(|(index, &(received, timeout))| Interval {
                start: INTERVAL * index,
                end: INTERVAL * (index + 1),
                tally: Tally {
                    sent: 10,
                    received,
                    errors: Errors {
                        timeout,
                        ..Errors::default()
                    },
                    ..Tally::default()
                },
                latency: None,
            });
        Traffic {
            started: SystemTime::UNIX_EPOCH,
            intervals: intervals.collect(),
            rate: 100.0,
        }
    }

    fn at(interval: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + INTERVAL * interval
    }

    #[test]
    fn goodput_is_what_arrived_of_what_was_due() {
        let traffic = traffic(&[(10, 0), (5, 0), (0, 0), (9, 0)]);
        for (from, to, share) in [(0, 1, 1.0), (1, 3, 0.25), (0, 4, 0.6), (4, 9, 0.0)] {
            let found = traffic.goodput(at(from), at(to));
            assert!((found - share).abs() < 1e-9, "{from}..{to}: {found}");
        }
    }

    #[test]
    fn a_connection_fails_in_the_interval_that_it_began_in() {
        // Six requests of the first two intervals fail, a second later; so does one of the third one.
        let mut counts = [(10, 0); 20];
        (counts[10], counts[11], counts[13]) = ((4, 4), (8, 2), (9, 1));
        let traffic = traffic(&counts);
        let found = traffic.succeeded(at(0), at(2));
        assert!((found - 0.7).abs() < 1e-9, "{found}");
        assert!((traffic.succeeded(at(14), at(16)) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn recovery_ends_when_both_loads_are_whole_for_a_second() {
        let whole = traffic(&[(10, 0); 40]);
        let mut counts = [(10, 0); 40];
        counts[12..15].fill((0, 0));
        let late = traffic(&counts);
        assert_eq!(recovery([&whole, &whole], at(5)), Some(Duration::ZERO));
        assert_eq!(recovery([&whole, &late], at(10)), Some(INTERVAL * 5));
        assert_eq!(recovery([&late, &whole], at(20)), Some(Duration::ZERO));
        counts[30..].fill((0, 0));
        assert_eq!(recovery([&whole, &traffic(&counts)], at(22)), None);
    }
}
