//! What a capture takes from traffic: a peer flat out with and without one, in turn.

use std::time::{Duration, Instant};

use vl3lb_dataplane::Port;

use crate::failure::Failure;
use crate::load::pacing::Rate;
use crate::net::{BACKENDS, Network, Process};
use crate::summary::{Summary, median_interval};

use super::CompareArgs;
use super::accounting::ThreadTimes;
use super::measure::{OPEN_RATE, check_running, establish, flat_out, of_known};
use super::metric::{Measured, Metric};
use super::peer::{PacketPath, PeerHost, Running};
use super::tester::{Load, Tester};

/// Pairs of trials with and without a capture.
const PAIRS: u32 = 16;
/// Time for a capture to begin or end.
const SETTLE: Duration = Duration::from_millis(500);

/// Packets per second during a capture, as a share of those without one, and the CPU time of the capture.
pub(super) fn measure(
    host: &PeerHost<'_>,
    network: &Network,
    path: PacketPath,
    args: &CompareArgs,
    running: &mut Running,
) -> Result<Measured, Failure> {
    let pairs = Pairs {
        host,
        args,
        capture: &running.capture,
        balancer: running.processes.iter().map(Process::pid).collect(),
    };
    let measured = network.router.netns.run(|| {
        host.cores.pin_tester()?;
        match host.node.device()? {
            Some(device) => pairs.measure(&mut Tester::on_tun(device, path, args.flows)),
            None => pairs.measure(&mut Tester::open(path, args.flows, BACKENDS.into())?),
        }
    });
    check_running(measured, running)
}

struct Pairs<'a> {
    host: &'a PeerHost<'a>,
    args: &'a CompareArgs,
    /// The command.
    capture: &'a [String],
    balancer: Vec<u32>,
}

/// A trial.
#[derive(Debug, Clone, Copy)]
struct Trial {
    /// Packets per second.
    rate: f64,
    /// CPU time of the balancer beside its workers, and of the capture's reader, as a share of a core; `None` if the kernel
    /// does not count it.
    cpu: Option<f64>,
}

impl Pairs<'_> {
    fn measure<P: Port>(&self, tester: &mut Tester<P>) -> Result<Measured, Failure> {
        establish(tester, self.args.flows)?;
        let (mut rates, mut shares) = (Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            // Either kind is first in half of the pairs, so that a drift of the machine favours none.
            let captured_first = pair % 2 == 1;
            let first = self.trial(tester, captured_first)?;
            let second = self.trial(tester, !captured_first)?;
            let (captured, plain) = if captured_first {
                (first, second)
            } else {
                (second, first)
            };
            rates.push(captured.rate / plain.rate);
            shares.extend(
                captured
                    .cpu
                    .zip(plain.cpu)
                    .map(|(captured, plain)| captured - plain),
            );
        }
        let bounds = median_interval(rates.clone());
        let median = |values| Summary::of(values).map(|summary| summary.median);
        Ok(of_known([
            (Metric::CapturedRatio, median(rates)),
            (Metric::CapturedLow, bounds.map(|(low, _)| low)),
            (Metric::CapturedHigh, bounds.map(|(_, high)| high)),
            (Metric::CaptureCpu, median(shares)),
        ]))
    }

    fn trial<P: Port>(&self, tester: &mut Tester<P>, is_captured: bool) -> Result<Trial, Failure> {
        let mut reader = if is_captured {
            self.host.begin_capture(self.capture)?
        } else {
            None
        };
        // Until it has begun, or the one before has ended; flows go on.
        tester.run(Load {
            rate: Rate::Fixed(OPEN_RATE),
            duration: SETTLE,
            busy_poll: false,
        })?;
        let mut processes = self.balancer.clone();
        processes.extend(reader.as_ref().map(Process::pid));
        let (before, start) = (ThreadTimes::runs_beside_workers(&processes), Instant::now());
        let rate = tester.run(flat_out(self.args))?.rate();
        let used = ThreadTimes::runs_beside_workers(&processes).since(&before);
        let elapsed = start.elapsed().as_secs_f64();
        if let Some(reader) = &mut reader {
            reader.check_running()?;
        }
        Ok(Trial {
            rate,
            cpu: used.map(|used| used.as_secs_f64() / elapsed),
        })
    }
}
