//! `/api/v1/flows?follow=true`: flows that open and close, one JSON object a line.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::NDJSON;
use crate::api::FlowEvent;
use crate::observe::flow_events::Subscription;

/// Streams the events of `subscription`: `limit` opens and closes, or until the reader ends.
pub(super) fn stream(subscription: Subscription, limit: Option<usize>) -> Response {
    let body = stream::unfold((subscription, limit), |(mut subscription, mut left)| async move {
        if left == Some(0) {
            return None;
        }
        let mut lines = String::new();
        for event in subscription.next().await {
            if !matches!(*event, FlowEvent::Lost { .. })
                && let Some(left) = &mut left
            {
                if *left == 0 {
                    break;
                }
                *left -= 1;
            }
            lines += &serde_json::to_string(&*event).expect("events have nothing that JSON lacks");
            lines.push('\n');
        }
        Some((Ok::<_, Infallible>(Bytes::from(lines)), (subscription, left)))
    });
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(body)).into_response()
}
