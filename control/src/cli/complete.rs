//! Completion of commands, flags and names: the shell asks this program at each Tab, and it asks the
//! balancer for the names of services, backends and nodes.
//!
//! Where no balancer answers soon there are no names, and no word about it: the person is typing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use crate::api::{Backend, Envelope, Service};
use clap::CommandFactory;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{Bash, CompleteEnv, EnvCompleter, Fish, Zsh};
use serde::de::DeserializeOwned;

use super::args::{Cli, DEFAULT_SOCKET, Shell};
use super::client::Client;
use super::exit::Failure;

/// Set by the shells' scripts: which shell asks.
const VARIABLE: &str = "VL3LB_COMPLETE";
/// Longest wait for the balancer.
const PATIENCE: Duration = Duration::from_millis(300);

/// Answers a shell that asks what could come next. Whether one did; then nothing else is to be done.
///
/// Call before any thread is started: it changes the environment.
pub fn complete() -> bool {
    let here = std::env::current_dir().ok();
    CompleteEnv::with_factory(Cli::command)
        .var(VARIABLE)
        .try_complete(std::env::args_os(), here.as_deref())
        // A shell that is not known, or that has gone: it does not want to hear of it.
        .unwrap_or(true)
}

/// The script by which `shell` asks this program, as it was called.
pub(super) fn script(shell: Shell) -> Result<Vec<u8>, Failure> {
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let called = std::env::args_os().next().unwrap_or_else(|| "vl3-lb".into());
    let mut program = PathBuf::from(called);
    // A name is looked for in PATH each time, a path holds wherever the shell goes.
    if program.components().count() > 1 {
        program = std::path::absolute(&program)?;
    }
    let mut script = Vec::new();
    let name = "vl3-lb";
    completer.write_registration(VARIABLE, name, name, &program.to_string_lossy(), &mut script)?;
    Ok(script)
}

/// Names of services that begin with `typed`.
pub(super) fn services(typed: &OsStr) -> Vec<CompletionCandidate> {
    let services: Vec<Service> = ask("/api/v1/services");
    let named = services.into_iter().map(|service| {
        let help = format!(
            "{} {}, {}",
            service.protocol.name(),
            service.port,
            service.state.name()
        );
        (service.name, help)
    });
    candidates(named, typed)
}

/// Addresses and ports of backends that begin with `typed`.
pub(super) fn backends(typed: &OsStr) -> Vec<CompletionCandidate> {
    let backends: Vec<Backend> = ask("/api/v1/backends");
    let named = backends.into_iter().map(|backend| {
        let help = format!("{}, {}", backend.service, backend.state.name());
        (backend.endpoint().to_string(), help)
    });
    candidates(named, typed)
}

/// Names of nodes with backends that begin with `typed`.
pub(super) fn nodes(typed: &OsStr) -> Vec<CompletionCandidate> {
    let backends: Vec<Backend> = ask("/api/v1/backends");
    let named = backends
        .into_iter()
        .filter_map(|backend| Some((backend.node?, String::new())));
    candidates(named, typed)
}

/// Each name once, in order.
fn candidates(named: impl Iterator<Item = (String, String)>, typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let named: BTreeMap<_, _> = named.filter(|(name, _)| name.starts_with(&*typed)).collect();
    let candidate = |(name, help): (String, String)| {
        let help = Some(help).filter(|help| !help.is_empty());
        CompletionCandidate::new(name).help(help.map(Into::into))
    };
    named.into_iter().map(candidate).collect()
}

/// The items of the balancer's answer; none if there is no answer in time.
fn ask<T: DeserializeOwned>(path: &str) -> Vec<T> {
    let client = Client {
        socket: socket(std::env::args_os()),
        timeout: PATIENCE,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let document = runtime.ok().and_then(|runtime| {
        runtime
            .block_on(async { tokio::time::timeout(PATIENCE, client.get(path, &[])).await })
            .ok()?
            .ok()
    });
    document
        .and_then(|document| serde_json::from_slice::<Envelope<T>>(&document).ok())
        .map_or_else(Vec::new, |answer| answer.items)
}

/// The admin socket that the unfinished command line names, else the default.
fn socket(words: impl Iterator<Item = OsString>) -> PathBuf {
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        let word = word.to_string_lossy();
        if word == "--socket" {
            // bash cuts `--socket=PATH` into three words.
            words.next_if(|next| next == "=");
            if let Some(path) = words.next() {
                return path.into();
            }
        } else if let Some(path) = word.strip_prefix("--socket=") {
            return path.into();
        }
    }
    DEFAULT_SOCKET.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_the_one_of_the_command_line() {
        for (line, want) in [
            ("vl3-lb services", DEFAULT_SOCKET),
            ("vl3-lb --socket /tmp/a services", "/tmp/a"),
            ("vl3-lb services --socket=/tmp/a fin", "/tmp/a"),
            ("vl3-lb services --socket = /tmp/a fin", "/tmp/a"),
            ("vl3-lb services --socket", DEFAULT_SOCKET),
        ] {
            let words = line.split(' ').map(OsString::from);
            assert_eq!(socket(words), PathBuf::from(want), "{line}");
        }
    }

    #[test]
    fn candidates_begin_with_what_is_typed_and_come_once() {
        let named = ["finance", "dns", "fin", "finance"].map(|name| (name.to_owned(), String::new()));
        let candidates = candidates(named.into_iter(), OsStr::new("fi"));
        let values: Vec<_> = candidates.iter().map(|candidate| candidate.get_value()).collect();
        assert_eq!(values, ["fin", "finance"]);
    }
}
