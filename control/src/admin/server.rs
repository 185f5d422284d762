//! The HTTP servers of the admin addresses and the admin socket.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::from_fn;
use futures_util::future::select_all;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::ServiceExt;
use tracing::debug;

use super::host::loopback_only;
use super::listener::TcpSocket;
use super::{Admin, Listeners, probes, routes, socket_routes};
use crate::config::{ApiFor, Metrics};
use crate::connections::{Limits, Requests, Slots, WriteDeadline, accept};
use crate::observe::report::Reporter;
use crate::profile::Profiler;

/// A connection has this long for the header of its next request, from its start or its last response.
const HEADER_DEADLINE: Duration = Duration::from_secs(75);
/// A client must read some part of a response within this time.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// Serves on all listeners within the limits of this process. Dropping the future ends every connection
/// and removes the socket's file.
///
/// Errors: a listener that fails for good.
pub async fn serve(
    listeners: Listeners,
    reporter: Arc<Reporter>,
    metrics: Metrics,
    profiler: Profiler,
) -> std::io::Result<()> {
    let limits = Limits::of_process();
    let Listeners {
        tcp,
        unix,
        file: _file,
    } = listeners;
    let routes = Routes::new(Admin::new(reporter, metrics, profiler));
    // Each has its own: clients of one listener cannot keep those of another one out.
    let over_tcp = tcp
        .iter()
        .map(|socket| Box::pin(serve_tcp(socket, &routes, limits)));
    let over_unix = Slots::new(limits.for_one_source());
    tokio::select! {
        (done, ..) = select_all(over_tcp) => done,
        done = accept(&unix, &over_unix, |stream, (), slot| {
            connection(stream, routes.socket.clone(), slot.requests())
        }) => done,
    }
}

async fn serve_tcp(socket: &TcpSocket, routes: &Routes, limits: Limits) -> std::io::Result<()> {
    let slots = Slots::new(limits);
    accept(&socket.listener, &slots, |stream, _, slot| {
        let local = stream
            .local_addr()
            .ok()
            .map(|address| address.ip().to_canonical());
        let chosen = routes.of(local, socket.api_for);
        connection(stream, chosen.clone(), slot.requests())
    })
    .await
}

/// What the connections of the listeners get.
struct Routes {
    socket: Router,
    all: Router,
    all_on_loopback: Router,
    probes: Router,
}

impl Routes {
    fn new(admin: Admin) -> Self {
        let all = routes(admin.clone());
        Self {
            socket: socket_routes(admin.clone()),
            all_on_loopback: all.clone().layer(from_fn(loopback_only)),
            all,
            probes: probes(admin),
        }
    }

    /// For a connection to the address `local`, if that is known.
    fn of(&self, local: Option<IpAddr>, api_for: ApiFor) -> &Router {
        match local {
            Some(local) if !api_for.includes(local) => &self.probes,
            Some(local) if local.is_loopback() => &self.all_on_loopback,
            Some(_) => &self.all,
            None => &self.probes,
        }
    }
}

/// Serves the requests of one connection until a side closes it or a deadline passes.
pub(super) async fn connection<S>(stream: S, routes: Router, requests: Requests)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = requests.begin();
        let response = routes.clone().oneshot(request.map(Body::new));
        async move {
            let response = response.await?;
            // The request lasts until its response is handed to the connection.
            let lasting = move |frame| {
                let _busy = &busy;
                frame
            };
            Ok::<_, Infallible>(response.map(|body| Body::new(body.map_frame(lasting))))
        }
    });
    let stream = TokioIo::new(WriteDeadline::new(stream, WRITE_DEADLINE));
    let done = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .serve_connection(stream, service)
        .await;
    if let Err(error) = done {
        debug!("serve an admin connection: {error}");
    }
}
