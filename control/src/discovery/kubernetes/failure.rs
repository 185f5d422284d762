//! Failures of the API server in words that say what was asked, and what can be done.

use std::error::Error;

use kube::core::Status;
use kube::runtime::watcher;

use crate::discovery::ErrorReason;

/// What `error` is about, for a watch of `kind` in `scope`. `None` if it is no fault: the server has
/// forgotten the state that was asked about (410 Gone), and a new list follows.
pub(super) fn told(error: &watcher::Error, kind: &str, scope: &str) -> Option<String> {
    if status(error).is_some_and(|status| status.code == 410) {
        return None;
    }
    let verb = match error {
        watcher::Error::InitialListFailed(_) => "list",
        _ => "watch",
    };
    let asked = format!("{verb} {kind} in {scope}");
    Some(match status(error) {
        Some(status) if status.code == 403 => format!(
            "{asked}: forbidden ({}); allow this service account to list and watch {kind} there",
            status.message
        ),
        Some(status) if status.code == 401 => format!(
            "{asked}: the API server does not accept the credentials ({}); is the token of this service \
             account still valid?",
            status.message
        ),
        Some(status) => format!("{asked}: {} {}", status.code, status.message),
        None => format!("{asked}: {}", chain(error.source().unwrap_or(error))),
    })
}

/// What kind of failure `error` is.
pub(super) fn reason(error: &watcher::Error) -> ErrorReason {
    match status(error).map(|status| status.code) {
        Some(401) => ErrorReason::Expired,
        Some(403) => ErrorReason::Forbidden,
        Some(_) => ErrorReason::Refused,
        None => ErrorReason::Unreachable,
    }
}

/// Whether a watch cannot start where the last one ended, and never will.
pub(crate) fn needs_list(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(_))
        && status(error).is_some_and(|status| status.code == 410)
}

/// What the API server itself answered, if it did.
pub(crate) fn status(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// An error and its causes on one line; some repeat theirs, which is left out.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
