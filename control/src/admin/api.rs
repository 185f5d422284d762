//! `/api/v1/status`, `/api/v1/services` and `/api/v1/backends`: the report as JSON.

use std::cmp::Reverse;

use axum::extract::{RawQuery, State};
use axum::response::Response;

use super::Admin;
use super::error::ApiError;
use super::params::{BackendParams, ServiceParams};
use crate::api::Report;

fn names(report: &Report) -> impl Iterator<Item = &str> + Clone {
    report.services.iter().map(|service| service.name.as_str())
}

pub(super) async fn status(State(admin): State<Admin>) -> Result<Response, ApiError> {
    let report = admin.report().await?;
    admin
        .json(move || report.envelope(vec![report.status.clone()]))
        .await
}

pub(super) async fn services(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let ServiceParams { filter, sort } = ServiceParams::parse(query.as_deref())?;
    let report = admin.report().await?;
    if let Some(name) = filter.missing(names(&report)) {
        return Err(ApiError::no_service("services", name, &report));
    }
    admin
        .json(move || {
            let mut services = report.services.clone();
            services.retain(|service| filter.accepts(service));
            let rate = |value: Option<f64>| Reverse(RateKey(value));
            match sort {
                Some("flows") => services.sort_by_key(|service| Reverse(service.flows)),
                Some("new") => services.sort_by_key(|service| rate(service.new_flows_per_second)),
                Some("pps") => services.sort_by_key(|service| rate(service.inbound.packets_per_second)),
                Some("bps") => services.sort_by_key(|service| rate(service.outbound.bytes_per_second)),
                Some("drops") => services.sort_by_key(|service| rate(service.drops_per_second)),
                Some("name") => services.sort_by(|a, b| a.name.cmp(&b.name)),
                _ => {}
            }
            report.envelope(services)
        })
        .await
}

pub(super) async fn backends(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let BackendParams { filter, sort } = BackendParams::parse(query.as_deref())?;
    let report = admin.report().await?;
    if let Some(name) = filter.missing(names(&report)) {
        return Err(ApiError::no_service("backends", name, &report));
    }
    admin
        .json(move || {
            let mut backends = report.backends.clone();
            backends.retain(|backend| filter.accepts(backend));
            let rate = |value: Option<f64>| Reverse(RateKey(value));
            match sort {
                Some("flows") => backends.sort_by_key(|backend| Reverse(backend.flows)),
                Some("new") => backends.sort_by_key(|backend| rate(backend.new_flows_per_second)),
                Some("pps") => backends.sort_by_key(|backend| rate(backend.inbound.packets_per_second)),
                Some("bps") => backends.sort_by_key(|backend| rate(backend.outbound.bytes_per_second)),
                Some("failures") => backends.sort_by_key(|backend| rate(backend.failures_per_second)),
                Some("service") => {
                    backends.sort_by(|a, b| {
                        (&a.service, a.address, a.port).cmp(&(&b.service, b.address, b.port))
                    });
                }
                _ => {}
            }
            report.envelope(backends)
        })
        .await
}

/// A rate as a sort key; an unknown rate is the least.
#[derive(Debug, PartialEq)]
struct RateKey(Option<f64>);

impl Eq for RateKey {}

impl PartialOrd for RateKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RateKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |key: &Self| key.0.unwrap_or(f64::NEG_INFINITY);
        key(self).total_cmp(&key(other))
    }
}
