//! Errors of the Kubernetes API: what was attempted, where, why it failed and what to do.

use std::error::Error;
use std::fmt;

use kube::core::Status;
use kube::runtime::watcher;

use crate::error_chain::chain;

/// The client of the API server cannot be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("find the Kubernetes API server: {}", chain(source))]
    Config {
        source: Box<kube::config::InferConfigError>,
    },

    #[error("prepare for {url}: {}", chain(source))]
    Client { url: String, source: Box<kube::Error> },
}

/// A list or watch failed.
#[derive(Debug)]
pub(crate) struct WatchError {
    /// The plural name of the resource.
    pub(crate) kind: String,
    /// The namespace, or that it is all of the cluster, in words.
    pub(crate) scope: String,
    pub(crate) source: watcher::Error,
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, scope, source } = self;
        let verb = match source {
            watcher::Error::InitialListFailed(_) => "list",
            _ => "watch",
        };
        write!(f, "{verb} {kind} in {scope}: ")?;
        match status(source) {
            Some(status) if status.code == 403 => write!(
                f,
                "forbidden ({}); allow this service account to list and watch {kind} there",
                status.message
            ),
            Some(status) if status.code == 401 => write!(
                f,
                "the API server does not accept the credentials ({}); is the token of this service account \
                 still valid?",
                status.message
            ),
            Some(status) => write!(f, "{} {}", status.code, status.message),
            None => write!(f, "{}", chain(source.source().unwrap_or(source))),
        }
    }
}

impl Error for WatchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Whether the server has discarded the requested resource version (410 Gone). A new list follows, so this is
/// not a fault.
pub(crate) fn is_expired(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| status.code == 410)
}

/// The API server's own answer, if it gave one.
pub(crate) fn status(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}
