//! `top --batch`: a block of text for each sample, for scripts and logs.

use std::time::Duration;

use super::rows;
use super::sample::Sample;
use super::state::State;
use super::{detail, head};
use crate::cli::client::Client;
use crate::cli::events;
use crate::cli::exit::Failure;
use crate::cli::table::{Cell, Table, number, text};
use crate::cli::view::{View, print};

/// Prints `iterations` blocks, or blocks for ever, one each `delay`.
///
/// Errors: the balancer does not answer.
pub(super) async fn run(
    client: &Client,
    state: &State,
    iterations: Option<u32>,
    delay: Duration,
    view: View,
) -> Result<(), Failure> {
    let mut ticks = tokio::time::interval(delay);
    let mut last = None;
    let mut left = iterations;
    while left != Some(0) {
        ticks.tick().await;
        let sample = Sample::fetch(client).await?.since(last.as_ref());
        print(block(&sample, state, view).as_bytes())?;
        last = Some(sample);
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// The block of one sample, with an empty line at its end.
pub(super) fn block(sample: &Sample, state: &State, view: View) -> String {
    let parts: Vec<_> = head::verdict(sample, view.digits)
        .into_iter()
        .map(|(text, _)| text)
        .collect();
    let mut block = format!("{}   {}\n", sample.time, parts.join("   "));
    for worker in sample.status.workers.iter().filter(|_| state.workers) {
        block.push_str(&head::worker(worker, view.digits));
        block.push('\n');
    }
    block.push_str(&rows::text(sample, state, view));
    let drops = detail::worst_drops(sample, state);
    if !drops.is_empty() {
        let mut table = Table::new(&[text("DROPPED"), number("DROP/s"), number("PACKETS")]);
        for drop in drops {
            table.push(vec![
                drop.reason.as_str().into(),
                view.digits.rate(drop.packets_per_second).into(),
                view.digits.count(drop.packets_total).into(),
            ]);
        }
        block.push_str(&table.take_lines(view.headings, view.color));
    }
    let last = detail::last_events(sample, state);
    if !last.is_empty() {
        let mut table = Table::new(&[text("LAST EVENTS"), text("SEVERITY"), text("EVENT")]);
        for event in last {
            table.push(vec![
                event.time.to_string().into(),
                Cell::toned(event.severity.name(), events::tone(event.severity)),
                event.text.as_str().into(),
            ]);
        }
        block.push_str(&table.take_lines(view.headings, view.color));
    }
    block.push('\n');
    block
}
