//! `vl3-perf pipeline`: the packet logic in memory.
//!
//! The engine is that of the workers. A burst of packets is written into frames, the clock is read, the engine decides
//! about each packet, the clock is read again. Only the time between the two readings counts: no rings, no system
//! calls, no generator.

mod args;
mod bench;
mod error;
mod flows;
mod packets;
mod report;
#[cfg(test)]
mod tests;
mod world;

use crate::report::environment::Environment;
use crate::report::header::Header;
use crate::stopwatch::Stopwatch;

use args::Distribution;
use bench::Bench;
use report::{FlowsResult, Parameters};

pub(crate) use args::PipelineArgs;
pub(crate) use error::PipelineError;
pub(crate) use report::Report;
#[cfg(test)]
pub(crate) use report::tests::report;

/// Measures as `args` say. `progress` receives a line for each step.
pub(crate) fn run(args: &PipelineArgs, progress: &mut dyn FnMut(String)) -> Result<Report, PipelineError> {
    // Of all cores, before this thread is left with one.
    let environment = Environment::here();
    let core = pin(args.core)?;
    let stopwatch = Stopwatch::new();
    let parameters = Parameters::new(args, core, &stopwatch);
    let mut results = Vec::new();
    for &flows in &args.flows {
        progress(format!("{flows} flows: filling the table"));
        let mut bench = Bench::new(flows, args, &stopwatch)?;
        results.push(measure(&mut bench, flows, args, &parameters, progress)?);
    }
    Ok(Report {
        header: Header::new(environment),
        parameters,
        results,
    })
}

/// Flows of [`work`].
const WORK_FLOWS: u32 = 1000;

/// The packets of [`work`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Work {
    /// Requests of established flows
    Request,
    /// Replies of established flows
    Reply,
    /// Datagrams that open flows
    NewFlow,
    /// Requests of established flows during a capture of one flow in 1,000
    CapturedRequest,
    /// Replies of established flows during such a capture
    CapturedReply,
    /// Datagrams that open flows during such a capture
    CapturedNewFlow,
}

/// Runs `packets` packets of one kind through the packet logic, for a tool that counts its instructions.
pub(crate) fn work(kind: Work, packets: u32) -> Result<(), PipelineError> {
    let args = PipelineArgs {
        flows: vec![WORK_FLOWS],
        bursts: vec![64],
        distribution: Distribution::Uniform,
        runs: 1,
        packets,
        core: None,
        seed: 1,
        json: false,
    };
    let stopwatch = Stopwatch::new();
    Bench::new(WORK_FLOWS, &args, &stopwatch)?.once(kind, 64)
}

fn measure(
    bench: &mut Bench<'_>,
    flows: u32,
    args: &PipelineArgs,
    parameters: &Parameters,
    progress: &mut dyn FnMut(String),
) -> Result<FlowsResult, PipelineError> {
    let bytes = bench.memory_bytes();
    let mut established = Vec::new();
    for &burst in &args.bursts {
        progress(format!("{flows} flows, burst {burst}: established flows"));
        established.push(bench.established(args.runs, burst)?);
    }
    let mut results = Vec::new();
    for (&burst, [request, reply]) in args.bursts.iter().zip(established) {
        progress(format!("{flows} flows, burst {burst}: new flows"));
        let [udp, tcp] = bench.new_flows(args.runs, burst)?;
        results.push((burst, [request, reply, udp, tcp]));
    }
    Ok(parameters.result(flows, bytes, &results))
}

/// Pins this thread, so that its caches and its counter stay the same.
fn pin(core: Option<usize>) -> Result<usize, PipelineError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let found = match core {
        Some(id) => cores.iter().find(|core| core.id == id),
        None => cores.last(),
    };
    let Some(&found) = found else {
        let available = cores.iter().map(|core| core.id).collect();
        let core = core.unwrap_or_default();
        return Err(PipelineError::Core { core, available });
    };
    if !core_affinity::set_for_current(found) {
        return Err(PipelineError::Pin { core: found.id });
    }
    Ok(found.id)
}
