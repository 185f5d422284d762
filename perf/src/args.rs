//! The command line.

use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::bench::ReportArgs;
use crate::churn::ChurnArgs;
use crate::compare::CompareArgs;
use crate::instructions::{InstructionsArgs, WorkArgs};
use crate::reflect::ReflectArgs;
use crate::serve::ServeArgs;
use crate::session::args::{LatencyArgs, LoadArgs};

/// Flows at most: what NAT ports towards the largest number of backends allow.
const MAX_FLOWS: u32 = 100_000_000;
/// Packets of a burst at most.
const MAX_BURST: u64 = 1024;

/// Measures vl3-lb.
#[derive(Debug, Parser)]
#[command(name = "vl3-perf", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the packet logic in memory: cycles and nanoseconds per packet, bytes per flow
    Pipeline(PipelineArgs),
    Load(LoadArgs),
    Latency(LatencyArgs),
    Serve(ServeArgs),
    Reflect(ReflectArgs),
    /// Sends one load through vl3-lb and its peers in turn, in network namespaces
    Compare(CompareArgs),
    /// Replaces backends under load: how long changes take, what is lost
    Churn(ChurnArgs),
    /// Writes a report of what pipeline, compare and churn measured
    Report(ReportArgs),
    /// Counts instructions per packet with valgrind, and compares them with a baseline
    Instructions(InstructionsArgs),
    /// What valgrind looks at
    #[command(hide = true)]
    Work(WorkArgs),
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PipelineArgs {
    /// Flows in the table, each number measured by itself; k and M stand for thousands and millions
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = parse_flows, default_value = "1k,64k,1M")]
    pub(crate) flows: Vec<u32>,

    /// Packets per burst; the first one gives the headline numbers
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=MAX_BURST), default_value = "64")]
    pub(crate) bursts: Vec<u64>,

    /// Which flows the packets belong to
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    pub(crate) distribution: Distribution,

    /// Measurements of each number; the median is reported, with the smallest and the largest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), default_value_t = 7)]
    pub(crate) runs: u32,

    /// Packets in one measurement, at least; k and M as for --flows
    #[arg(long, value_name = "N", value_parser = parse_flows, default_value = "1M")]
    pub(crate) packets: u32,

    /// CPU core to run on [default: the last one]
    #[arg(long, value_name = "CORE")]
    pub(crate) core: Option<usize>,

    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Print one JSON document instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// How packets are spread over the flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Distribution {
    /// Each packet belongs to any flow: caches help as little as they can
    Uniform,
    /// Few flows have most of the packets (exponent 1)
    Zipf,
    /// One flow after the other, in the order in which they were opened
    Sequential,
}

/// A number of flows: `64000`, `64k`, `1M`.
fn parse_flows(text: &str) -> Result<u32, String> {
    let (digits, factor) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1_000),
        None => text
            .strip_suffix(['M', 'm'])
            .map_or((text, 1), |digits| (digits, 1_000_000)),
    };
    digits
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|flows| (1..=MAX_FLOWS).contains(flows))
        .ok_or_else(|| format!("want 1 to {}M, such as 64000, 64k or 1M", MAX_FLOWS / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(line: &str) -> Result<PipelineArgs, clap::Error> {
        let words = ["vl3-perf", "pipeline"]
            .into_iter()
            .chain(line.split_whitespace());
        Args::try_parse_from(words).map(|args| match args.command {
            Command::Pipeline(args) => args,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn numbers_of_flows_have_suffixes_and_limits() {
        for (text, flows) in [
            ("1", Some(1)),
            ("64000", Some(64_000)),
            ("64k", Some(64_000)),
            ("10M", Some(10_000_000)),
            ("100M", Some(100_000_000)),
            ("101M", None),
            ("5000000000", None),
            ("0", None),
            ("k", None),
            ("-1", None),
            ("1.5M", None),
            ("", None),
        ] {
            assert_eq!(parse_flows(text).ok(), flows, "{text:?}");
        }
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let args =
            pipeline("--flows 1k,64k,1M --bursts 32,64,128,256 --distribution zipf --runs 3 --json").unwrap();
        assert_eq!(args.flows, [1_000, 64_000, 1_000_000]);
        assert_eq!(args.bursts, [32, 64, 128, 256]);
        assert_eq!(
            (args.distribution, args.runs, args.json),
            (Distribution::Zipf, 3, true)
        );
    }

    #[test]
    fn defaults_are_the_targets_up_to_a_million_flows_in_bursts_of_a_worker() {
        let args = pipeline("").unwrap();
        assert_eq!(
            (args.flows, args.bursts),
            (vec![1_000, 64_000, 1_000_000], vec![64])
        );
        assert_eq!((args.distribution, args.json), (Distribution::Uniform, false));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "--flows 0",
            "--flows 1k,",
            "--bursts 0",
            "--bursts 1025",
            "--runs 0",
            "--distribution normal",
            "--frobnicate",
        ] {
            assert!(pipeline(line).is_err(), "{line}");
        }
    }
}
