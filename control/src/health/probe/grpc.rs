//! The health protocol of gRPC servers: `Check` of `grpc.health.v1.Health` (grpc/doc/health-checking.md).

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt, TryFutureExt};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::http::uri::PathAndQuery;
use hyper::rt::Executor;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use super::{Answer, tcp, tls};
use crate::config::GrpcCheck;
use crate::error_chain::chain;
use crate::nsm::status_text;

/// The name of HTTP/2 in TLS (RFC 9113 section 3.3), which gRPC servers insist on.
const ALPN: &[u8] = b"h2";
const METHOD: PathAndQuery = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
/// Longer answers are failures; a valid one has two bytes.
const LONGEST_MESSAGE: usize = 4 << 10;
const LONGEST_HEAD: u32 = 16 << 10;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub(super) status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

pub(super) async fn check(check: &GrpcCheck, address: SocketAddr) -> Result<(), Answer> {
    let stream = tcp::connect(address).await?;
    match &check.tls {
        None => call(check, address, stream).await,
        Some(settings) => {
            let names = (None, address.ip());
            let stream = tls::connect(stream, settings, names, ALPN).await?;
            call(check, address, stream).await
        }
    }
}

async fn call<S>(check: &GrpcCheck, address: SocketAddr, stream: S) -> Result<(), Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // The tasks of the connection end with the check, whatever the backend does.
    let tasks = CheckTasks::default();
    let _ended = AbortOnDrop(tasks.clone());
    let (requests, connection) = http2::Builder::new(tasks)
        .max_header_list_size(LONGEST_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Answer::unexpected(chain(&error)))?;
    let scheme = if check.tls.is_some() { "https" } else { "http" };
    let origin = Uri::builder()
        .scheme(scheme)
        .authority(address.to_string())
        .path_and_query("/")
        .build()
        .expect("an address is an authority");
    let mut client = tonic::client::Grpc::with_origin(Requests(requests), origin)
        .max_decoding_message_size(LONGEST_MESSAGE);
    let request = tonic::Request::new(HealthCheckRequest {
        service: check.service.clone(),
    });
    let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
    let driven = async {
        drop(connection.await);
        pending().await
    };
    let response = tokio::select! {
        response = client.unary(request, METHOD, codec) => response,
        () = driven => return Err(Answer::unexpected("it closed the connection")),
    };
    let status = response.map_err(|status| failed(&status))?.into_inner().status();
    match status {
        ServingStatus::Serving => Ok(()),
        ServingStatus::NotServing => Err(Answer::unexpected("NOT_SERVING")),
        ServingStatus::ServiceUnknown => Err(Answer::unexpected("SERVICE_UNKNOWN")),
        ServingStatus::Unknown => Err(Answer::unexpected("status UNKNOWN")),
    }
}

/// The server refuses the call; NOT_FOUND: it does not know the service.
fn failed(status: &Status) -> Answer {
    let code = status.code();
    let text = status_text(status);
    match code {
        Code::NotFound => Answer::unexpected("the server does not know the service"),
        Code::Unimplemented => Answer::unexpected("the server has no grpc.health.v1"),
        _ if text.is_empty() => Answer::unexpected(format_args!("{code:?}")),
        _ => Answer::unexpected(format_args!("{code:?}: {text}")),
    }
}

/// The requests of one connection.
struct Requests(SendRequest<Body>);

impl Service<Request<Body>> for Requests {
    type Response = Response<hyper::body::Incoming>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    /// A lost connection is an error of the call: tonic gives errors of this function no code.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let response = self.0.send_request(request);
        response
            .map_err(|error| Status::unavailable(chain(&error)))
            .boxed()
    }
}

/// Runs the tasks of a connection.
#[derive(Debug, Clone, Default)]
struct CheckTasks(Arc<Mutex<JoinSet<()>>>);

/// Ends them.
struct AbortOnDrop(CheckTasks);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        let CheckTasks(tasks) = &self.0;
        tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

impl<F> Executor<F> for CheckTasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(task.map(drop));
    }
}
