//! `vl3-perf`: measures vl3-lb.
//!
//! `pipeline` measures the packet logic in memory. `load` and `latency` send to a target, with `serve` or `reflect` as
//! the other end. `compare`, `churn` and `flood` measure whole balancers in network namespaces, `report` renders their results,
//! and `instructions` counts the instructions of the packet logic. perf/README.md explains every number.

mod args;
mod attachment;
mod bench;
mod churn;
mod compare;
mod failure;
mod flood;
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
use serde::Serialize;

use args::{Args, Command};
use failure::Failure;
use load::error::PlanError;
use report::{Focus, header};
use session::args::SessionArgs;

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

/// Returns the exit status of a command that ran.
fn run(args: Args) -> Result<u8, Failure> {
    let progress = &mut |line| eprintln!("{line}");
    let (text, code) = match args.command {
        Command::Pipeline(args) => {
            let report = pipeline::run(&args, progress)?;
            (render(&report, args.json, pipeline::Report::to_text), 0)
        }
        Command::Compare(args) => {
            let report = compare::run(&args, progress)?;
            (render(&report, args.json, compare::Report::to_text), 0)
        }
        Command::Churn(args) => {
            let report = churn::run(&args, progress)?;
            (render(&report, args.json, churn::Report::to_text), 0)
        }
        Command::Flood(args) => {
            let report = flood::run(&args, progress)?;
            (render(&report, args.json, flood::Report::to_text), 0)
        }
        Command::Load(args) => session(args.session(), Focus::Throughput)?,
        Command::Latency(args) => session(args.session(), Focus::Latency)?,
        Command::Report(args) => (bench::run(&args)?, 0),
        Command::Instructions(args) => instructions::run(&args, progress)?,
        Command::Work(args) => {
            pipeline::work(args.kind, args.packets)?;
            return Ok(0);
        }
        Command::Serve(args) => {
            serve::run(&args)?;
            return Ok(0);
        }
        Command::Reflect(args) => {
            reflect::run(&args)?;
            return Ok(0);
        }
    };
    match io::stdout().write_all(text.as_bytes()) {
        // The reader has closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(code),
        written => written
            .map(|()| code)
            .map_err(Failure::system("write the report")),
    }
}

fn session(args: Result<SessionArgs, PlanError>, focus: Focus) -> Result<(String, u8), Failure> {
    let (text, verdict) = session::run(&args?, focus)?;
    Ok((text, verdict.code()))
}

/// A report as JSON or as text.
fn render<R: Serialize>(report: &R, json: bool, text: fn(&R) -> String) -> String {
    if json {
        header::document(report)
    } else {
        text(report)
    }
}
