//! `vl3-perf`: measures vl3-lb.
//!
//! `pipeline` runs the packet logic in memory and says what a packet costs. Every number is explained
//! in `perf/README.md`.

mod args;
mod failure;
mod pipeline;
mod stopwatch;
mod summary;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
use failure::Failure;

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

fn run(args: Args) -> Result<(), Failure> {
    let text = match args.command {
        Command::Pipeline(args) => {
            let report = pipeline::run(&args, &mut |step| eprintln!("{step}"))?;
            if args.json {
                report.to_json()
            } else {
                report.to_table()
            }
        }
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever read the report has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Failure::new(format!("write the report: {error}"))),
    }
}
