//! Streams of the registry and of managers: how they are opened, and why they end.

use std::future::Future;

use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};
use vl3lb_common::Duration;

use crate::discovery::ErrorReason;
use crate::nsm::connector::{ConnectError, Connector};
use crate::nsm::proto::connection::monitor_connection_client::MonitorConnectionClient;
use crate::nsm::proto::registry::network_service_endpoint_registry_client::NetworkServiceEndpointRegistryClient;
use crate::nsm::{Channel, Target, status_text};

/// The pause before the first new attempt.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between attempts. A manager that is back is found soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Opens connections to managers.
pub(super) trait Dial: Clone + Send + Sync + 'static {
    /// Opens a connection within a limit of its own. It closes when all clients and streams are dropped.
    fn dial(&self, target: &Target) -> impl Future<Output = Result<ManagerClients, ConnectError>> + Send;
}

/// The clients of one connection.
pub(super) struct ManagerClients {
    pub(super) registry: NetworkServiceEndpointRegistryClient<Channel>,
    pub(super) monitor: MonitorConnectionClient<Channel>,
}

impl Dial for Connector {
    async fn dial(&self, target: &Target) -> Result<ManagerClients, ConnectError> {
        let session = self.connect(target).await?;
        Ok(ManagerClients {
            registry: session.registry(),
            monitor: session.monitor(),
        })
    }
}

/// Why a stream cannot be opened or has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{call}: {:?}: {}", .status.code(), status_text(.status))]
    Status {
        /// The method.
        call: &'static str,
        status: Box<Status>,
    },
    #[error("{call}: no answer within {}", humantime::format_duration(*.limit))]
    Timeout { call: &'static str, limit: Duration },
    #[error("{call}: the server ended the stream")]
    Ended { call: &'static str },
}

impl StreamError {
    /// The reason, for counters.
    pub(super) fn reason(&self) -> ErrorReason {
        match self {
            Self::Connect(ConnectError::NoIdentity { .. } | ConnectError::ExpiredIdentity { .. }) => {
                ErrorReason::Expired
            }
            Self::Connect(_) | Self::Timeout { .. } | Self::Ended { .. } => ErrorReason::Unreachable,
            Self::Status { status, .. } => match status.code() {
                Code::PermissionDenied => ErrorReason::Forbidden,
                Code::Unauthenticated => ErrorReason::Expired,
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => ErrorReason::Unreachable,
                Code::OutOfRange => ErrorReason::Invalid,
                _ => ErrorReason::Refused,
            },
        }
    }
}

/// Awaits `answer` to `call` for `limit` at most.
pub(super) async fn within<T>(
    call: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, StreamError> {
    match timeout_at(Instant::now() + limit, answer).await {
        Ok(answer) => answer.map_err(|status| failed(call, status)),
        Err(_) => Err(StreamError::Timeout { call, limit }),
    }
}

/// The error of a failed `call`.
pub(super) fn failed(call: &'static str, status: Status) -> StreamError {
    StreamError::Status {
        call,
        status: Box::new(status),
    }
}

/// Growing pauses between attempts.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) const fn new() -> Self {
        Self(SHORTEST_PAUSE)
    }

    /// An attempt succeeded.
    pub(super) const fn reset(&mut self) {
        self.0 = SHORTEST_PAUSE;
    }

    /// Waits before the next attempt.
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}
