//! The parts of `top` beside its table: drop reasons, events, and all about one backend.

use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

use super::rows;
use super::sample::Sample;
use super::screen::Screen;
use super::state::{Opened, State};
use crate::api::{Event, ReasonCount};
use crate::cli::events::tone;
use crate::cli::view::View;
use crate::number::{UNKNOWN, latency, percent};
use crate::summary::since;

/// Drop reasons and events of one screen.
pub(super) const LAST: usize = 5;

/// The drop reasons with the highest rates: of the opened service, else of all traffic.
pub(super) fn worst_drops<'a>(sample: &'a Sample, state: &State) -> Vec<&'a ReasonCount> {
    let service =
        opened_service(state).and_then(|name| sample.services.iter().find(|service| service.name == name));
    let drops = service.map_or(&sample.status.totals.drops, |service| &service.drops);
    let mut drops: Vec<_> = drops.iter().filter(|drop| drop.packets_total > 0).collect();
    drops.sort_by(|a, b| {
        let rate = |drop: &ReasonCount| drop.packets_per_second.unwrap_or_default();
        rate(b)
            .total_cmp(&rate(a))
            .then(b.packets_total.cmp(&a.packets_total))
    });
    drops.truncate(LAST);
    drops
}

/// The last events, oldest first: of the opened service, else all.
pub(super) fn last_events<'a>(sample: &'a Sample, state: &State) -> Vec<&'a Event> {
    let service = opened_service(state);
    let mut events: Vec<_> = sample
        .events
        .iter()
        .rev()
        .filter(|event| service.is_none() || event.service.as_deref() == service)
        .take(LAST)
        .collect();
    events.reverse();
    events
}

fn opened_service(state: &State) -> Option<&str> {
    state.opened.iter().find_map(|opened| match opened {
        Opened::Service(name) => Some(name.as_str()),
        Opened::Backend(_) => None,
    })
}

/// A heading and one line per drop reason.
pub(super) fn drops(sample: &Sample, state: &State, view: View) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled(
        format!("{:<20}  {:>7}  {:>8}", "DROPPED", "DROP/s", "PACKETS"),
        Modifier::BOLD,
    )];
    let worst = worst_drops(sample, state);
    if worst.is_empty() {
        lines.push("none since the start".into());
    }
    lines.extend(worst.into_iter().map(|drop| {
        let rate = view.digits.rate(drop.packets_per_second);
        let total = view.digits.count(drop.packets_total);
        Line::from(format!("{:<20}  {rate:>7}  {total:>8}", drop.reason))
    }));
    lines
}

/// A heading and one line per event.
pub(super) fn events(sample: &Sample, state: &State, screen: &Screen<'_>) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled("LAST EVENTS", Modifier::BOLD)];
    let last = last_events(sample, state);
    if last.is_empty() {
        lines.push("none since the start".into());
    }
    lines.extend(last.into_iter().map(|event| {
        Line::from(vec![
            Span::raw(format!("{:>6} ago  ", since(Some(event.time), sample.time))),
            Span::styled(
                format!("{:<5}", event.severity.name()),
                screen.style(tone(event.severity)),
            ),
            Span::raw(format!("  {}", event.text)),
        ])
    }));
    lines
}

/// All about one backend: a line for each fact.
pub(super) fn backend(sample: &Sample, key: &str, view: View) -> Vec<Line<'static>> {
    let Some(backend) = sample.backends.iter().find(|backend| rows::key(backend) == key) else {
        return vec!["it has left; Esc goes back".into()];
    };
    let digits = view.digits;
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    let hop = backend.next_hop.as_ref().map_or_else(
        || UNKNOWN.to_owned(),
        |hop| format!("{} {}", hop.mac.as_deref().unwrap_or(UNKNOWN), hop.state),
    );
    let check = backend.check.as_ref().map_or_else(
        || "none".to_owned(),
        |check| format!("{} {}", check.kind, check.progress()),
    );
    let failures = backend
        .failures
        .by_reason()
        .map(|(reason, count)| format!("{reason} {}", digits.count(count)));
    let connect = backend.connect_seconds.as_ref();
    let ports = backend.nat_ports;
    let facts = [
        (
            "state",
            format!(
                "{} since {}",
                backend.state.name(),
                since(backend.since, sample.time)
            ),
        ),
        ("note", backend.note(sample.time)),
        ("weight", backend.weight.to_string()),
        (
            "flows",
            format!(
                "{}, {} opened, {}/s new",
                digits.count(backend.flows),
                digits.count(backend.flows_opened_total),
                digits.rate(backend.new_flows_per_second)
            ),
        ),
        (
            "failures",
            format!(
                "{}   {}/s",
                failures.join("   "),
                digits.rate(backend.failures_per_second)
            ),
        ),
        (
            "in",
            format!(
                "{} pps {} bit/s",
                digits.rate(backend.inbound.packets_per_second),
                digits.bits(backend.inbound.bytes_per_second)
            ),
        ),
        (
            "out",
            format!(
                "{} pps {} bit/s",
                digits.rate(backend.outbound.packets_per_second),
                digits.bits(backend.outbound.bytes_per_second)
            ),
        ),
        (
            "connect",
            format!(
                "p50 {}   p99 {}",
                latency(connect.and_then(|c| c.p50)),
                latency(connect.and_then(|c| c.p99))
            ),
        ),
        (
            "NAT ports",
            format!(
                "{} of {} ({})",
                digits.count(ports.used),
                digits.count(ports.capacity),
                percent(ports.ratio())
            ),
        ),
        ("next hop", hop),
        ("check", check),
        ("pod", or_unknown(&backend.pod)),
        ("node", or_unknown(&backend.node)),
        ("source", or_unknown(&backend.source)),
    ];
    facts
        .into_iter()
        .filter(|(_, fact)| !fact.is_empty())
        .map(|(label, fact)| Line::from(format!("  {label:<9}  {fact}")))
        .collect()
}
