//! Calls to the manager. Each has a connection of its own, because its token is bound to the connection's certificates,
//! and passes the network namespace, which a restarted manager does not have.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};
use tracing::Instrument;
use vl3lb_common::Duration;

use crate::log::CONTROL_ACTION;
use crate::nsm::connector::{ConnectError, Connector, NetworkNamespace, Session};
use crate::nsm::proto::connection::{Connection, ConnectionEvent};
use crate::nsm::proto::networkservice::NetworkServiceRequest;
use crate::nsm::{Target, status_text};

use super::message::Terms;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the manager answers {:?}: {}", .0.code(), status_text(.0))]
    Refused(Box<Status>),
    #[error("no reply of the manager within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    #[error("the manager ended the stream of connections")]
    Ended,
}

impl CallError {
    /// A short name of the failure, which is the same for repeated failures.
    pub(super) fn class(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Refused(status) => status.code().description(),
            Self::Timeout(_) => "timeout",
            Self::Ended => "ended",
        }
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// Calls the manager. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    connector: Connector,
    manager: Target,
    namespace: NetworkNamespace,
}

impl Caller {
    pub(super) const fn new(connector: Connector, manager: Target, namespace: NetworkNamespace) -> Self {
        Self {
            connector,
            manager,
            namespace,
        }
    }

    pub(super) async fn request(
        self,
        request: NetworkServiceRequest,
        limit: Duration,
    ) -> Result<Connection, CallError> {
        let span = tracing::info_span!(target: CONTROL_ACTION, "request the connection");
        within(limit, async |end| {
            let session = self.session().await?;
            let mut request = tonic::Request::new(request);
            request.set_timeout(end.saturating_duration_since(Instant::now()));
            let reply = session.network_service().request(request).await?;
            Ok(reply.into_inner())
        })
        .instrument(span)
        .await
    }

    pub(super) async fn close(self, connection: Connection, limit: Duration) -> Result<(), CallError> {
        let span = tracing::info_span!(target: CONTROL_ACTION, "close the connection");
        within(limit, async |end| {
            let session = self.session().await?;
            let mut request = tonic::Request::new(connection);
            request.set_timeout(end.saturating_duration_since(Instant::now()));
            session.network_service().close(request).await?;
            Ok(())
        })
        .instrument(span)
        .await
    }

    /// The connection of an earlier process, if the manager reports one.
    pub(super) async fn restore(
        self,
        terms: Arc<Terms>,
        limit: Duration,
    ) -> Result<Option<Connection>, CallError> {
        let first = within(limit, async |_| Ok(self.monitor(&terms).await?.1)).await;
        match first {
            Ok(event) => Ok(terms.restorable(&event, SystemTime::now())),
            // A hardened manager lets a client see its own connections, and no others.
            Err(CallError::Refused(status))
                if matches!(status.code(), Code::PermissionDenied | Code::Unimplemented) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a stream of events about this client's connection; with its first event.
    pub(super) async fn monitor(&self, terms: &Terms) -> Result<(EventStream, ConnectionEvent), CallError> {
        let session = self.connector.connect(&self.manager).await?;
        let mut stream = session
            .monitor()
            .monitor_connections(terms.selector())
            .await?
            .into_inner();
        let first = stream.message().await?.ok_or(CallError::Ended)?;
        Ok((stream, first))
    }

    async fn session(&self) -> Result<Session, CallError> {
        let session = self.connector.connect_with_netns(&self.manager, &self.namespace);
        Ok(session.await?)
    }
}

/// Events of the manager.
pub(super) type EventStream = tonic::Streaming<ConnectionEvent>;

/// Limits a call, whose deadline it gets.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl AsyncFnOnce(Instant) -> Result<T, CallError>,
) -> Result<T, CallError> {
    let end = Instant::now() + limit;
    match timeout_at(end, call(end)).await {
        Ok(done) => done,
        Err(_) => Err(CallError::Timeout(limit)),
    }
}
