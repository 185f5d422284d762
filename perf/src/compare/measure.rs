//! The measurements of one peer in one round.

use std::time::{Duration, Instant};

use vl3lb_dataplane::Port;

use crate::failure::Failure;
use crate::load::latency::seconds;
use crate::load::pacing::Rate;
use crate::net::{BACKENDS, Network, Process};

use super::CompareArgs;
use super::accounting::{CoreTimes, ThreadTimes, process_time, resident_bytes};
use super::clients::Clients;
use super::error::CompareError;
use super::metric::{Measured, Metric};
use super::peer::{PacketPath, PeerHost, Running};
use super::search::Search;
use super::segments;
use super::tester::{Load, Tester, Trial};

/// Time until a peer passes packets of all flows.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// Requests per second while flows are opened.
pub(super) const OPEN_RATE: f64 = 10_000.0;
/// Requests per second, and of each flow, before established flows are measured: a peer may hand flows to another path
/// after some packets.
const ESTABLISH_RATE: f64 = 40_000.0;
const ESTABLISH_REQUESTS: f64 = 24.0;
/// Length of a trial of the search, as a share of a measurement.
const TRIAL: f64 = 0.4;
const SEARCH: Search = Search {
    trials: 10,
    precision: 0.04,
};
/// Time for a peer to close connections of the last measurement, before idle CPU is measured.
const SETTLE: Duration = Duration::from_secs(1);
/// Connections to hold open at once.
const CONNECTIONS: u32 = 5000;
/// Connections of bulk data at once.
const MANY: u32 = 8;

/// Idle CPU and memory, after all other measurements.
pub(super) fn at_rest(running: &Running, duration: Duration) -> Measured {
    let pids = || running.processes.iter().map(Process::pid);
    let used = || pids().map(process_time).sum::<Duration>();
    std::thread::sleep(SETTLE);
    let (before, start) = (used(), Instant::now());
    std::thread::sleep(duration);
    let idle = used().saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory, far below 2^53")]
    let memory = pids().map(resident_bytes).sum::<u64>() as f64;
    Measured::from([(Metric::IdleCpu, idle), (Metric::Memory, memory)])
}

/// The measurements of the packet tester.
pub(super) fn packets(
    host: &PeerHost<'_>,
    network: &Network,
    path: PacketPath,
    args: &CompareArgs,
    running: &mut Running,
) -> Result<Measured, Failure> {
    let observed = Observed {
        core: host.cores.peer_core(),
        processes: running.processes.iter().map(Process::pid).collect(),
    };
    let per_request = match path {
        PacketPath::Balanced | PacketPath::Routed => 2.0,
        PacketPath::Reflected => 1.0,
    };
    let measured = network.router.netns.run(|| {
        host.cores.pin_tester()?;
        match host.node.device()? {
            Some(device) => {
                let mut tester = Tester::on_tun(device, path, args.flows);
                packets_by(&mut tester, per_request, &observed, args)
            }
            None => {
                let mut tester = Tester::open(path, args.flows, BACKENDS.into())?;
                packets_by(&mut tester, per_request, &observed, args)
            }
        }
    });
    check_running(measured, running)
}

/// Sends until nine of ten flows were answered: a busy machine may lose some.
pub(crate) fn open_flows<P: Port>(tester: &mut Tester<P>, flows: u16) -> Result<(), Failure> {
    let start = Instant::now();
    let duration = Duration::from_secs_f64(f64::from(flows) / OPEN_RATE * 2.5).max(Duration::from_millis(50));
    loop {
        let trial = tester.run(Load {
            rate: Rate::Fixed(OPEN_RATE),
            duration,
            busy_poll: false,
        })?;
        if trial.flows_alive >= u32::from(flows) * 9 / 10 {
            return Ok(());
        }
        if start.elapsed() > OPEN_TIMEOUT {
            return Err(CompareError::FlowsNotOpened {
                flows,
                limit: OPEN_TIMEOUT,
                sent: trial.tally.sent,
                passed: trial.forwarded,
                answered: trial.flows_alive,
            }
            .into());
        }
    }
}

/// Opens flows, and sends as much of each as a peer may want to see before it takes another path for them.
pub(super) fn establish<P: Port>(tester: &mut Tester<P>, flows: u16) -> Result<(), Failure> {
    open_flows(tester, flows)?;
    tester.run(Load {
        rate: Rate::Fixed(ESTABLISH_RATE),
        duration: Duration::from_secs_f64(f64::from(flows) * ESTABLISH_REQUESTS / ESTABLISH_RATE),
        busy_poll: false,
    })?;
    Ok(())
}

pub(super) const fn flat_out(args: &CompareArgs) -> Load {
    Load {
        rate: Rate::FlatOut,
        duration: args.duration,
        busy_poll: true,
    }
}

/// Full load, the search for the loss-free rate, and half of that rate. The peer handles `per_request` packets for each
/// request.
fn packets_by<P: Port>(
    tester: &mut Tester<P>,
    per_request: f64,
    observed: &Observed,
    args: &CompareArgs,
) -> Result<Measured, Failure> {
    establish(tester, args.flows)?;
    let full_load = flat_out(args);
    let full = observed.account(tester, full_load)?;
    let mut tester_bound = false;
    let lossless = |rate: f64| {
        let trial = tester.run(Load {
            rate: Rate::Fixed(rate / per_request),
            duration: args.duration.mul_f64(TRIAL),
            busy_poll: true,
        })?;
        tester_bound |= trial.lost() == 0 && trial.is_generator_bound();
        Ok::<_, Failure>(trial.lost() == 0 && !trial.is_generator_bound())
    };
    // The rate at full load is near the rate without loss.
    let loss_free = SEARCH.highest(full.trial.rate() * 1.1, lossless)?;
    let half_load = Load {
        rate: Rate::Fixed((loss_free / 2.0).max(1000.0) / per_request),
        ..full_load
    };
    let half = observed.account(tester, half_load)?;
    let quantile = |quantile: f64| seconds(half.trial.latency.corrected.value_at_quantile(quantile));
    let measured = [
        (Metric::LossFree, Some(loss_free)),
        (Metric::FlatOut, Some(full.trial.rate())),
        (Metric::CpuFull, Some(full.cpu_per_packet)),
        (Metric::CpuHalf, Some(half.cpu_per_packet)),
        (Metric::TesterBound, Some(f64::from(u8::from(tester_bound)))),
        (Metric::LatencyP50, Some(quantile(0.5))),
        (Metric::LatencyP99, Some(quantile(0.99))),
        (Metric::LatencyP999, Some(quantile(0.999))),
        (Metric::LatencyTypicalP99, half.trial.due_windows.typical_p99()),
        (Metric::TesterWait, half.tester_wait),
        (Metric::PeerWait, half.peer_wait),
    ];
    Ok(of_known(measured))
}

/// The metrics that were measured.
pub(super) fn of_known<const N: usize>(measured: [(Metric, Option<f64>); N]) -> Measured {
    let known = measured.into_iter();
    known
        .filter_map(|(metric, value)| Some((metric, value?)))
        .collect()
}

/// The core and the processes of a peer.
struct Observed {
    core: usize,
    processes: Vec<u32>,
}

/// A trial and its cost.
struct Account {
    trial: Trial,
    /// Seconds of CPU time that the peer used for each packet that it passed.
    cpu_per_packet: f64,
    /// Time in which the tester's thread was ready to run without a core, as a share of the trial; `None` if the kernel
    /// does not count it.
    tester_wait: Option<f64>,
    /// The same of all threads of the peer together; `None` if it has none.
    peer_wait: Option<f64>,
}

impl Observed {
    /// Sends a load from the calling thread, between two readings of the kernel's counters.
    fn account<P: Port>(&self, tester: &mut Tester<P>, load: Load) -> Result<Account, Failure> {
        let waits = || {
            (
                ThreadTimes::waits_of_this_thread(),
                ThreadTimes::waits_of(&self.processes),
            )
        };
        let (own_before, peer_before) = waits();
        let (times_before, start) = (CoreTimes::now()?, Instant::now());
        let trial = tester.run(load)?;
        let (times, elapsed) = (CoreTimes::now()?, start.elapsed());
        let (own, peer) = waits();
        if trial.passed() == 0 {
            let sent = trial.sent();
            return Err(CompareError::NothingPassed { sent }.into());
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let cpu_per_packet = times.peer_since(&times_before, self.core).as_secs_f64() / trial.passed() as f64;
        let share = |waited: Duration| waited.as_secs_f64() / elapsed.as_secs_f64();
        Ok(Account {
            trial,
            cpu_per_packet,
            tester_wait: own.since(&own_before).map(share),
            peer_wait: peer.since(&peer_before).map(share),
        })
    }
}

/// The measurements with real connections.
pub(super) fn connections(clients: &Clients<'_>, running: &mut Running) -> Result<Measured, Failure> {
    let measured = || {
        clients.wait()?;
        Ok(Measured::from([
            (Metric::NewConnections, clients.requests(true)?),
            (Metric::Requests, clients.requests(false)?),
            (Metric::Bulk, clients.bulk(1, false)?),
            (Metric::BulkDown, clients.bulk(1, true)?),
            (Metric::BulkMany, clients.bulk(MANY, false)?),
            (Metric::BulkManyDown, clients.bulk(MANY, true)?),
            (Metric::Connections, f64::from(clients.connections(CONNECTIONS))),
        ]))
    };
    check_running(measured(), running)
}

/// UDP super-packets, through a peer that takes UDP.
pub(super) fn segments(network: &Network, duration: Duration) -> Result<Measured, Failure> {
    let received = segments::measure(&network.client, &network.backends, duration)?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let wrong = received.wrong as f64;
    Ok(Measured::from([
        (Metric::Segments, received.bits() / duration.as_secs_f64()),
        (Metric::SegmentsWrong, wrong),
    ]))
}

/// The end of a process of the peer is the cause of a failure, and makes a result worthless.
pub(super) fn check_running<T>(measured: Result<T, Failure>, running: &mut Running) -> Result<T, Failure> {
    for process in &mut running.processes {
        process.check_running()?;
    }
    measured
}
