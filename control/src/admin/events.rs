//! `/api/v1/events`: the kept events as one document, or all as they happen, one JSON object a line.

use std::convert::Infallible;

use crate::api::{Envelope, Event, EventList, Report, Time};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::Admin;
use super::api::{Refused, no_service};
use super::params::EventParams;
use crate::observe::events::{Batch, Subscription};
use crate::observe::filter::EventFilter;

pub(super) async fn events(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let EventParams {
        filter,
        limit,
        follow,
    } = EventParams::parse(query.as_deref())?;
    let events = admin.reporter.events();
    let report = admin.reporter.report();
    let kept = events.kept();
    if let Some(name) = unknown_service(&filter, &report, &kept) {
        return Err(no_service("events", name, &report));
    }
    if follow {
        return Ok(stream(events.subscribe(), filter, report.time));
    }
    // Older ones than are kept may have been asked for.
    let forgotten = kept
        .first()
        .is_some_and(|oldest| oldest.sequence > 1 && filter.reaches_beyond(oldest.time, report.time));
    let mut items: Vec<Event> = kept
        .into_iter()
        .filter(|event| filter.accepts(event, report.time))
        .collect();
    let surplus = items.len().saturating_sub(limit.unwrap_or(usize::MAX));
    items.drain(..surplus);
    Ok(Json(EventList {
        envelope: Envelope {
            truncated: surplus > 0 || forgotten,
            ..report.envelope(items)
        },
        events_total: events.total(),
        events_lost_total: events.lost(),
    })
    .into_response())
}

/// A service that is asked for by name, is not there and never was.
fn unknown_service<'a>(filter: &'a EventFilter, report: &Report, kept: &[Event]) -> Option<&'a str> {
    let present = report.services.iter().map(|service| service.name.as_str());
    let past = kept.iter().filter_map(|event| event.service.as_deref());
    filter.missing(present.chain(past))
}

/// The kept events, then each new one. Ends with the reader.
fn stream(follower: Subscription, filter: EventFilter, asked: Time) -> Response {
    let body = stream::unfold((follower, filter), move |(mut follower, filter)| async move {
        loop {
            let lines = lines(&follower.next().await, &filter, asked);
            if !lines.is_empty() {
                return Some((Ok::<_, Infallible>(Bytes::from(lines)), (follower, filter)));
            }
        }
    });
    (
        [(header::CONTENT_TYPE, "application/jsonl")],
        Body::from_stream(body),
    )
        .into_response()
}

/// The events that are asked for, a line each. That some were missed is told to all.
fn lines(batch: &Batch, filter: &EventFilter, asked: Time) -> String {
    let loss = batch.loss(Time::now());
    let wanted = batch.events.iter().filter(|event| filter.accepts(event, asked));
    loss.iter()
        .chain(wanted)
        .map(|event| {
            let json = serde_json::to_string(event).expect("events have nothing that JSON has not");
            json + "\n"
        })
        .collect()
}
