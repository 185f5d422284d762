//! `vl3-perf instructions`: instructions per packet, counted by valgrind.
//!
//! Times differ from run to run and from machine to machine, counts hardly do. So counts are compared with a file in
//! the repository, and a change that makes the packet logic longer is found at once.

mod baseline;
mod callgrind;
mod error;

use std::path::PathBuf;

use clap::ValueEnum;

use crate::failure::Failure;
use crate::net::on_path;
use crate::pipeline::Work;

use baseline::{Baseline, Change};

pub(crate) use error::CountError;

/// Packets of the shorter one of the two runs whose difference is counted.
const PACKETS: u32 = 20_000;
/// The exit status if a count has grown.
const GROWN: u8 = 4;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct InstructionsArgs {
    /// The counts to compare with
    #[arg(long, value_name = "FILE", default_value = "perf/instructions.json")]
    pub(crate) baseline: PathBuf,

    /// Write the counts to the file instead
    #[arg(long)]
    pub(crate) update: bool,

    /// The compiler of this program, by `rustc --version`: counts of another compiler are not judged
    #[arg(long, value_name = "TEXT", default_value = "unknown")]
    pub(crate) compiler: String,

    /// Allowed growth in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0)]
    pub(crate) tolerance: f64,
}

/// A run under valgrind.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct WorkArgs {
    #[arg(long, value_enum)]
    pub(crate) kind: Work,
    #[arg(long)]
    pub(crate) packets: u32,
}

/// Counts and compares. Returns the text for stdout and the exit status.
pub(crate) fn run(
    args: &InstructionsArgs,
    progress: &mut dyn FnMut(String),
) -> Result<(String, u8), Failure> {
    if on_path("valgrind").is_none() {
        return Err(CountError::NoValgrind.into());
    }
    if cfg!(debug_assertions) {
        return Err(CountError::DebugBuild.into());
    }
    let mut counted = Baseline::new(&args.compiler);
    for &kind in Work::value_variants() {
        let name = name(kind);
        progress(format!("{name}: counting"));
        let short = callgrind::count(&name, PACKETS)?;
        let long = callgrind::count(&name, 2 * PACKETS)?;
        counted.insert(name, per_packet(short, long));
    }
    let file = args.baseline.display();
    if args.update {
        counted.write(&args.baseline)?;
        return Ok((format!("{file}: written\n{}", counted.to_text()), 0));
    }
    let baseline = Baseline::read(&args.baseline)?;
    let changes = baseline.compare(&counted, args.tolerance);
    let text: String = changes.iter().map(Change::to_text).collect();
    if changes.iter().all(|change| !change.grown) {
        Ok((text, 0))
    } else if baseline.compiler == args.compiler {
        let advice = format!(
            "the packet logic takes more instructions than in {file}; if that is intended, run ./run count --update\n"
        );
        Ok((text + &advice, GROWN))
    } else {
        let note = format!(
            "not judged: the baseline is of {}, this program of {}\n",
            baseline.compiler, args.compiler
        );
        Ok((text + &note, 0))
    }
}

fn name(kind: Work) -> String {
    let value = kind.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Without the instructions that both runs have in common, such as opening the flows.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn per_packet(short: u64, long: u64) -> f64 {
    (long.saturating_sub(short) as f64 / f64::from(PACKETS) * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_two_runs_is_the_cost_of_their_packets() {
        assert_eq!(per_packet(1_000_000, 1_000_000 + 911 * 20_000 + 1000), 911.1);
        assert_eq!(per_packet(5, 4), 0.0);
    }

    #[test]
    fn every_kind_of_work_has_a_name() {
        let names: Vec<String> = Work::value_variants().iter().map(|&kind| name(kind)).collect();
        let kinds = ["request", "reply", "new-flow"];
        let captured = kinds.map(|kind| format!("captured-{kind}"));
        assert_eq!(names, [kinds.map(String::from), captured].concat());
    }
}
