//! The command line.

use clap::{Parser, Subcommand};

use crate::bench::ReportArgs;
use crate::churn::ChurnArgs;
use crate::compare::CompareArgs;
use crate::flood::FloodArgs;
use crate::instructions::{InstructionsArgs, WorkArgs};
use crate::pipeline::PipelineArgs;
use crate::reflect::ReflectArgs;
use crate::serve::ServeArgs;
use crate::session::args::{LatencyArgs, LoadArgs};

/// Measures vl3-lb.
#[derive(Debug, Parser)]
#[command(name = "vl3-perf", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure the packet logic in memory: cycles and nanoseconds per packet, bytes per flow
    Pipeline(PipelineArgs),
    Load(LoadArgs),
    Latency(LatencyArgs),
    Serve(ServeArgs),
    Reflect(ReflectArgs),
    /// Send one load through vl3-lb and its peers in turn, in network namespaces
    Compare(CompareArgs),
    /// Replace backends under load: duration of changes, losses
    Churn(ChurnArgs),
    /// Flood vl3-lb and its peers from spoofed sources while legitimate clients go on, in network namespaces
    Flood(FloodArgs),
    /// Render the results of pipeline, compare, churn and flood as one report
    Report(ReportArgs),
    /// Count instructions per packet with valgrind, and compare them with a baseline
    Instructions(InstructionsArgs),
    /// The program that valgrind runs
    #[command(hide = true)]
    Work(WorkArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
