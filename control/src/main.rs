//! `vl3-lb`: the balancer, and the command line that asks it.

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use vl3lb_control::cli::args::{Cli, Command};
use vl3lb_control::cli::{Failure, complete, execute};
use vl3lb_control::run::run;

fn main() -> ExitCode {
    // First, before any output and any thread.
    if complete() {
        return ExitCode::SUCCESS;
    }
    let matches = Cli::command().get_matches();
    let done = Cli::from_arg_matches(&matches)
        .map_err(Failure::from)
        .and_then(|cli| match &cli.command {
            Command::Run(args) => run(args),
            _ => execute(&cli, &matches),
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // If stderr is closed, the exit status still reports the error.
            write!(std::io::stderr(), "{failure}").ok();
            ExitCode::from(failure.kind.code())
        }
    }
}
