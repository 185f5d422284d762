//! `/api/v1/lookup`: which backend a new flow of a client would get, and why.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::response::Response;

use super::Admin;
use super::error::ApiError;
use super::params::LookupParams;
use crate::observe::lookup::{self, Facts};

/// Limit of the wait for the workers. An idle one answers within a second.
const WORKER_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) async fn lookup(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let LookupParams {
        service: name,
        client,
    } = LookupParams::parse(query.as_deref())?;
    let report = admin.report().await?;
    let no_service = || ApiError::no_service("lookup", &name, &report);
    let shown = report.services.iter().find(|service| service.name == name);
    let shown = shown.ok_or_else(no_service)?.clone();
    let current = admin.reporter.current().ok_or_else(no_service)?;
    let entry = current
        .directory
        .live_services()
        .find(|service| service.name == name);
    let slot = entry.ok_or_else(no_service)?.slot;
    let service = current
        .snapshot
        .service_slots
        .get(slot.index())
        .and_then(Option::as_ref);
    let service = service.ok_or_else(no_service)?.clone();
    let (dataplane, whole) = (admin.reporter.dataplane(), Arc::clone(&report));
    admin
        .json(move || {
            let answers = lookup::ask(&*dataplane, &service, client, WORKER_TIMEOUT);
            let lookup = lookup::explain(&Facts {
                report: &whole,
                snapshot: &current.snapshot,
                shown: &shown,
                service: &service,
                client,
                answers: &answers,
            });
            whole.envelope(vec![lookup])
        })
        .await
}
