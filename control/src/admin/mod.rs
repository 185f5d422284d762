//! What the balancer tells about itself: HTTP on an address for probes and Prometheus, and on a
//! Unix socket for the command line. Both answer the same; nothing can be changed here.

mod api;
mod events;
mod flow_events;
mod health;
mod listener;
mod params;
mod stream;

#[cfg(test)]
mod tests;

use std::future::IntoFuture;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::routing::get;
use tokio::sync::Semaphore;

use crate::observe::report::Reporter;
use api::Refused;

pub use listener::{Listeners, SocketFile};

/// Readers of flow tables at a time: each of them asks the workers for work.
const FLOW_READERS: usize = 2;

/// What handlers share.
#[derive(Debug, Clone)]
struct Admin {
    reporter: Arc<Reporter>,
    flow_readers: Arc<Semaphore>,
}

/// All routes. GET and HEAD only: everything else is answered with 405.
fn routes(reporter: Arc<Reporter>) -> Router {
    Router::new()
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/api/v1/status", get(api::status))
        .route("/api/v1/services", get(api::services))
        .route("/api/v1/backends", get(api::backends))
        .route("/api/v1/flows", get(api::flows))
        .route("/api/v1/events", get(events::events))
        .fallback(unknown_path)
        .with_state(Admin {
            reporter,
            flow_readers: Arc::new(Semaphore::new(FLOW_READERS)),
        })
}

async fn unknown_path(uri: Uri) -> Refused {
    Refused {
        status: StatusCode::NOT_FOUND,
        error: format!("nothing at {}", uri.path()),
        hint: Some(
            "/metrics, /healthz, /readyz, /api/v1/status, /api/v1/services, /api/v1/backends, /api/v1/flows, \
             /api/v1/events"
                .to_owned(),
        ),
    }
}

/// Serves on both listeners; ended by dropping, which removes the socket's file.
///
/// Errors: a listener that fails for good.
pub async fn serve(listeners: Listeners, reporter: Arc<Reporter>) -> std::io::Result<()> {
    let routes = routes(reporter);
    let Listeners {
        tcp,
        unix,
        file: _file,
    } = listeners;
    let over_tcp = axum::serve(tcp, routes.clone()).into_future();
    let over_unix = axum::serve(unix, routes).into_future();
    tokio::select! {
        done = over_tcp => done,
        done = over_unix => done,
    }
}
