//! The status page: one HTML document without anything from elsewhere, which reads without its script.
//!
//! The script replaces the element `state`, which [`state`] renders, every two seconds. So there is one renderer, and the
//! page shows the same with the script and without it.

mod measures;
mod services;
mod tone;

#[cfg(test)]
mod tests;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use vl3lb_common::DropReason;

use crate::api::{Event, Report, Severity, Status, Verdict, Warning};
use crate::number::{Digits, UNKNOWN, age, percent};
use crate::observe::report::Measures;
use crate::summary;
use tone::Tone;

/// The style of the page.
pub(crate) const STYLE: &str = include_str!("page.css");
/// The script of the page.
pub(crate) const SCRIPT: &str = include_str!("page.js");

/// Rows of each table of the page.
const ROWS: usize = 200;

/// What the page shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) report: &'a Report,
    /// The last minutes, oldest first.
    pub(crate) measures: &'a [Measures],
    /// The last events, oldest first.
    pub(crate) events: &'a [Event],
    /// Part of the names of the services that are shown, in any case; empty: all.
    pub(crate) filter: &'a str,
}

/// The whole document.
pub(crate) fn document(view: View<'_>) -> Markup {
    let status = &view.report.status;
    let verdict = status.verdict();
    let tone = Tone::of_verdict(verdict);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title(status)) }
                link #icon rel="icon" href=(tone.icon()) data-color=(tone.color());
                style { (PreEscaped(STYLE)) }
                noscript { meta http-equiv="refresh" content="10"; }
            }
            body {
                header {
                    h1 { (status.instance) }
                    p #verdict .(tone.class()) role="status" aria-live="polite" data-word=(verdict.name()) {
                        span .word { (tone.glyph()) " " (verdict.name()) }
                    }
                    span { "vl3-lb " (status.version) " (" (status.revision) ")" }
                    span .end #clock { "at " (view.report.time) }
                    button #pause type="button" aria-pressed="false" hidden { "Pause" }
                    a href="api/v1/status" { "JSON" }
                }
                main {
                    form #filter method="get" {
                        label for="service" { "Services" }
                        input #service type="search" name="service" value=(view.filter) placeholder="part of a name"
                            autocomplete="off" spellcheck="false";
                        button type="submit" { "Filter" }
                    }
                    (state(view))
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

/// The part that changes.
pub(crate) fn state(view: View<'_>) -> Markup {
    let status = &view.report.status;
    let verdict = status.verdict();
    let tone = Tone::of_verdict(verdict);
    html! {
        div #state data-word=(verdict.name()) data-tone=(tone.class()) data-glyph=(tone.glyph()) data-title=(title(status))
            data-color=(tone.color()) {
            (problems(view))
            (measures::tiles(status, view.report, view.measures))
            (services::section(view))
            (drops(status))
            (changes(view))
            (facts(view))
            (workers(status))
        }
    }
}

/// `(2) finance-lb`: the number of problems and the balancer.
fn title(status: &Status) -> String {
    match problem_count(status) {
        0 => format!("{} vl3-lb", status.instance),
        count => format!("({count}) {} vl3-lb", status.instance),
    }
}

fn problem_count(status: &Status) -> usize {
    let worth = |warning: &&Warning| warning.severity != Severity::Info;
    status.warnings.iter().filter(worth).count() + usize::from(status.not_ready_reason.is_some())
}

/// Whether it is this balancer, and since when.
fn problems(view: View<'_>) -> Markup {
    let (status, now) = (&view.report.status, view.report.time);
    let count = problem_count(status);
    let noun = if count == 1 { "problem" } else { "problems" };
    html! {
        h2 { @if count == 0 { "No problems" } @else { (count) " " (noun) } }
        @if status.verdict() == Verdict::Draining {
            p { "The balancer shuts down: it takes no new flows, and ends when the open ones have." }
        }
        ul .problems {
            @if let Some(reason) = &status.not_ready_reason {
                li .bad { span .word.bad { "x not ready" } " " (reason) }
            }
            @for warning in &status.warnings {
                @let tone = Tone::of_severity(warning.severity);
                li .(tone.class()) {
                    span .word.(tone.class()) { (tone.glyph()) " " (warning.severity.name()) } " " (warning.text)
                    @if let Some(since) = warning.since { span .muted { " for " (age(now.since(since))) } }
                    @if let Some(next) = &warning.next { " " code { (next) } }
                }
            }
        }
    }
}

/// Drops by reason with the remedy of each, the most frequent first.
fn drops(status: &Status) -> Markup {
    let mut drops: Vec<_> = status
        .totals
        .drops
        .iter()
        .filter(|drop| drop.packets_total > 0)
        .collect();
    drops.sort_by(|a, b| {
        let rate = |per_second: Option<f64>| per_second.unwrap_or_default();
        let by_rate = rate(b.packets_per_second).total_cmp(&rate(a.packets_per_second));
        by_rate.then(b.packets_total.cmp(&a.packets_total))
    });
    let remedy = |name: &str| {
        let reason = DropReason::ALL.iter().find(|reason| reason.name() == name);
        reason.map_or(UNKNOWN, |reason| reason.remedy())
    };
    html! {
        h2 #drops-heading { "Dropped packets" }
        @if drops.is_empty() {
            p .muted { "None since the start." }
        } @else {
            div .scroll #drops tabindex="0" role="region" aria-labelledby="drops-heading" {
                table {
                    thead { tr {
                        th scope="col" { "Reason" }
                        th .number scope="col" { "Drops/s" }
                        th .number scope="col" { "Packets" }
                        th scope="col" { "Remedy" }
                    } }
                    tbody {
                        @for drop in drops {
                            tr {
                                th scope="row" { (drop.reason) }
                                td .number { (Digits::Short.rate(drop.packets_per_second)) }
                                td .number { (Digits::Short.count(drop.packets_total)) }
                                td .wide { (remedy(&drop.reason)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The last events, newest first.
fn changes(view: View<'_>) -> Markup {
    html! {
        h2 #changes-heading { "Last changes" }
        @if view.events.is_empty() {
            p .muted { "None since the start." }
        } @else {
            div .scroll #changes tabindex="0" role="region" aria-labelledby="changes-heading" {
                table {
                    thead { tr {
                        th scope="col" { "Time" }
                        th scope="col" { "Severity" }
                        th scope="col" { "Event" }
                    } }
                    tbody {
                        @for event in view.events.iter().rev() {
                            @let tone = Tone::of_severity(event.severity);
                            tr {
                                td { (event.time) }
                                td { span .word.(tone.class()) { (tone.glyph()) " " (event.severity.name()) } }
                                td .wide { (event.text) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Interface, mode and its reason, discovery, configuration, snapshot.
fn facts(view: View<'_>) -> Markup {
    let (status, now) = (&view.report.status, view.report.time);
    let snapshot = match (view.report.generation, status.snapshot_time) {
        (Some(generation), Some(time)) => format!("{generation}, {} old", age(now.since(time))),
        (Some(generation), None) => generation.to_string(),
        (None, _) => "none yet".to_owned(),
    };
    let up = age(now.since(status.start_time));
    html! {
        h2 { "Balancer" }
        dl .facts {
            dt { "up" } dd { (up) ", since " (status.start_time) }
            dt { "snapshot" } dd { (snapshot) }
            @for (label, line) in summary::lines(status, now, Digits::Short) {
                dt { (label) } dd { (line) }
            }
            @if let Some(error) = &status.config.error { dt { "rejected" } dd { (error) } }
        }
    }
}

/// One row per worker.
fn workers(status: &Status) -> Markup {
    html! {
        h2 #workers-heading { "Workers" }
        div .scroll #workers tabindex="0" role="region" aria-labelledby="workers-heading" {
            table {
                thead { tr {
                    th scope="col" { "Worker" }
                    th .number scope="col" { "Core" }
                    th .number scope="col" { "Busy" }
                    th .number scope="col" { "Packets a burst" }
                    th .number scope="col" { "Flows" }
                    th .number scope="col" { "Room for" }
                    th .number scope="col" { "Free frames" }
                    th .number scope="col" { "Snapshot" }
                } }
                tbody {
                    @for worker in &status.workers {
                        tr {
                            th scope="row" { (worker.id) }
                            td .number { (worker.core.map_or_else(|| UNKNOWN.to_owned(), |core| core.to_string())) }
                            td .number { (percent(worker.busy_ratio)) }
                            td .number { (Digits::Short.rate(worker.packets_per_burst)) }
                            td .number { (Digits::Short.count(worker.flow_table_entries)) }
                            td .number { (Digits::Short.count(worker.flow_table_capacity)) }
                            td .number { (Digits::Short.count(worker.umem_frames_free)) }
                            td .number {
                                (worker.generation.map_or_else(|| UNKNOWN.to_owned(), |generation| generation.to_string()))
                            }
                        }
                    }
                }
            }
        }
    }
}
