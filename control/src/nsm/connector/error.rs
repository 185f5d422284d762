//! Why there is no connection.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::tls::TlsError;
use crate::nsm::identity::WorkloadApiError;
use crate::nsm::target::Target;

/// No connection to an NSM server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "connect to {target}: there was no SVID within {}; is the SPIFFE Workload API running?",
        humantime::format_duration(*.limit)
    )]
    NoIdentity {
        target: Target,
        limit: Duration,
        #[source]
        source: Option<Arc<WorkloadApiError>>,
    },
    #[error(
        "connect to {target}: the SVID of {id} expired at {}, and the SPIFFE Workload API sent no newer one",
        humantime::format_rfc3339_seconds(*.expired)
    )]
    ExpiredIdentity {
        target: Target,
        id: String,
        expired: SystemTime,
        #[source]
        source: Option<Arc<WorkloadApiError>>,
    },
    #[error("pass the network namespace to {target}: only unix:// carries file descriptors")]
    DescriptorOverTcp { target: Target },
    #[error("connect to {target}")]
    Dial {
        target: Target,
        #[source]
        source: io::Error,
    },
    #[error("TLS with {target}")]
    Tls {
        target: Target,
        #[source]
        source: TlsError,
    },
    #[error("HTTP/2 with {target}")]
    Http {
        target: Target,
        #[source]
        source: hyper::Error,
    },
    #[error("{step} {target} took longer than {}", humantime::format_duration(*.limit))]
    Timeout {
        step: Step,
        target: Target,
        limit: Duration,
    },
}

/// A step of connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Dial,
    Tls,
    Http,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dial => "connecting to",
            Self::Tls => "TLS with",
            Self::Http => "HTTP/2 with",
        })
    }
}
