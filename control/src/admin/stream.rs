//! All flows, one JSON object per line, then a trailer with the totals.
//!
//! The tables are read slice by slice, each when the reader has taken the one before: a slow reader holds
//! up neither a worker nor another reader, and a stalled one is ended by the connection's write deadline.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::error::ApiError;
use super::{Admin, MAX_STREAMS, NDJSON};
use crate::api::{Consistency, Envelope, Flow, FlowStreamEnd, FlowStreamLine};
use crate::observe::flows::{Scan, shown};

/// The state of a stream between two parts.
struct Reading {
    admin: Admin,
    /// `None` after the trailer.
    scan: Option<Scan>,
    end: FlowStreamEnd,
    _permit: OwnedSemaphorePermit,
}

/// Streams the flows of `scan`. Errors: too many streams.
pub(super) fn flows(admin: Admin, scan: Scan, envelope: &Envelope<Flow>) -> Result<Response, ApiError> {
    let permit = Arc::clone(&admin.streams).try_acquire_owned().map_err(|_| {
        ApiError::unavailable(
            format!("flows: {MAX_STREAMS} streams of all flows are read already, which is the limit"),
            "try again when one of them has ended, or leave out `--all`",
        )
    })?;
    let end = FlowStreamEnd {
        api_version: envelope.api_version.clone(),
        time: envelope.time,
        generation: envelope.generation,
        window_seconds: envelope.window_seconds,
        consistency: Consistency::PerFlow,
        matched_total: 0,
        truncated: false,
        warnings: Vec::new(),
    };
    let reading = Reading {
        admin,
        scan: Some(scan),
        end,
        _permit: permit,
    };
    let body = stream::unfold(reading, async |mut reading| {
        let part = reading.next().await?;
        Some((part, reading))
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(body)).into_response())
}

impl Reading {
    /// The next lines; `None` after the trailer. An error cuts the stream short, without a trailer.
    async fn next(&mut self) -> Option<Result<Bytes, std::io::Error>> {
        loop {
            let mut scan = self.scan.take()?;
            let read = self
                .admin
                .blocking("flows: read the tables", move || {
                    let slice = scan.next_slice();
                    let lines = slice.as_ref().map(|flows| {
                        let lines = flows.iter().map(|flow| line(&shown(flow, scan.names())));
                        (flows.len() as u64, lines.collect::<String>())
                    });
                    (scan, lines)
                })
                .await;
            let (scan, lines) = match read {
                Ok(read) => read,
                Err(error) => return Some(Err(std::io::Error::other(error.error))),
            };
            let Some((matched, lines)) = lines else {
                self.end.warnings = scan.into_warnings();
                self.end.truncated = !self.end.warnings.is_empty();
                let end = self.end.clone();
                return Some(Ok(line(&FlowStreamLine::End { end }).into()));
            };
            self.scan = Some(scan);
            self.end.matched_total += matched;
            if !lines.is_empty() {
                return Some(Ok(lines.into()));
            }
        }
    }
}

fn line(record: &impl Serialize) -> String {
    let json = serde_json::to_string(record).expect("reports have nothing that JSON lacks");
    json + "\n"
}
