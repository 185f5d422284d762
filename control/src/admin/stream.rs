//! All flows as one JSON document that is written while they are read.
//!
//! One flow a line, so that a reader can take it in parts. The reading thread waits for a reader
//! that is slow and ends with one that goes away; no worker waits for either.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::api::{Consistency, Envelope, Flow, Time, Warning};
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use vl3lb_common::dataplane::Dataplane;

use super::api::WORKER_ANSWER;
use crate::observe::filter::FlowFilter;
use crate::observe::flows::{self, ServiceNames};

/// Parts that wait for the reader.
const PARTS: usize = 4;
/// A part is sent when it is about this long.
const PART: usize = 64 << 10;

/// The answer: the fields of `envelope`, then the flows, then what is known only at the end.
pub(super) fn flows(
    dataplane: Arc<dyn Dataplane>,
    names: ServiceNames,
    filter: FlowFilter,
    envelope: Envelope<Flow>,
    permit: OwnedSemaphorePermit,
) -> Response {
    let (parts, waiting) = mpsc::channel::<Bytes>(PARTS);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        write(&*dataplane, &names, &filter, &envelope, &parts);
    });
    let body = stream::unfold(waiting, async |mut waiting| {
        let part = waiting.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(part), waiting))
    });
    (
        [(header::CONTENT_TYPE, "application/json")],
        Body::from_stream(body),
    )
        .into_response()
}

fn write(
    dataplane: &dyn Dataplane,
    names: &ServiceNames,
    filter: &FlowFilter,
    envelope: &Envelope<Flow>,
    parts: &mpsc::Sender<Bytes>,
) {
    let mut part = head(envelope);
    let mut matched = 0_u64;
    let warnings = flows::scan(dataplane, names, filter, WORKER_ANSWER, |flow| {
        part.push_str(if matched == 0 { "\n" } else { ",\n" });
        matched += 1;
        part.push_str(&json(&flows::shown(&flow, names)));
        if part.len() >= PART && parts.blocking_send(std::mem::take(&mut part).into()).is_err() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    part.push_str(&tail(matched, &warnings));
    // An error is a reader that went away, and nobody is left to be told.
    parts.blocking_send(part.into()).ok();
}

/// The fields of an [`Envelope`] that are known before the first flow.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    api_version: &'a str,
    time: Time,
    generation: Option<u64>,
    window_seconds: Option<f64>,
    consistency: Consistency,
}

/// Everything before the first flow: `{...,"items":[`.
fn head(envelope: &Envelope<Flow>) -> String {
    let mut head = json(&Head {
        api_version: &envelope.api_version,
        time: envelope.time,
        generation: envelope.generation,
        window_seconds: envelope.window_seconds,
        consistency: Consistency::PerFlow,
    });
    head.pop();
    head.push_str(",\"items\":[");
    head
}

/// Everything after the last flow: `],...}`.
fn tail(matched: u64, warnings: &[Warning]) -> String {
    format!(
        "\n],\"truncated\":{},\"matchedTotal\":{matched},\"warnings\":{}}}\n",
        !warnings.is_empty(),
        json(&warnings)
    )
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("reports have nothing that JSON has not")
}
