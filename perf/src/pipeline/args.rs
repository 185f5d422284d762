//! The command line of `pipeline`.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::load::pattern::Spread;
use crate::report::number::{NumberError, parse_whole};

/// Flows at most: the NAT ports towards the largest number of backends.
const MAX_FLOWS: u64 = 100_000_000;
/// Packets of a burst at most.
const MAX_BURST: u64 = 1024;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PipelineArgs {
    /// Flows in the table, one measurement for each; k and M stand for thousands and millions
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = parse_flows, default_value = "1k,64k,1M")]
    pub(crate) flows: Vec<u32>,

    /// Packets per burst; the first one gives the headline numbers
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=MAX_BURST), default_value = "64")]
    pub(crate) bursts: Vec<u64>,

    /// Distribution of packets over flows
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

    /// Seed of all randomness
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Print one JSON document instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// The distribution of packets over flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Distribution {
    /// Random: caches help as little as possible
    Uniform,
    /// Few flows have most of the packets (exponent 1)
    Zipf,
    /// One flow after the other, in the order in which they were opened
    Sequential,
}

impl Distribution {
    pub(super) const fn spread(self) -> Spread {
        match self {
            Self::Uniform => Spread::Uniform,
            Self::Zipf => Spread::Zipf(1.0),
            Self::Sequential => Spread::Sequential,
        }
    }
}

fn parse_flows(text: &str) -> Result<u32, NumberError> {
    let flows = parse_whole(text, MAX_FLOWS)?;
    Ok(u32::try_from(flows).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

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
    fn invalid_arguments_are_rejected() {
        for line in [
            "--flows 0",
            "--flows 101M",
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
