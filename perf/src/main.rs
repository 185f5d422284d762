//! `vl3-perf`: measures vl3-lb.
//!
//! `pipeline` runs the packet logic in memory and says what a packet costs. `load` and `latency` send to a
//! target, and `serve` or `reflect` is what answers there. `compare` and `churn` measure whole balancers in a network
//! of namespaces, `report` tells people what they found, and `instructions` finds what made the packet logic longer.
//! Every number is explained in `perf/README.md`.

mod args;
mod attachment;
mod bench;
mod churn;
mod compare;
mod failure;
mod frame;
mod instructions;
mod interrupt;
mod load;
mod net;
mod pipeline;
mod reflect;
mod report;
mod serve;
mod session;
mod stopwatch;
mod summary;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
use failure::Failure;
use report::Focus;

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

/// Returns the exit status of a command that could run.
fn run(args: Args) -> Result<u8, Failure> {
    match args.command {
        Command::Pipeline(args) => {
            let report = pipeline::run(&args, &mut |step| eprintln!("{step}"))?;
            print(&if args.json {
                report.to_json()
            } else {
                report.to_table()
            })?;
            Ok(0)
        }
        Command::Load(args) => session(&args.request()?, Focus::Throughput),
        Command::Latency(args) => session(&args.request()?, Focus::Latency),
        Command::Compare(args) => {
            let report = compare::run(&args, &mut |step| eprintln!("{step}"))?;
            print(&if args.json {
                report.to_json()
            } else {
                report.to_table()
            })?;
            Ok(0)
        }
        Command::Churn(args) => {
            let report = churn::run(&args, &mut |step| eprintln!("{step}"))?;
            print(&if args.json {
                report.to_json()
            } else {
                report.to_text()
            })?;
            Ok(0)
        }
        Command::Report(args) => {
            print(&bench::run(&args)?)?;
            Ok(0)
        }
        Command::Instructions(args) => {
            let (text, code) = instructions::run(&args, &mut |step| eprintln!("{step}"))?;
            print(&text)?;
            Ok(code)
        }
        Command::Work(args) => pipeline::work(args.kind, args.packets).map(|()| 0),
        Command::Serve(args) => serve::run(&args).map(|()| 0),
        Command::Reflect(args) => reflect::run(&args).map(|()| 0),
    }
}

fn session(request: &session::args::Request, focus: Focus) -> Result<u8, Failure> {
    let (text, verdict) = session::run(request, focus)?;
    print(&text)?;
    Ok(verdict.code())
}

fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever read the report has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Failure::new(format!("write the report: {error}"))),
    }
}
