//! One peer in one round: everything that it can be measured on.

use std::time::{Duration, Instant};

use crate::failure::Failure;
use vl3lb_dataplane::port::Port;

use crate::net::{BACKENDS, Network, Process};

use super::CompareArgs;
use super::accounting::{CoreTimes, process_time, resident_bytes};
use super::metric::{Measured, Metric};
use super::peer::{Path, Place, Running};
use super::run_queue::RunQueueTimes;
use super::search::Search;
use super::sockets::Clients;
use super::tester::{Load, Outcome, Tester};

/// How long a peer may take until it passes its first packet.
const PATIENCE: Duration = Duration::from_secs(15);
/// Requests per second at which flows are opened.
const OPENING_RATE: f64 = 10_000.0;
/// Length of a trial of the search, as a share of a measurement.
const TRIAL: f64 = 0.4;
const SEARCH: Search = Search {
    trials: 10,
    precision: 0.04,
};
/// A peer has this long to close what the last measurement has left, before it is called idle.
const REST: Duration = Duration::from_secs(1);
/// Connections to hold open at once.
const CONNECTIONS: u32 = 5000;

/// Idle CPU and memory of a peer that has worked.
pub(super) fn at_rest(running: &Running, duration: Duration) -> Measured {
    let used = || {
        running
            .processes
            .iter()
            .map(|process| process_time(process.pid()))
            .sum::<Duration>()
    };
    std::thread::sleep(REST);
    let (before, start) = (used(), Instant::now());
    std::thread::sleep(duration);
    let idle = used().saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();
    vec![(Metric::IdleCpu, idle), (Metric::Memory, resident(running))]
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory, far below 2^53")]
fn resident(running: &Running) -> f64 {
    running
        .processes
        .iter()
        .map(|process| resident_bytes(process.pid()))
        .sum::<u64>() as f64
}

/// What the tester finds out.
pub(super) fn packets(
    place: &Place<'_>,
    network: &Network,
    path: Path,
    args: &CompareArgs,
    running: &mut Running,
) -> Result<Measured, Failure> {
    let observed = Observed {
        core: place.cores.peer_core(),
        processes: running.processes.iter().map(Process::pid).collect(),
    };
    let measured = network.router.netns.run(|| {
        place.cores.pin_tester()?;
        match place.node.device()? {
            Some(device) => measured_by(Tester::on_tun(device, path, args.flows), &observed, args),
            None => measured_by(Tester::open(path, args.flows, BACKENDS.into())?, &observed, args),
        }
    });
    explained(measured, running)
}

fn measured_by<P: Port>(
    mut tester: Tester<P>,
    observed: &Observed,
    args: &CompareArgs,
) -> Result<Measured, Failure> {
    open_flows(&mut tester, args.flows)?;
    flood(&mut tester, observed, args)
}

/// Sends until the flows are open: nine of ten were answered.
pub(crate) fn open_flows<P: Port>(tester: &mut Tester<P>, flows: u16) -> Result<(), Failure> {
    let start = Instant::now();
    let duration =
        Duration::from_secs_f64(f64::from(flows) / OPENING_RATE * 2.5).max(Duration::from_millis(50));
    loop {
        let outcome = tester.run(Load {
            rate: Some(OPENING_RATE),
            duration,
            gentle: true,
        });
        // Not all: a busy machine may lose some.
        if outcome.flows_alive >= u32::from(flows) * 9 / 10 {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err(Failure::new(format!(
                "open {} flows: of {} requests {} passed, and {} replies; {} flows were answered",
                flows, outcome.requests, outcome.requests_passed, outcome.replies_passed, outcome.flows_alive
            )));
        }
    }
}

fn flood<P: Port>(
    tester: &mut Tester<P>,
    observed: &Observed,
    args: &CompareArgs,
) -> Result<Measured, Failure> {
    let flat_out = Load {
        rate: None,
        duration: args.duration,
        gentle: false,
    };
    let full = observed.account(tester, flat_out)?;
    let per_request = tester.packets_per_request();
    let mut tester_bound = false;
    let lossless = |rate: f64| {
        let trial = tester.run(Load {
            rate: Some(rate / per_request),
            duration: args.duration.mul_f64(TRIAL),
            gentle: false,
        });
        tester_bound |= trial.lost() == 0 && trial.is_generator_bound();
        Ok::<_, Failure>(trial.lost() == 0 && !trial.is_generator_bound())
    };
    // What passes when more is sent than can pass is near to what passes without loss.
    let loss_free = SEARCH.highest(full.outcome.rate() * 1.1, lossless)?;
    let half = Load {
        rate: Some((loss_free / 2.0).max(1000.0) / per_request),
        ..flat_out
    };
    let half = observed.account(tester, half)?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "nanoseconds of latency, far below 2^53"
    )]
    let quantile = |quantile: f64| half.outcome.latency.value_at_quantile(quantile) as f64 / 1e9;
    let mut measured = vec![
        (Metric::LossFree, loss_free),
        (Metric::FlatOut, full.outcome.rate()),
        (Metric::CpuFull, full.cpu_per_packet),
        (Metric::CpuHalf, half.cpu_per_packet),
        (Metric::TesterBound, f64::from(u8::from(tester_bound))),
        (Metric::LatencyP50, quantile(0.5)),
        (Metric::LatencyP99, quantile(0.99)),
        (Metric::LatencyP999, quantile(0.999)),
    ];
    let perhaps = [
        (Metric::LatencyTypicalP99, half.outcome.windows.typical_p99()),
        (Metric::TesterWait, half.tester_wait),
        (Metric::PeerWait, half.peer_wait),
    ];
    measured.extend(
        perhaps
            .into_iter()
            .filter_map(|(metric, value)| Some((metric, value?))),
    );
    Ok(measured)
}

/// Where a peer works, to see what a load costs it.
struct Observed {
    core: usize,
    processes: Vec<u32>,
}

/// A load with what it cost.
struct Account {
    outcome: Outcome,
    /// Seconds of CPU time that the peer used for each packet that it passed.
    cpu_per_packet: f64,
    /// How long the tester's thread was ready to run and another one had the core, as a share of the load's time; `None`
    /// if the kernel does not count it.
    tester_wait: Option<f64>,
    /// The same of all threads of the peer together; `None` if it has none.
    peer_wait: Option<f64>,
}

impl Observed {
    /// Sends a load from the calling thread, and looks at the kernel's counters before and after.
    fn account<P: Port>(&self, tester: &mut Tester<P>, load: Load) -> Result<Account, Failure> {
        let waits = || {
            (
                RunQueueTimes::of_this_thread(),
                RunQueueTimes::of_processes(&self.processes),
            )
        };
        let (own_before, peer_before) = waits();
        let (times_before, start) = (CoreTimes::now()?, Instant::now());
        let outcome = tester.run(load);
        let (times, elapsed) = (CoreTimes::now()?, start.elapsed());
        let (own, peer) = waits();
        if outcome.passed() == 0 {
            return Err(Failure::new(format!(
                "send {:?}: nothing came out of the peer",
                load.rate
            )));
        }
        let used = times.peer_since(&times_before, &[self.core]);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let cpu_per_packet = used.as_secs_f64() / outcome.passed() as f64;
        let share = |waited: Duration| waited.as_secs_f64() / elapsed.as_secs_f64();
        Ok(Account {
            outcome,
            cpu_per_packet,
            tester_wait: own.since(&own_before).map(share),
            peer_wait: peer.since(&peer_before).map(share),
        })
    }
}

/// What clients with sockets find out.
pub(super) fn connections(clients: &Clients<'_>, running: &mut Running) -> Result<Measured, Failure> {
    let measured = || {
        clients.wait()?;
        Ok(vec![
            (Metric::NewConnections, clients.requests(true)?),
            (Metric::Requests, clients.requests(false)?),
            (Metric::Bulk, clients.bulk()?),
            (Metric::Connections, f64::from(clients.connections(CONNECTIONS))),
        ])
    };
    explained(measured(), running)
}

/// If a process of the peer has ended, that is why a measurement failed, and no result is one.
fn explained(measured: Result<Measured, Failure>, running: &mut Running) -> Result<Measured, Failure> {
    for process in &mut running.processes {
        process.check_running()?;
    }
    measured
}
