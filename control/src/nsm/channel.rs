//! One HTTP/2 connection for gRPC calls.
//!
//! It is not `tonic::transport::Channel`, which opens a new connection by itself when the old one is lost: the
//! credentials of a call belong to one connection.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::header::{HeaderValue, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::connector::Credentials;
use super::proto::connection::monitor_connection_client::MonitorConnectionClient;
use super::proto::networkservice::network_service_client::NetworkServiceClient;
use super::proto::registry::network_service_endpoint_registry_client::NetworkServiceEndpointRegistryClient;
use super::target::Target;
use crate::error_chain::chain;

/// Messages of NSM carry the path and its tokens, up to 2 KB for each client of a network.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Errors of NSM are in trailers and quote the errors of all hops.
const MAX_HEADER_BYTES: u32 = 1 << 20;

/// An open connection to one server. Cheap to clone; it closes when the last clone and the last call end.
#[derive(Clone)]
pub struct Channel {
    requests: SendRequest<Body>,
    target: Arc<Target>,
    /// `None`: calls without a token.
    credentials: Option<Arc<Credentials>>,
}

impl Channel {
    /// Speaks HTTP/2 on a connected stream. Call it in a tokio runtime: a task serves the connection.
    pub(crate) async fn open<S>(
        stream: S,
        target: Arc<Target>,
        credentials: Option<Arc<Credentials>>,
    ) -> Result<Self, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(MAX_HEADER_BYTES)
            .handshake(TokioIo::new(stream))
            .await?;
        let served = target.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(server = %served, error = chain(&error), "connection lost");
            }
        });
        Ok(Self {
            requests,
            target,
            credentials,
        })
    }

    /// The client for `Request` and `Close`.
    pub(crate) fn network_service(&self) -> NetworkServiceClient<Self> {
        NetworkServiceClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The client for `MonitorConnections`.
    pub(crate) fn monitor(&self) -> MonitorConnectionClient<Self> {
        MonitorConnectionClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The client for `Find` of network service endpoints.
    pub(crate) fn registry(&self) -> NetworkServiceEndpointRegistryClient<Self> {
        NetworkServiceEndpointRegistryClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The origin of the requests, for `with_origin` of the generated clients.
    pub(super) fn origin(&self) -> Uri {
        let scheme = if self.credentials.is_some() {
            "https"
        } else {
            "http"
        };
        Uri::builder()
            .scheme(scheme)
            .authority(self.target.authority())
            .path_and_query("/")
            .build()
            .expect("an authority from a URL")
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    /// A lost connection is an error of the call: tonic gives errors of this function no code.
    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.headers_mut().insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("vl3-lb/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(credentials) = &self.credentials
            && let Err(error) = credentials.apply(request.headers_mut())
        {
            let status = Status::unauthenticated(chain(&error));
            return Box::pin(std::future::ready(Err(status)));
        }
        let target = self.target.clone();
        let response = self.requests.send_request(request);
        Box::pin(async move {
            let response = response.await.map_err(|error| lost(&target, error))?;
            Ok(response.map(|body| {
                Body::new(http_body_util::BodyExt::map_err(body, move |error| {
                    lost(&target, error)
                }))
            }))
        })
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// The status of a call whose connection failed. A server that rejects the certificate does so here: in TLS 1.3 the
/// handshake of the client is over before the server has seen its certificate.
fn lost(target: &Target, error: hyper::Error) -> Status {
    let mut status = Status::unavailable(format!("connection to {target} lost: {}", chain(&error)));
    status.set_source(Arc::new(error));
    status
}
