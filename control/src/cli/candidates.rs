//! Candidates of a completion that only the balancer knows: names of services, backends and nodes.
//!
//! Without a response in time there are no candidates and no error, because the user is typing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap_complete::engine::CompletionCandidate;
use serde::de::DeserializeOwned;

use super::client::{Client, DEFAULT_SOCKET};
use crate::api::{Backend, Envelope, Service};

/// Limit of the wait for the balancer.
const TIMEOUT: Duration = Duration::from_millis(300);

/// Names of services that begin with `typed`.
pub(super) fn services(typed: &OsStr) -> Vec<CompletionCandidate> {
    let services: Vec<Service> = query("/api/v1/services");
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
    let backends: Vec<Backend> = query("/api/v1/backends");
    let named = backends.into_iter().map(|backend| {
        let help = format!("{}, {}", backend.service, backend.state.name());
        (backend.endpoint().to_string(), help)
    });
    candidates(named, typed)
}

/// Names of nodes with backends that begin with `typed`.
pub(super) fn nodes(typed: &OsStr) -> Vec<CompletionCandidate> {
    let backends: Vec<Backend> = query("/api/v1/backends");
    let named = backends
        .into_iter()
        .filter_map(|backend| Some((backend.node?, String::new())));
    candidates(named, typed)
}

/// Each name once, sorted.
fn candidates(named: impl Iterator<Item = (String, String)>, typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let named: BTreeMap<_, _> = named.filter(|(name, _)| name.starts_with(&*typed)).collect();
    let candidate = |(name, help): (String, String)| {
        let help = Some(help).filter(|help| !help.is_empty());
        CompletionCandidate::new(name).help(help.map(Into::into))
    };
    named.into_iter().map(candidate).collect()
}

/// The items of the balancer's answer; none without an answer in time.
fn query<T: DeserializeOwned>(path: &str) -> Vec<T> {
    let client = Client {
        socket: socket(std::env::args_os()),
        timeout: TIMEOUT,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let document = runtime.ok().and_then(|runtime| {
        runtime
            .block_on(async { tokio::time::timeout(TIMEOUT, client.get(path, &[])).await })
            .ok()?
            .ok()
    });
    document
        .and_then(|document| serde_json::from_slice::<Envelope<T>>(&document).ok())
        .map_or_else(Vec::new, |answer| answer.items)
}

/// The admin socket of the unfinished command line, or the default.
fn socket(words: impl Iterator<Item = OsString>) -> PathBuf {
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        let word = word.to_string_lossy();
        if word == "--socket" {
            // bash splits `--socket=PATH` into three words.
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
    fn the_socket_is_read_from_the_command_line() {
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
    fn candidates_have_the_typed_prefix_and_are_unique() {
        let named = ["finance", "dns", "fin", "finance"].map(|name| (name.to_owned(), String::new()));
        let candidates = candidates(named.into_iter(), OsStr::new("fi"));
        let values: Vec<_> = candidates.iter().map(|candidate| candidate.get_value()).collect();
        assert_eq!(values, ["fin", "finance"]);
    }
}
