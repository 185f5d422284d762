//! Services, each with its backends in place.

use std::collections::HashMap;

use maud::{Markup, html};

use super::tone::Tone;
use super::{ROWS, View};
use crate::api::{Backend, Service, Time};
use crate::number::{Digits, latency, percent};
use crate::summary::since;

/// The table of services: those that are down first, as the report has them.
pub(super) fn section(view: View<'_>) -> Markup {
    let report = view.report;
    let part = view.filter.trim().to_lowercase();
    let services: Vec<&Service> = report
        .services
        .iter()
        .filter(|service| service.name.to_lowercase().contains(&part))
        .collect();
    let shown = &services[..services.len().min(ROWS)];
    let mut backends: HashMap<(&str, _), Vec<&Backend>> = HashMap::new();
    for backend in &report.backends {
        let of_service = backends
            .entry((backend.service.as_str(), backend.protocol))
            .or_default();
        of_service.push(backend);
    }
    // Backends of the first services take the room, and those are the worst.
    let mut room = ROWS;
    let blocks: Vec<Markup> = shown
        .iter()
        .map(|service| {
            let backends = backends.get(&(service.name.as_str(), service.protocol));
            let backends = backends.map_or(&[][..], Vec::as_slice);
            let rows = backends.len().min(room);
            room -= rows;
            block(service, &backends[..rows], backends.len() - rows, report.time)
        })
        .collect();
    html! {
        h2 #services-heading { "Services" }
        @if services.is_empty() {
            @if report.services.is_empty() {
                p { "No service is configured." }
            } @else {
                p { "No service has such a name; there are " (report.services.len()) "." }
            }
        } @else {
            div .scroll #services tabindex="0" role="region" aria-labelledby="services-heading" {
                table {
                    thead { tr {
                        th scope="col" { "Service" }
                        th scope="col" { "State" }
                        th scope="col" { "Protocol" }
                        th scope="col" { "Address" }
                        th .number scope="col" { "Backends up" }
                        th .number scope="col" { "Flows" }
                        th .number scope="col" { "New/s" }
                        th .number scope="col" { "Packets/s in" }
                        th .number scope="col" { "Packets/s out" }
                        th .number scope="col" { "Bit/s in" }
                        th .number scope="col" { "Bit/s out" }
                        th .number scope="col" { "Drops/s" }
                        th .number scope="col" { "Connect p99" }
                        th .number scope="col" { "Since" }
                    } }
                    tbody {
                        @for block in &blocks { (block) }
                    }
                }
            }
            @if services.len() > shown.len() {
                p { (services.len() - shown.len()) " more: filter by name, or " code { "vl3-lb services" } }
            }
        }
    }
}

/// The row of a service, and one that opens its backends.
fn block(service: &Service, backends: &[&Backend], left_out: usize, now: Time) -> Markup {
    let digits = Digits::Short;
    let tone = Tone::of_service(service.state);
    let id = format!("backends-{}-{}", service.protocol.name(), service.name);
    let counts = service.backends;
    html! {
        tr .edge.(tone.class()) {
            th scope="row" { (service.name) }
            td { span .word { (tone.glyph()) " " (service.state.name()) } }
            td { (service.protocol.name()) }
            td { (service.endpoints()) }
            td .number { (counts.up) " of " (counts.total) }
            td .number { (digits.count(service.flows)) }
            td .number { (digits.rate(service.new_flows_per_second)) }
            td .number { (digits.rate(service.inbound.packets_per_second)) }
            td .number { (digits.rate(service.outbound.packets_per_second)) }
            td .number { (digits.bits(service.inbound.bytes_per_second)) }
            td .number { (digits.bits(service.outbound.bytes_per_second)) }
            td .number { (digits.rate(service.drops_per_second)) }
            td .number { (latency(service.connect_seconds.p99)) }
            td .number { (since(service.since, now)) }
        }
        tr .inner {
            td colspan="14" {
                details id=(id) {
                    summary id=(format!("{id}-summary")) { (backend_tally(service)) }
                    @if !backends.is_empty() { (table(backends, now)) }
                    @if left_out > 0 {
                        p { (left_out) " more: " code { "vl3-lb backends --service " (service.name) } }
                    }
                }
            }
        }
    }
}

/// `3 backends: 2 up, 1 down`.
fn backend_tally(service: &Service) -> String {
    let counts = service.backends;
    let noun = if counts.total == 1 { "backend" } else { "backends" };
    let states = [
        (counts.down, "down"),
        (counts.draining, "draining"),
        (counts.unknown, "unknown"),
        (counts.up, "up"),
    ];
    let states: Vec<_> = states
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{count} {state}"))
        .collect();
    if states.is_empty() {
        return format!("no {noun}");
    }
    format!("{} {noun}: {}", counts.total, states.join(", "))
}

fn table(backends: &[&Backend], now: Time) -> Markup {
    let digits = Digits::Short;
    html! {
        table {
            thead { tr {
                th scope="col" { "Backend" }
                th scope="col" { "State" }
                th .number scope="col" { "Weight" }
                th .number scope="col" { "Flows" }
                th .number scope="col" { "New/s" }
                th .number scope="col" { "Failures/s" }
                th .number scope="col" { "Bit/s out" }
                th .number scope="col" { "Connect p99" }
                th .number scope="col" { "NAT ports" }
                th .number scope="col" { "Since" }
                th scope="col" { "Pod" }
                th scope="col" { "Note" }
            } }
            tbody {
                @for backend in backends {
                    @let tone = Tone::of_backend(backend.state);
                    tr .edge.(tone.class()) {
                        th scope="row" { (backend.endpoint()) }
                        td { span .word { (tone.glyph()) " " (backend.state.name()) } }
                        td .number { (backend.weight) }
                        td .number { (digits.count(backend.flows)) }
                        td .number { (digits.rate(backend.new_flows_per_second)) }
                        td .number { (digits.rate(backend.failures_per_second)) }
                        td .number { (digits.bits(backend.outbound.bytes_per_second)) }
                        td .number { (latency(backend.connect_seconds.as_ref().and_then(|connect| connect.p99))) }
                        td .number { (percent(backend.nat_ports.ratio())) }
                        td .number { (since(backend.since, now)) }
                        td { (backend.pod.as_deref().unwrap_or("")) }
                        td .wide { (backend.note(now)) }
                    }
                }
            }
        }
    }
}
