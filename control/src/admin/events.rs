//! `/api/v1/events`: the kept events as one document, or a stream of events, one JSON object a line.

use std::convert::Infallible;

use crate::api::{Envelope, Event, EventList, Report, Time};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::error::ApiError;
use super::params::EventParams;
use super::{Admin, NDJSON};
use crate::observe::events::{Batch, Subscription};
use crate::observe::filter::EventFilter;

pub(super) async fn events(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let EventParams {
        filter,
        limit,
        follow,
    } = EventParams::parse(query.as_deref())?;
    let events = admin.reporter.events();
    let report = admin.report().await?;
    let kept = events.kept();
    if let Some(name) = unknown_service(&filter, &report, &kept) {
        return Err(ApiError::no_service("events", name, &report));
    }
    if follow {
        return Ok(stream(events.subscribe(), filter, report.time));
    }
    // The filter may accept events that are not kept any more.
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

/// A service in the filter that neither exists nor has a kept event.
fn unknown_service<'a>(filter: &'a EventFilter, report: &Report, kept: &[Event]) -> Option<&'a str> {
    let present = report.services.iter().map(|service| service.name.as_str());
    let past = kept.iter().filter_map(|event| event.service.as_deref());
    filter.missing(present.chain(past))
}

/// Streams the kept events, then each new one, until the reader ends.
fn stream(subscription: Subscription, filter: EventFilter, asked: Time) -> Response {
    let body = stream::unfold(
        (subscription, filter),
        move |(mut subscription, filter)| async move {
            loop {
                let lines = lines(&subscription.next().await, &filter, asked);
                if !lines.is_empty() {
                    return Some((Ok::<_, Infallible>(Bytes::from(lines)), (subscription, filter)));
                }
            }
        },
    );
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(body)).into_response()
}

/// The events that `filter` accepts, one per line. Losses are reported independent of the filter.
fn lines(batch: &Batch, filter: &EventFilter, asked: Time) -> String {
    let loss = batch.loss(Time::now());
    let wanted = batch.events.iter().filter(|event| filter.accepts(event, asked));
    loss.iter()
        .chain(wanted)
        .map(|event| {
            let json = serde_json::to_string(event).expect("events have nothing that JSON lacks");
            json + "\n"
        })
        .collect()
}
