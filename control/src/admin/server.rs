//! The HTTP servers of the admin address and the admin socket.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::from_fn;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::ServiceExt;
use tracing::debug;

use super::host::loopback_only;
use super::{Listeners, routes};
use crate::connections::{Limits, Requests, Slots, WriteDeadline, accept};
use crate::observe::report::Reporter;

/// A connection has this long for the header of its next request, from its start or its last response.
const HEADER_DEADLINE: Duration = Duration::from_secs(75);
/// A client must read some part of a response within this time.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// Serves on both listeners within the limits of this process. Dropping the future ends every connection
/// and removes the socket's file.
///
/// Errors: a listener that fails for good.
pub async fn serve(listeners: Listeners, reporter: Arc<Reporter>) -> std::io::Result<()> {
    let limits = Limits::of_process();
    let Listeners {
        tcp,
        unix,
        file: _file,
    } = listeners;
    let routes = routes(reporter);
    let guarded = routes.clone().layer(from_fn(loopback_only));
    // Apart, so that clients of the address cannot keep the command line out.
    let over_tcp = Slots::new(limits);
    let over_unix = Slots::new(limits.for_one_source());
    tokio::select! {
        done = accept(&tcp, &over_tcp, |stream, _, slot| {
            let on_loopback = stream.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
            let routes = if on_loopback { &guarded } else { &routes };
            connection(stream, routes.clone(), slot.requests())
        }) => done,
        done = accept(&unix, &over_unix, |stream, (), slot| connection(stream, routes.clone(), slot.requests())) => done,
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
