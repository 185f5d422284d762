//! `/api/v1/...`: what the command line shows, as JSON.

use std::cmp::Reverse;

use crate::api::{Backend, Consistency, Envelope, FlowList, Report, Service, Status};
use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use vl3lb_common::Duration;

use super::params::{BackendParams, FlowParams, ServiceParams};
use super::{Admin, flow_events, stream};
use crate::observe::flow_events::MAX_SUBSCRIBERS;
use crate::observe::flows;

/// Flows in one answer unless told otherwise.
const DEFAULT_FLOWS: usize = 100;
/// Longest wait for one slice of a worker's flows. An idle worker comes round once a second.
pub(super) const WORKER_ANSWER: Duration = Duration::from_secs(3);

/// A request that cannot be answered, and why.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) error: String,
    pub(super) hint: Option<String>,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: String,
            hint: Option<String>,
        }
        let body = Body {
            error: self.error,
            hint: self.hint,
        };
        (self.status, Json(body)).into_response()
    }
}

/// A service that is asked for by name and does not exist.
pub(super) fn no_service(what: &str, name: &str, report: &Report) -> Refused {
    let have: Vec<_> = report
        .services
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    Refused {
        status: StatusCode::NOT_FOUND,
        error: format!("{what}: no service {name:?} (have: {})", have.join(", ")),
        hint: Some("`vl3-lb services` lists them; `*` is a wildcard".to_owned()),
    }
}

fn names(report: &Report) -> impl Iterator<Item = &str> + Clone {
    report.services.iter().map(|service| service.name.as_str())
}

pub(super) async fn status(State(admin): State<Admin>) -> Json<Envelope<Status>> {
    let report = admin.reporter.report();
    Json(report.envelope(vec![report.status.clone()]))
}

pub(super) async fn services(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Json<Envelope<Service>>, Refused> {
    let ServiceParams { filter, sort } = ServiceParams::parse(query.as_deref())?;
    let report = admin.reporter.report();
    if let Some(name) = filter.missing(names(&report)) {
        return Err(no_service("services", name, &report));
    }
    let mut services = report.services.clone();
    services.retain(|service| filter.accepts(service));
    let rate = |value: Option<f64>| Reverse(Order(value));
    match sort {
        Some("flows") => services.sort_by_key(|service| Reverse(service.flows)),
        Some("new") => services.sort_by_key(|service| rate(service.new_flows_per_second)),
        Some("pps") => services.sort_by_key(|service| rate(service.inbound.packets_per_second)),
        Some("bps") => services.sort_by_key(|service| rate(service.outbound.bytes_per_second)),
        Some("drops") => services.sort_by_key(|service| rate(service.drops_per_second)),
        Some("name") => services.sort_by(|a, b| a.name.cmp(&b.name)),
        _ => {}
    }
    Ok(Json(report.envelope(services)))
}

pub(super) async fn backends(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Json<Envelope<Backend>>, Refused> {
    let BackendParams { filter, sort } = BackendParams::parse(query.as_deref())?;
    let report = admin.reporter.report();
    if let Some(name) = filter.missing(names(&report)) {
        return Err(no_service("backends", name, &report));
    }
    let mut backends = report.backends.clone();
    backends.retain(|backend| filter.accepts(backend));
    let rate = |value: Option<f64>| Reverse(Order(value));
    match sort {
        Some("flows") => backends.sort_by_key(|backend| Reverse(backend.flows)),
        Some("new") => backends.sort_by_key(|backend| rate(backend.new_flows_per_second)),
        Some("pps") => backends.sort_by_key(|backend| rate(backend.inbound.packets_per_second)),
        Some("bps") => backends.sort_by_key(|backend| rate(backend.outbound.bytes_per_second)),
        Some("failures") => backends.sort_by_key(|backend| rate(backend.failures_per_second)),
        Some("service") => {
            backends.sort_by(|a, b| (&a.service, a.address, a.port).cmp(&(&b.service, b.address, b.port)));
        }
        _ => {}
    }
    Ok(Json(report.envelope(backends)))
}

/// A rate to sort by; unknown is least.
#[derive(Debug, PartialEq)]
struct Order(Option<f64>);

impl Eq for Order {}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |order: &Self| order.0.unwrap_or(f64::NEG_INFINITY);
        key(self).total_cmp(&key(other))
    }
}

pub(super) async fn flows(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let FlowParams {
        filter,
        order,
        limit,
        all,
        follow,
    } = FlowParams::parse(query.as_deref())?;
    let report = admin.reporter.report();
    if let Some(name) = filter.missing(names(&report)) {
        return Err(no_service("flows", name, &report));
    }
    if follow {
        let follower = admin
            .reporter
            .flow_events()
            .subscribe(filter)
            .ok_or_else(crowded)?;
        return Ok(flow_events::stream(follower, limit));
    }
    // Held by the reading thread, which may outlive a reader that goes away.
    let permit = admin.flow_readers.clone().acquire_owned().await.map_err(failed)?;
    let dataplane = admin.reporter.dataplane();
    let names = admin.reporter.service_names();
    let envelope = report.envelope(Vec::new());
    if all {
        return Ok(stream::flows(dataplane, names, filter, envelope, permit).into_response());
    }
    let selection = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let limit = limit.unwrap_or(DEFAULT_FLOWS);
        flows::select(&*dataplane, &names, &filter, order, limit, WORKER_ANSWER)
    })
    .await
    .map_err(failed)?;
    let shown = selection.flows.len() as u64;
    let list = FlowList {
        envelope: Envelope {
            truncated: shown < selection.matched || !selection.warnings.is_empty(),
            items: selection.flows,
            warnings: selection.warnings,
            ..envelope
        },
        consistency: Consistency::PerFlow,
        matched_total: selection.matched,
    };
    Ok(Json(list).into_response())
}

fn crowded() -> Refused {
    Refused {
        status: StatusCode::SERVICE_UNAVAILABLE,
        error: format!("flows: {MAX_SUBSCRIBERS} readers follow already, and no more can"),
        hint: Some("end one of them; `vl3-lb status` says how many there are".to_owned()),
    }
}

fn failed(error: impl std::fmt::Display) -> Refused {
    Refused {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        error: format!("flows: read the tables: {error}"),
        hint: None,
    }
}
