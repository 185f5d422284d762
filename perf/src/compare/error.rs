//! Errors of `compare`, `churn` and `flood`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::requirement::Unmet;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    #[error("--peer {name}: unknown peer; allowed are {known}")]
    UnknownPeer { name: String, known: String },

    #[error(
        "--changes {changes} with --replace {replaced} need {backends} backend addresses; at most {most} are available"
    )]
    TooManyBackends {
        changes: u16,
        replaced: u16,
        backends: u32,
        most: u16,
    },

    #[error(
        "{option} {length:?}: at least {least:?} are needed to see whether connections succeed within a second"
    )]
    TooShort {
        option: &'static str,
        length: Duration,
        least: Duration,
    },

    #[error("give tester and peer a core each: this process may use cores {available:?}, and two are needed")]
    TooFewCores { available: Vec<usize> },

    #[error("pin the tester to core {core}: the kernel refuses")]
    Pin { core: usize },

    #[error(transparent)]
    Unmet(#[from] Unmet),

    #[error("attach the tester: the interface has no queue")]
    NoPort,

    #[error(
        "open {flows} flows within {limit:?}: the peer passed {passed} of {sent} requests, and {answered} flows \
         were answered"
    )]
    FlowsNotOpened {
        flows: u16,
        limit: Duration,
        sent: u64,
        passed: u64,
        answered: u32,
    },

    #[error("measure the peer: it passed none of {sent} packets")]
    NothingPassed { sent: u64 },

    #[error("measure with {program}: {output}")]
    Client { program: String, output: String },

    #[error("wait for an HTTP response from {address}: {cause}")]
    NoResponse {
        address: std::net::SocketAddrV4,
        #[source]
        cause: io::Error,
    },

    #[error("connect to {address} through the peer within {limit:?}: {cause}")]
    NotAccepted {
        address: std::net::SocketAddr,
        limit: Duration,
        #[source]
        cause: io::Error,
    },

    #[error("query vl3-lb at {socket}: {cause}")]
    Admin {
        socket: PathBuf,
        #[source]
        cause: io::Error,
    },

    #[error("query vl3-lb: {path} returned {status}: {body}")]
    AdminStatus {
        path: &'static str,
        status: u16,
        body: String,
    },

    #[error("query vl3-lb: the status has no generation: {body}")]
    NoGeneration { body: String },

    #[error("change {change}: vl3-lb did not apply it within {limit:?}")]
    NotApplied { change: u16, limit: Duration },

    #[error("measure change {change}: the clock was set back; run churn again")]
    ClockSetBack { change: u16 },
}

impl CompareError {
    /// Whether the arguments are at fault.
    pub(crate) const fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::UnknownPeer { .. } | Self::TooManyBackends { .. } | Self::TooShort { .. }
        )
    }
}
