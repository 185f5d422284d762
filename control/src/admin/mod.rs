//! The admin API: HTTP on an address for probes and Prometheus, on another one for operators, and on a Unix socket for the
//! command line, which alone has captures. All routes are read-only.

mod api;
mod capture;
mod error;
mod events;
mod flow_events;
mod flows;
mod health;
mod host;
mod listener;
mod lookup;
mod page;
mod params;
mod profile;
mod reports;
mod server;
mod stream;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod overload_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::api::Report;
use crate::config::Metrics;
use crate::observe::report::Reporter;
use crate::profile::Profiler;
use error::ApiError;
use page::LastState;
use reports::Reports;

pub use listener::{ListenError, Listeners, SocketFile};
pub use server::serve;

/// Blocking work at a time: slices of flow tables, which also cost the workers time, and the encoding of
/// answers. The publisher shares the runtime's blocking threads.
const BLOCKING: usize = 2;
/// Streams of all flows at a time.
const MAX_STREAMS: usize = 16;
/// The content type of streams: one JSON object a line.
const NDJSON: &str = "application/jsonl";

/// State that handlers share.
#[derive(Debug, Clone)]
struct Admin {
    reporter: Arc<Reporter>,
    reports: Reports,
    blocking: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    last_state: LastState,
    metrics: Metrics,
    profiler: Arc<Profiler>,
}

impl Admin {
    fn new(reporter: Arc<Reporter>, metrics: Metrics, profiler: Profiler) -> Self {
        Self {
            reports: Reports::new(Arc::clone(&reporter)),
            reporter,
            blocking: Arc::new(Semaphore::new(BLOCKING)),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            last_state: LastState::default(),
            metrics,
            profiler: Arc::new(profiler),
        }
    }

    /// A report that was begun after this call. Errors: 500.
    async fn report(&self) -> Result<Arc<Report>, ApiError> {
        let report = self.reports.get().await;
        report.map_err(|error| ApiError::internal("build the report", &error))
    }

    /// Runs `work` off the runtime's threads, as soon as it has a permit. Errors: 500, `attempt` failed.
    async fn blocking<T: Send + 'static>(
        &self,
        attempt: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let failed = |error: &dyn std::error::Error| ApiError::internal(attempt, error);
        let permit = Arc::clone(&self.blocking).acquire_owned().await;
        let permit = permit.map_err(|error| failed(&error))?;
        // The work keeps the permit, because it continues when the client abandons the request.
        let done = spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|error| failed(&error))
    }

    /// An answer as JSON, made and encoded off the runtime's threads.
    async fn json<T: Serialize>(
        &self,
        answer: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Response, ApiError> {
        let encode = move || serde_json::to_vec(&answer());
        let attempt = "encode the answer";
        let json = self.blocking(attempt, encode).await?;
        let json = json.map_err(|error| ApiError::internal(attempt, &error))?;
        Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
    }
}

/// The routes of the socket, which its file's permissions protect.
fn socket_routes(admin: Admin) -> Router {
    let protected = Router::new().route("/api/v1/capture", get(capture::capture));
    routes(admin.clone()).merge(protected.with_state(admin))
}

/// All routes. GET and HEAD only; other methods get 405.
fn routes(admin: Admin) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/state", get(page::state))
        .route("/api/v1/status", get(api::status))
        .route("/api/v1/services", get(api::services))
        .route("/api/v1/backends", get(api::backends))
        .route("/api/v1/flows", get(flows::flows))
        .route("/api/v1/lookup", get(lookup::lookup))
        .route("/api/v1/events", get(events::events))
        .route("/debug/pprof/profile", get(profile::profile))
        .with_state(admin.clone())
        .merge(public(admin))
        .fallback(unknown_path)
}

/// Probes and metrics alone.
fn probes(admin: Admin) -> Router {
    public(admin).fallback(not_public)
}

fn public(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .with_state(admin)
}

async fn not_public(uri: Uri) -> ApiError {
    ApiError {
        status: StatusCode::NOT_FOUND,
        error: format!("nothing at {} of this address (admin.listen)", uri.path()),
        hint: Some(
            "/metrics, /healthz, /readyz; the status page and the API are at admin.api, by default on loopback: \
             kubectl port-forward"
                .to_owned(),
        ),
    }
}

async fn unknown_path(uri: Uri) -> ApiError {
    ApiError {
        status: StatusCode::NOT_FOUND,
        error: format!("nothing at {}", uri.path()),
        hint: Some(
            "/, /metrics, /healthz, /readyz, /api/v1/status, /api/v1/services, /api/v1/backends, /api/v1/flows, \
             /api/v1/events, /api/v1/lookup, /debug/pprof/profile"
                .to_owned(),
        ),
    }
}
