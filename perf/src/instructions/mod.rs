//! `vl3-perf instructions`: what a packet costs in instructions, counted by valgrind.
//!
//! Times differ from run to run and from machine to machine; counts hardly do. So counts are what can be compared with
//! a file in the repository: who makes the packet logic longer finds out at once.

mod baseline;
mod callgrind;

use std::path::PathBuf;

use clap::ValueEnum;

use crate::failure::Failure;
use crate::net::on_path;
use crate::pipeline::Work;

use baseline::{Baseline, Change};

/// Packets of the shorter of the two runs whose difference is counted.
const PACKETS: u32 = 20_000;

/// What to compare with.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct InstructionsArgs {
    /// The counts to compare with
    #[arg(long, value_name = "FILE", default_value = "perf/instructions.json")]
    pub(crate) baseline: PathBuf,

    /// Write the counts to the file instead
    #[arg(long)]
    pub(crate) update: bool,

    /// The compiler that made this program, as `rustc --version` says it: counts of another one are not judged
    #[arg(long, value_name = "TEXT", default_value = "unknown")]
    pub(crate) compiler: String,

    /// Change in percent that is still the same
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0)]
    pub(crate) tolerance: f64,
}

/// What a run under valgrind does.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct WorkArgs {
    #[arg(long, value_enum)]
    pub(crate) kind: Work,
    #[arg(long)]
    pub(crate) packets: u32,
}

/// Counts and compares; what to say, and the exit status: 4 if a count has grown.
pub(crate) fn run(
    args: &InstructionsArgs,
    progress: &mut dyn FnMut(String),
) -> Result<(String, u8), Failure> {
    if on_path("valgrind").is_none() {
        return Err(Failure::new(
            "count instructions: valgrind is not installed (Debian: valgrind)",
        ));
    }
    if cfg!(debug_assertions) {
        return Err(Failure::new(
            "count instructions: a debug build says nothing about the product; build with --release",
        ));
    }
    let mut counted = Baseline::new(&args.compiler);
    for &kind in Work::value_variants() {
        let name = name(kind);
        progress(format!("{name}: counting"));
        let short = callgrind::count(&name, PACKETS)?;
        let long = callgrind::count(&name, 2 * PACKETS)?;
        counted.insert(name, per_packet(short, long));
    }
    if args.update {
        counted.write(&args.baseline)?;
        return Ok((
            format!("{}: written\n{}", args.baseline.display(), counted.to_text()),
            0,
        ));
    }
    let changes = Baseline::read(&args.baseline)?.compare(&counted, args.tolerance);
    let text: String = changes.iter().map(Change::to_text).collect();
    let same_compiler = Baseline::read(&args.baseline)?.compiler == args.compiler;
    let grown = changes.iter().any(|change| change.grown);
    Ok(match (grown, same_compiler) {
        (false, _) => (text, 0),
        (true, true) => (format!("{text}{}", advice(args)), 4),
        (true, false) => (
            format!(
                "{text}not judged: the baseline is of another compiler, {}\n",
                args.compiler
            ),
            0,
        ),
    })
}

fn advice(args: &InstructionsArgs) -> String {
    format!(
        "the packet logic takes more instructions than {} says; if that is meant, run ./run count --update\n",
        args.baseline.display()
    )
}

fn name(kind: Work) -> String {
    kind.to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

/// What is the same in both runs, such as opening the flows, is not in their difference.
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
        assert_eq!(names, ["request", "reply", "new-flow"]);
    }
}
