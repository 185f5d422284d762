//! `vl3-lb top`: services, backends, drops and events on one screen, once a second.
//!
//! Everything comes from the admin API, as for the other commands. `screen` and `batch` are pure functions of a sample, and
//! `state` of the keys; `session` alone has the terminal.

mod batch;
mod detail;
mod head;
mod rows;
mod sample;
mod screen;
mod session;
mod state;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;

pub(super) use state::{Order, Pane};

use super::args::{Global, Output, TopArgs};
use super::client::Client;
use super::exit::{Failure, FailureKind};
use super::view::View;
use state::State;

/// Checks the flags that exclude each other.
pub(super) fn validate(args: &TopArgs, global: &Global) -> Result<(), Failure> {
    let refused = |error: &str, hint: &str| Err(Failure::new(FailureKind::Refused, error).hint(hint));
    if matches!(global.format(), Output::Json | Output::Jsonl) {
        return refused(
            "top: shows no JSON",
            "`vl3-lb services -o json --watch` and the other lists print it repeatedly",
        );
    }
    if !args.batch && !std::io::stdout().is_terminal() {
        return refused(
            "top: standard output is no terminal",
            "`vl3-lb top -b -n 3` prints three blocks of text",
        );
    }
    if !args.batch && std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") {
        return refused(
            "top: the terminal cannot move its cursor (TERM is dumb or not set)",
            "`vl3-lb top -b` prints blocks of text",
        );
    }
    Ok(())
}

/// Shows the balancer until it is ended.
pub(super) async fn run(client: &Client, args: &TopArgs, view: View) -> Result<(), Failure> {
    let mut state = State::new(args.pane, args.sort, args.filter.clone());
    state.reverse = args.reverse;
    state.workers = args.workers;
    if args.batch {
        return batch::run(client, &state, args.iterations, args.delay, view).await;
    }
    let view = View {
        format: Output::Table,
        ..view
    };
    session::run(client, state, args.delay, view).await
}
