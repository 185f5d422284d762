//! The command lines of `load` and `latency`.

use std::path::PathBuf;

use crate::load::error::PlanError;
use crate::load::pacing::Rate;
use crate::load::plan::Plan;
use crate::report::fail_if::FailIf;
use crate::report::number::parse_count;

/// Default packets per second of `load`.
const LOAD_RATE: f64 = 10_000.0;

/// Load a target: throughput, loss, and round trips
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    session: SessionArgs,

    /// Packets or requests per second [default: 10k]
    #[arg(short = 'R', long, value_name = "N", value_parser = parse_count, conflicts_with_all = ["ramp", "flat_out"])]
    rate: Option<f64>,

    /// Packets or requests per second that change linearly: 1k..100k
    #[arg(long, value_name = "FROM..TO", value_parser = parse_ramp, conflicts_with = "flat_out")]
    ramp: Option<(f64, f64)>,

    /// As fast as possible
    #[arg(long)]
    flat_out: bool,
}

/// Measure round trips at a low rate
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LatencyArgs {
    #[command(flatten)]
    session: SessionArgs,

    /// Packets or requests per second
    #[arg(short = 'R', long, value_name = "N", value_parser = parse_count, default_value = "1k")]
    rate: f64,
}

/// A load, the number of its runs, and the report.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SessionArgs {
    #[command(flatten)]
    pub(crate) plan: Plan,

    /// Runs; the median is reported, with the smallest and the largest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100), default_value_t = 1)]
    pub(crate) runs: u32,

    /// Exit with status 4 if this holds for the median of the runs: p99>1ms, loss>0.1%, rate<500k; repeatable
    #[arg(long, value_name = "CONDITION")]
    pub(crate) fail_if: Vec<FailIf>,

    /// Write round trips as HdrHistogram's percentile text
    #[arg(long, value_name = "FILE")]
    pub(crate) hgrm: Option<PathBuf>,

    /// Plot round trips by percentile and throughput over time, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,

    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

impl LoadArgs {
    /// The session with all defaults.
    ///
    /// # Errors
    ///
    /// Arguments that contradict each other.
    pub(crate) fn session(self) -> Result<SessionArgs, PlanError> {
        let rate = match (self.ramp, self.flat_out) {
            (Some((from, to)), _) => Rate::Ramp { from, to },
            (None, true) => Rate::FlatOut,
            (None, false) => Rate::Fixed(self.rate.unwrap_or(LOAD_RATE)),
        };
        self.session.complete(rate, 1000, 64)
    }
}

impl LatencyArgs {
    /// The session with all defaults.
    ///
    /// # Errors
    ///
    /// Arguments that contradict each other.
    pub(crate) fn session(self) -> Result<SessionArgs, PlanError> {
        self.session.complete(Rate::Fixed(self.rate), 16, 16)
    }
}

impl SessionArgs {
    fn complete(self, rate: Rate, flows: u32, connections: u32) -> Result<Self, PlanError> {
        Ok(Self {
            plan: self.plan.complete(rate, flows, connections)?,
            ..self
        })
    }
}

fn parse_ramp(text: &str) -> Result<(f64, f64), PlanError> {
    let (from, to) = text.split_once("..").ok_or(PlanError::Ramp)?;
    Ok((parse_count(from)?, parse_count(to)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};
    use crate::load::plan::Protocol;

    /// The plan of a command line, or the reason to reject it.
    fn plan(line: &str) -> Result<Plan, String> {
        let words = ["vl3-perf"].into_iter().chain(line.split_whitespace());
        let args = Args::try_parse_from(words).map_err(|error| error.to_string())?;
        let session = match args.command {
            Command::Load(args) => args.session(),
            Command::Latency(args) => args.session(),
            other => panic!("{other:?}"),
        };
        Ok(session.map_err(|error| error.to_string())?.plan)
    }

    #[test]
    fn defaults_are_bounded() {
        let load = plan("load 172.16.1.103:5000").unwrap();
        assert_eq!(
            (load.protocol, load.size(), load.flows()),
            (Protocol::Udp, 64, 1000)
        );
        assert_eq!(load.rate, Rate::Fixed(10_000.0));
        assert_eq!(load.duration, Duration::from_secs(10));
        assert_eq!(load.count, 1_000_000_000);
        let latency = plan("latency [2001:db8::67]:5000").unwrap();
        assert_eq!((latency.size(), latency.flows()), (84, 16));
        assert_eq!(latency.rate, Rate::Fixed(1_000.0));
    }

    #[test]
    fn rates_are_fixed_a_ramp_or_flat_out() {
        for (flags, rate) in [
            ("-R 500k", Rate::Fixed(500_000.0)),
            (
                "--ramp 1k..2k",
                Rate::Ramp {
                    from: 1000.0,
                    to: 2000.0,
                },
            ),
            ("--flat-out", Rate::FlatOut),
        ] {
            let found = plan(&format!("load 10.0.0.1:1 {flags}")).unwrap();
            assert_eq!(found.rate, rate);
        }
    }

    #[test]
    fn each_request_has_a_new_connection_unless_they_are_kept() {
        let per_connection = |flags: &str| {
            let found = plan(&format!("load 10.0.0.1:1 -p tcp {flags}")).unwrap();
            (found.requests_per_connection(), found.flows())
        };
        assert_eq!(per_connection(""), (Some(1), 64));
        assert_eq!(per_connection("--requests 100 -c 8"), (Some(100), 8));
        assert_eq!(per_connection("--keep -c 10k"), (None, 10_000));
    }

    #[test]
    fn invalid_command_lines_are_rejected() {
        for line in [
            "load",
            "load 10.0.0.1",
            "load finance.vl3-lb:8080",
            "load 9.9.9.9:53",
            "load 224.0.0.1:53",
            "load 255.255.255.255:53",
            "load 10.0.0.1:0",
            "load 10.0.0.1:1 --size 63",
            "load 10.0.0.1:1 --size 9000",
            "load [2001:db8::1]:1 --size 64",
            "load 10.0.0.1:1 --flows 0",
            "load 10.0.0.1:1 --flows 100M",
            "load 10.0.0.1:1 --flows 2 -t 3",
            "load 10.0.0.1:1 -R 0",
            "load 10.0.0.1:1 -R 1k --flat-out",
            "load 10.0.0.1:1 --ramp 1k",
            "load 10.0.0.1:1 -d 0",
            "load 10.0.0.1:1 -i 1ms",
            "load 10.0.0.1:1 -p tcp --engine xdp",
            "load 10.0.0.1:1 -p tcp --one-way",
            "load 10.0.0.1:1 -p tcp --zipf 1",
            "load 10.0.0.1:1 -p tcp-packets --engine socket",
            "load 10.0.0.1:1 --engine xdp -t 2",
            "load 10.0.0.1:1 --source ::1",
            "load 10.0.0.1:1 --fail-if p98>1ms",
            "latency 10.0.0.1:1 --flat-out",
        ] {
            assert!(plan(line).is_err(), "{line}");
        }
        assert!(plan("load 9.9.9.9:53 --allow-public").is_ok());
    }
}
