//! `--follow`: endless answers, printed as they arrive.

use std::time::Duration;

use crate::api::{Event, FlowEvent};

use super::args::{EventsArgs, FlowsArgs, Global, Output};
use super::client::{Client, lines_of, read};
use super::exit::{Failure, FailureKind};
use super::terms::{Query, since};
use super::view::{View, note, print};
use super::{events, flow_events};
use crate::number::grouped;

/// Checks the flags that an endless answer excludes.
pub(super) fn validate(global: &Global, watch: Option<Duration>) -> Result<(), Failure> {
    let refused = |reason: &str| Err(Failure::new(FailureKind::Refused, format!("--follow: {reason}")));
    if global.format() == Output::Json {
        return refused("a JSON document would never end; -o jsonl writes one object per line");
    }
    if watch.is_some() {
        return refused("cannot be combined with --watch, which repeats a finite answer");
    }
    Ok(())
}

/// Prints events as they are emitted.
pub(super) async fn follow_events(
    client: &Client,
    args: &EventsArgs,
    filters: &Query,
    view: View,
) -> Result<(), Failure> {
    let query: Query = filters
        .iter()
        .cloned()
        .chain(since(args))
        .chain([follow_term()])
        .collect();
    let mut lines = client.lines("/api/v1/events", &query).await?.endless();
    let mut listing = events::listing(view);
    while let Some(part) = lines.next().await? {
        if view.format == Output::Jsonl {
            print(&part)?;
            continue;
        }
        for line in lines_of(&part) {
            events::push(&mut listing, &read::<Event>(line)?);
        }
        print(listing.take_lines().as_bytes())?;
    }
    Ok(())
}

/// Prints flows as they open and close, up to the limit.
pub(super) async fn follow_flows(
    client: &Client,
    args: &FlowsArgs,
    filters: &Query,
    view: View,
) -> Result<(), Failure> {
    let limit = args.limit.map(|limit| ("limit".to_owned(), limit.to_string()));
    let query: Query = filters
        .iter()
        .cloned()
        .chain(limit)
        .chain([follow_term()])
        .collect();
    let mut left = args.limit;
    let mut lines = client.lines("/api/v1/flows", &query).await?.endless();
    let mut listing = flow_events::listing(view);
    if view.terminal {
        note("following flows as they open and close, until Ctrl-C");
    }
    while left != Some(0)
        && let Some(part) = lines.next().await?
    {
        for line in lines_of(&part) {
            match read::<FlowEvent>(line)? {
                FlowEvent::Lost { events, .. } if view.format != Output::Jsonl => {
                    note(&format!(
                        "{} flow events were missed: this reader is too slow",
                        grouped(events)
                    ));
                }
                FlowEvent::Lost { .. } => {}
                event => {
                    left = left.map(|left| left.saturating_sub(1));
                    flow_events::push(&mut listing, &event);
                }
            }
        }
        let lines = listing.take_lines();
        if view.format == Output::Jsonl {
            print(&part)?;
        } else {
            print(lines.as_bytes())?;
        }
    }
    Ok(())
}

fn follow_term() -> (String, String) {
    ("follow".to_owned(), "true".to_owned())
}
