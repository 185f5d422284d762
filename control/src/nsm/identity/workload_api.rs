//! The client of the SPIFFE Workload API.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::{State, X509Context, X509ContextError};
use crate::error_chain::chain;
use crate::nsm::channel::Channel;
use crate::nsm::proto::workload::X509svidRequest;
use crate::nsm::proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use crate::nsm::status_text;
use crate::nsm::target::Target;

/// The first and the longest pause between two attempts. An agent that restarts is back within a second.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Keeps an [`Identity`](super::Identity) current.
#[derive(Debug)]
pub struct WorkloadApi {
    target: Target,
    state: watch::Sender<State>,
}

/// The Workload API gives no identity.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadApiError {
    #[error("connect to the SPIFFE Workload API at {target}, the value of SPIFFE_ENDPOINT_SOCKET")]
    Connect {
        target: Target,
        #[source]
        source: io::Error,
    },
    #[error("speak HTTP/2 with the SPIFFE Workload API at {target}")]
    Http {
        target: Target,
        #[source]
        source: hyper::Error,
    },
    #[error(
        "the SPIFFE Workload API at {target} has no identity for this process: {message}; register it, in an NSM \
         cluster by the pod label spiffe.io/spiffe-id: \"true\""
    )]
    NotRegistered { target: Target, message: String },
    #[error("fetch the SVID from the SPIFFE Workload API at {target}: {:?}: {}", .status.code(), status_text(.status))]
    Call { target: Target, status: Box<Status> },
    #[error("the SPIFFE Workload API at {target} ended its stream")]
    Ended { target: Target },
    #[error("use the identity from the SPIFFE Workload API at {target}")]
    Message {
        target: Target,
        #[source]
        source: X509ContextError,
    },
}

impl WorkloadApi {
    pub(super) fn new(target: Target, state: watch::Sender<State>) -> Self {
        Self { target, state }
    }

    /// Fetches SVID and bundles and follows their rotation, for ever. What is known stays known while the Workload
    /// API is away, and after a message that cannot be used.
    pub async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let (received, error) = self.follow().await;
            if received {
                pause = FIRST_PAUSE;
            }
            self.report(error);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One stream, until it fails. Returns whether it gave an identity, and why it ended.
    async fn follow(&self) -> (bool, WorkloadApiError) {
        let mut received = false;
        let error = match self.receive(&mut received).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        (received, error)
    }

    async fn receive(&self, received: &mut bool) -> Result<std::convert::Infallible, WorkloadApiError> {
        let target = || self.target.clone();
        let failed = |status: Status| match status.code() {
            Code::PermissionDenied => WorkloadApiError::NotRegistered {
                target: target(),
                message: status_text(&status),
            },
            _ => WorkloadApiError::Call {
                target: target(),
                status: Box::new(status),
            },
        };
        let channel = self.connect().await?;
        let origin = channel.origin();
        let mut client = SpiffeWorkloadApiClient::with_origin(channel, origin);
        let mut request = tonic::Request::new(X509svidRequest {});
        // Agents reject requests without it: a browser cannot send it.
        request
            .metadata_mut()
            .insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let mut messages = client.fetch_x509svid(request).await.map_err(failed)?.into_inner();
        loop {
            let message = messages.message().await.map_err(failed)?;
            let message = message.ok_or_else(|| WorkloadApiError::Ended { target: target() })?;
            match X509Context::parse(&message) {
                Ok(context) => {
                    *received = true;
                    self.publish(context);
                }
                Err(source) => self.report(WorkloadApiError::Message {
                    target: target(),
                    source,
                }),
            }
        }
    }

    async fn connect(&self) -> Result<Channel, WorkloadApiError> {
        let connect = |source| WorkloadApiError::Connect {
            target: self.target.clone(),
            source,
        };
        let target = Arc::new(self.target.clone());
        let channel = match &self.target {
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(connect)?;
                Channel::open(stream, target, None).await
            }
            Target::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(connect)?;
                Channel::open(stream, target, None).await
            }
        };
        channel.map_err(|source| WorkloadApiError::Http {
            target: self.target.clone(),
            source,
        })
    }

    fn publish(&self, context: X509Context) {
        let leaf = context.svid.leaf();
        tracing::info!(
            spiffe_id = %leaf.id,
            expires = %humantime::format_rfc3339_seconds(leaf.not_after),
            authorities = context.bundles.authorities(),
            "new SVID"
        );
        self.state.send_replace(State {
            context: Some(Arc::new(context)),
            error: None,
        });
    }

    /// Keeps the reason for the status, and logs it if it is a new one.
    fn report(&self, error: WorkloadApiError) {
        let text = chain(&error);
        self.state.send_if_modified(|state| {
            if state.error.as_ref().is_some_and(|known| chain(&**known) == text) {
                return false;
            }
            tracing::warn!(error = text, "no new identity");
            state.error = Some(Arc::new(error));
            true
        });
    }
}
