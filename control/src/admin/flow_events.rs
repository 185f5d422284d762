//! `/api/v1/flows?follow=true`: flows that open and close, one JSON object a line.

use std::convert::Infallible;

use crate::api::FlowEvent;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use crate::observe::flow_events::Subscription;

/// Each event as it comes, `limit` opens and closes at most. Ends with the reader, else.
pub(super) fn stream(follower: Subscription, limit: Option<usize>) -> Response {
    let body = stream::unfold((follower, limit), |(mut follower, mut left)| async move {
        if left == Some(0) {
            return None;
        }
        let mut lines = String::new();
        for event in follower.next().await {
            if !matches!(*event, FlowEvent::Lost { .. })
                && let Some(left) = &mut left
            {
                if *left == 0 {
                    break;
                }
                *left -= 1;
            }
            lines += &serde_json::to_string(&*event).expect("events have nothing that JSON has not");
            lines.push('\n');
        }
        Some((Ok::<_, Infallible>(Bytes::from(lines)), (follower, left)))
    });
    (
        [(header::CONTENT_TYPE, "application/jsonl")],
        Body::from_stream(body),
    )
        .into_response()
}
