//! Probes and metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Admin;
use super::error::ApiError;
use crate::metrics;

/// Liveness: 200 while every worker loop makes progress. It does not depend on backends, discovery or the
/// network: a restart would mend none of them and cost all flows.
///
/// Builds no report: O(workers).
pub(super) async fn healthz(State(admin): State<Admin>) -> Response {
    probe(admin.reporter.health())
}

/// Readiness: 200 while workers are bound and a complete snapshot is live, until shutdown begins.
///
/// Builds no report: O(workers).
pub(super) async fn readyz(State(admin): State<Admin>) -> Response {
    probe(admin.reporter.readiness())
}

fn probe<E: std::fmt::Display>(state: Result<(), E>) -> Response {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// The report for Prometheus.
pub(super) async fn metrics(State(admin): State<Admin>) -> Result<Response, ApiError> {
    let attempt = "metrics: encode them";
    let report = admin.report().await?;
    let text = admin
        .blocking(attempt, move || {
            metrics::render(Arc::clone(&report), admin.metrics)
        })
        .await?
        .map_err(|error| ApiError::internal(attempt, &error))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
