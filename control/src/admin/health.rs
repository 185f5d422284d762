//! Probes and metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Admin;
use crate::metrics;

/// 200 while all workers come round. Does not depend on backends, discovery or the network: a
/// restart would mend none of them and cost all flows.
pub(super) async fn healthz(State(admin): State<Admin>) -> Response {
    probe(admin.reporter.health())
}

/// 200 while workers are bound and a complete snapshot is live, until shutdown begins.
pub(super) async fn readyz(State(admin): State<Admin>) -> Response {
    probe(admin.reporter.readiness())
}

fn probe(state: Result<(), String>) -> Response {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// The report for Prometheus.
pub(super) async fn metrics(State(admin): State<Admin>) -> Response {
    match metrics::render(Arc::new(admin.reporter.report())) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("encode metrics: {error}\n"),
        )
            .into_response(),
    }
}
