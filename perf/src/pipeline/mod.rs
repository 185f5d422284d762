//! `vl3-perf pipeline`: the packet logic in memory.
//!
//! The engine is the one that workers run. A burst of packets is written into frames, the clock is
//! read, the engine decides about each packet, the clock is read again; only what lies between the
//! two readings counts. So there are no rings, no system calls and no generator in the numbers.

mod bench;
mod flows;
mod packets;
mod report;
#[cfg(test)]
mod tests;
mod world;

use crate::args::PipelineArgs;
use crate::failure::Failure;
use crate::stopwatch::Stopwatch;

use bench::Bench;
use report::{BurstResult, Environment, FlowsResult, Parameters, Report};

/// Measures what `args` ask for; `progress` is told what is being done.
pub(crate) fn run(args: &PipelineArgs, progress: &mut dyn FnMut(String)) -> Result<Report, Failure> {
    let core = pin(args.core)?;
    let stopwatch = Stopwatch::new();
    let environment = Environment::new(core, &stopwatch);
    let mut results = Vec::new();
    for &flows in &args.flows {
        progress(format!("{flows} flows: filling the table"));
        let mut bench = Bench::new(flows, args, &stopwatch)?;
        results.push(measure(&mut bench, flows, args, &environment, progress)?);
    }
    Ok(Report::new(environment, Parameters::new(args), results))
}

/// Flows of [`work`].
const WORK_FLOWS: u32 = 1000;

/// What [`work`] does again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Work {
    /// Requests of established flows
    Request,
    /// Replies of established flows
    Reply,
    /// Datagrams that open flows
    NewFlow,
}

/// Runs `packets` packets of one kind through the packet logic, for a tool that counts what happens there.
pub(crate) fn work(kind: Work, packets: u32) -> Result<(), Failure> {
    let args = PipelineArgs {
        flows: vec![WORK_FLOWS],
        bursts: vec![64],
        distribution: crate::args::Distribution::Uniform,
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
    environment: &Environment,
    progress: &mut dyn FnMut(String),
) -> Result<FlowsResult, Failure> {
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
        let costs = [request, reply, udp, tcp].map(|summary| environment.cost(summary));
        results.push(BurstResult::new(burst, costs));
    }
    Ok(FlowsResult::new(flows, bytes, results))
}

/// Keeps this thread on one core, so that its caches and its counter stay the same ones.
fn pin(wanted: Option<usize>) -> Result<usize, Failure> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let core = match wanted {
        Some(id) => cores.iter().find(|core| core.id == id),
        None => cores.last(),
    };
    let Some(&core) = core else {
        let known: Vec<usize> = cores.iter().map(|core| core.id).collect();
        let wanted = wanted.map_or_else(|| "any core".to_owned(), |id| format!("core {id}"));
        return Err(Failure::new(format!(
            "run on {wanted}: this process may use {known:?}; try --core"
        )));
    };
    if !core_affinity::set_for_current(core) {
        return Err(Failure::new(format!(
            "run on core {}: the kernel refuses",
            core.id
        )));
    }
    Ok(core.id)
}
