//! `/api/v1/flows`: the first flows of an order, all flows as a stream, or flows as they open and close.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use vl3lb_common::Duration;

use super::error::ApiError;
use super::params::FlowParams;
use super::{Admin, flow_events, stream};
use crate::api::{Consistency, Envelope, FlowList};
use crate::observe::flow_events::MAX_SUBSCRIBERS;
use crate::observe::flows::{self, FlowOrder, Scan};

/// Flows of a list by default.
const DEFAULT_LIMIT: usize = 100;
/// Limit of the wait for one slice of a worker's flows. An idle worker answers within a second.
const WORKER_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) async fn flows(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let FlowParams {
        filter,
        order,
        limit,
        all,
        follow,
    } = FlowParams::parse(query.as_deref())?;
    let report = admin.report().await?;
    let services = report.services.iter().map(|service| service.name.as_str());
    if let Some(name) = filter.missing(services) {
        return Err(ApiError::no_service("flows", name, &report));
    }
    if follow {
        let subscription = admin.reporter.flow_events().subscribe(filter);
        let subscription = subscription.ok_or_else(too_many_followers)?;
        return Ok(flow_events::stream(subscription, limit));
    }
    let scan = Scan::new(
        admin.reporter.dataplane(),
        admin.reporter.service_names(),
        filter,
        WORKER_TIMEOUT,
    );
    let envelope = report.envelope(Vec::new());
    if all {
        return stream::flows(admin, scan, &envelope);
    }
    list(&admin, scan, envelope, order, limit.unwrap_or(DEFAULT_LIMIT)).await
}

async fn list(
    admin: &Admin,
    scan: Scan,
    envelope: Envelope<crate::api::Flow>,
    order: FlowOrder,
    limit: usize,
) -> Result<Response, ApiError> {
    let select = move || flows::select(scan, order, limit);
    let selection = admin.blocking("flows: read the tables", select).await?;
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

fn too_many_followers() -> ApiError {
    ApiError::unavailable(
        format!("flows: {MAX_SUBSCRIBERS} readers follow already, which is the limit"),
        "end one of them; `vl3-lb status` shows their number",
    )
}
