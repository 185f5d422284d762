//! `/api/v1/capture`: packets with their verdicts, one JSON object a line. On the Unix socket alone: packets are private.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::mpsc;
use vl3lb_common::capture::MAX_CAPTURES;

use super::error::ApiError;
use super::params::CaptureParams;
use super::{Admin, NDJSON};
use crate::api::{AddressNames, CaptureEvent, CaptureStart, Report, Time};

/// Events of one part of the answer.
const BATCH: usize = 256;

pub(super) async fn capture(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let CaptureParams { request, text } = CaptureParams::parse(query.as_deref())?;
    let report = admin.report().await?;
    let services = report.services.iter().map(|service| service.name.as_str());
    if let Some(name) = request.filter.missing(services) {
        return Err(ApiError::no_service("capture", name, &report));
    }
    let status = &report.status;
    let start = CaptureStart {
        time: Time::now(),
        version: status.version.clone(),
        revision: status.revision.clone(),
        instance: status.instance.clone(),
        generation: report.generation,
        interface: status.interface.name.clone(),
        link: status.interface.link.clone().ok_or_else(not_attached)?,
        attach: status.mode.as_ref().ok_or_else(not_attached)?.attach.clone(),
        snap_length: request.snap_length as u64,
        filter: text,
        names: names(&report),
    };
    let packets = admin.reporter.captures().start(request);
    let packets = packets.ok_or_else(too_many)?;
    Ok(answer(start, packets))
}

/// The first line, then packets until the capture ends, or its reader.
fn answer(start: CaptureStart, packets: mpsc::Receiver<CaptureEvent>) -> Response {
    let first = vec![CaptureEvent::Start(start)];
    let body = stream::unfold((first, packets), |(mut events, mut packets)| async move {
        if events.is_empty() {
            packets.recv_many(&mut events, BATCH).await;
        }
        if events.is_empty() {
            return None;
        }
        let mut lines = String::new();
        for event in events.drain(..) {
            lines += &serde_json::to_string(&event).expect("events have nothing that JSON lacks");
            lines.push('\n');
        }
        Some((Ok::<_, Infallible>(Bytes::from(lines)), (events, packets)))
    });
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(body)).into_response()
}

/// The names of the addresses in packets: services for the balancer's own, pods or else services for backends.
fn names(report: &Report) -> Vec<AddressNames> {
    let services = report.services.iter().flat_map(|service| {
        let addresses = service.addresses.iter();
        addresses.map(|&address| (address, service.name.clone()))
    });
    let backends = report.backends.iter().map(|backend| {
        let name = backend.pod.clone();
        let name = name.unwrap_or_else(|| format!("{}-{}", backend.service, backend.address));
        (backend.address, name)
    });
    let mut names: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
    for (address, name) in services.chain(backends) {
        names.entry(address).or_default().insert(name);
    }
    names
        .into_iter()
        .map(|(address, names)| AddressNames {
            address,
            names: names.into_iter().collect(),
        })
        .collect()
}

fn too_many() -> ApiError {
    ApiError::unavailable(
        format!("capture: {MAX_CAPTURES} captures run already, which is the limit"),
        "wait until one of them ends, or end it; `vl3-lb status` shows their number",
    )
}

fn not_attached() -> ApiError {
    ApiError::unavailable(
        "capture: there is no interface".to_owned(),
        "`vl3-lb status` shows why",
    )
}
