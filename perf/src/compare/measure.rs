//! One peer in one round: everything that it can be measured on.

use std::time::{Duration, Instant};

use crate::failure::Failure;
use vl3lb_dataplane::port::Port;

use crate::net::{BACKENDS, Network};

use super::CompareArgs;
use super::accounting::{CoreTimes, process_time, resident_bytes};
use super::cores::Cores;
use super::metric::{Measured, Metric};
use super::peer::{Path, Place, Running};
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
    let measured = network.router.run(|| {
        place.cores.pin_tester()?;
        match place.site.device()? {
            Some(device) => measured_by(Tester::on_tun(device, path, args.flows), place.cores, args),
            None => measured_by(
                Tester::open(path, args.flows, BACKENDS.into())?,
                place.cores,
                args,
            ),
        }
    });
    explained(measured, running)
}

fn measured_by<P: Port>(
    mut tester: Tester<P>,
    cores: &Cores,
    args: &CompareArgs,
) -> Result<Measured, Failure> {
    open_flows(&mut tester, args.flows)?;
    flood(&mut tester, cores, args)
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

fn flood<P: Port>(tester: &mut Tester<P>, cores: &Cores, args: &CompareArgs) -> Result<Measured, Failure> {
    let flat_out = Load {
        rate: None,
        duration: args.duration,
        gentle: false,
    };
    let (full, cpu_full) = accounted(tester, cores, flat_out)?;
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
    let loss_free = SEARCH.highest(full.rate() * 1.1, lossless)?;
    let half = Load {
        rate: Some((loss_free / 2.0).max(1000.0) / per_request),
        ..flat_out
    };
    let (half, cpu_half) = accounted(tester, cores, half)?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "nanoseconds of latency, far below 2^53"
    )]
    let quantile = |quantile: f64| half.latency.value_at_quantile(quantile) as f64 / 1e9;
    Ok(vec![
        (Metric::LossFree, loss_free),
        (Metric::FlatOut, full.rate()),
        (Metric::CpuFull, cpu_full),
        (Metric::CpuHalf, cpu_half),
        (Metric::TesterBound, f64::from(u8::from(tester_bound))),
        (Metric::LatencyP50, quantile(0.5)),
        (Metric::LatencyP99, quantile(0.99)),
        (Metric::LatencyP999, quantile(0.999)),
    ])
}

/// A load, and the seconds of CPU time that the peer used for each packet that it passed.
fn accounted<P: Port>(tester: &mut Tester<P>, cores: &Cores, load: Load) -> Result<(Outcome, f64), Failure> {
    let before = CoreTimes::now()?;
    let outcome = tester.run(load);
    let used = CoreTimes::now()?.peer_since(&before, &[cores.peer_core()]);
    if outcome.passed() == 0 {
        return Err(Failure::new(format!(
            "send {:?}: nothing came out of the peer",
            load.rate
        )));
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let per_packet = used.as_secs_f64() / outcome.passed() as f64;
    Ok((outcome, per_packet))
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
        process.alive()?;
    }
    measured
}
