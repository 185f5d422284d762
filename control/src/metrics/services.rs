//! Families of services and backends.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use crate::api::{Backend, BackendState, Report, Service, Traffic};
use crate::config::Metrics;
use vl3lb_common::Protocol;

use super::family::Family;

/// The families, in order.
pub(super) fn families(report: &Report, content: Metrics) -> Vec<Family> {
    let mut families = services(&report.services);
    families.push(drops(report));
    if content.per_backend {
        families.extend(backends(&report.backends));
        families.extend(nat_ports(&report.backends));
    }
    families
}

fn services(services: &[Service]) -> Vec<Family> {
    let mut flows = Family::gauge("vl3lb_service_flows", "Open flows");
    let mut opened = Family::counter("vl3lb_service_flows_opened", "Flows opened");
    let mut closed = Family::counter("vl3lb_service_flows_closed", "Flows that ended, by cause");
    let mut packets = Family::counter(
        "vl3lb_service_packets",
        "Packets forwarded; in: to backends, out: to clients",
    );
    let mut bytes = Family::counter(
        "vl3lb_service_bytes",
        "Bytes of IP packets forwarded; in: to backends, out: to clients",
    );
    let mut by_state = Family::gauge("vl3lb_service_backends", "Backends by state");
    let mut transitions = Family::counter(
        "vl3lb_service_backend_transitions",
        "Backends that entered this state",
    );
    let mut imbalance = Family::gauge(
        "vl3lb_service_imbalance_ratio",
        "Flows of the fullest backend, for its weight, as a multiple of the mean",
    );
    let mut checks = Family::counter("vl3lb_health_checks", "Health checks of backends, by result");
    let mut check_duration = Family::histogram(
        "vl3lb_health_check_duration_seconds",
        "Duration of health checks, by result",
    );
    let mut connect = Family::histogram(
        "vl3lb_service_connect_duration_seconds",
        "Time from a SYN to the backend's SYN-ACK",
    );
    let mut duration = Family::histogram("vl3lb_service_flow_duration_seconds", "Life of flows that ended");
    for service in services {
        let label = [("service", service.name.as_str())];
        flows.add(label, service.flows);
        opened.add(label, service.flows_opened_total);
        for count in &service.flows_closed {
            closed.add(
                [("service", &service.name), ("cause", &count.cause)],
                count.flows_total,
            );
        }
        for (direction, traffic) in directions(service.inbound, service.outbound) {
            let labels = [("service", service.name.as_str()), ("direction", direction)];
            packets.add(labels, traffic.packets_total);
            bytes.add(labels, traffic.bytes_total);
        }
        // All states, zeros too: an alert on `up == 0` needs the series to be there.
        for state in BackendState::ALL {
            let count = match state {
                BackendState::Down => service.backends.down,
                BackendState::Draining => service.backends.draining,
                BackendState::Unknown => service.backends.unknown,
                BackendState::Up => service.backends.up,
            };
            by_state.add(
                [("service", &service.name), ("state", state.name())],
                count as u64,
            );
        }
        for (state, count) in service.transitions.by_state() {
            transitions.add([("service", service.name.as_str()), ("state", state)], count);
        }
        imbalance.add_real(label, service.imbalance);
        for count in service.check.iter().flat_map(|check| &check.results) {
            let labels = [
                ("service", service.name.as_str()),
                ("result", count.result.name()),
            ];
            checks.add(labels, count.checks_total);
            if let Some(durations) = &count.duration_seconds {
                check_duration.add_distribution(labels, durations);
            }
        }
        connect.add_distribution(label, &service.connect_seconds);
        duration.add_distribution(label, &service.flow_duration_seconds);
    }
    vec![
        flows,
        opened,
        closed,
        packets,
        bytes,
        by_state,
        transitions,
        imbalance,
        checks,
        check_duration,
        connect,
        duration,
    ]
}

const fn directions(inbound: Traffic, outbound: Traffic) -> [(&'static str, Traffic); 2] {
    [("in", inbound), ("out", outbound)]
}

/// Drops of services under their name, those of none under an empty one.
fn drops(report: &Report) -> Family {
    let mut drops = Family::counter(
        "vl3lb_drop_packets",
        "Packets not forwarded, by reason; service is empty where there is none",
    );
    for service in &report.services {
        for drop in &service.drops {
            drops.add(
                [("service", &service.name), ("reason", &drop.reason)],
                drop.packets_total,
            );
        }
    }
    for drop in &report.status.totals.drops_without_service {
        drops.add([("service", ""), ("reason", &drop.reason)], drop.packets_total);
    }
    drops
}

fn backends(backends: &[Backend]) -> Vec<Family> {
    let mut up = Family::gauge("vl3lb_backend_up", "Whether the backend gets new flows");
    let mut draining = Family::gauge(
        "vl3lb_backend_draining",
        "Whether the backend keeps its flows and gets no new ones",
    );
    let mut weight = Family::gauge("vl3lb_backend_weight", "Share of new flows");
    let mut flows = Family::gauge("vl3lb_backend_flows", "Open flows");
    let mut opened = Family::counter("vl3lb_backend_flows_opened", "Flows opened");
    let mut failed = Family::counter(
        "vl3lb_backend_flows_failed",
        "New flows that the backend failed, by reason",
    );
    let mut packets = Family::counter(
        "vl3lb_backend_packets",
        "Packets forwarded; in: to the backend, out: from it",
    );
    let mut bytes = Family::counter(
        "vl3lb_backend_bytes",
        "Bytes of IP packets forwarded; in: to the backend, out: from it",
    );
    let mut info = Family::gauge(
        "vl3lb_backend_info",
        "Pod and node of the backend, where known; always 1",
    );
    for (backend, open_flows) in by_endpoint(backends) {
        let endpoint = backend.endpoint().to_string();
        if backend.pod.is_some() || backend.node.is_some() {
            info.add(
                [
                    ("service", &backend.service),
                    ("backend", &endpoint),
                    ("backend_pod", backend.pod.as_deref().unwrap_or_default()),
                    ("backend_node", backend.node.as_deref().unwrap_or_default()),
                ],
                1,
            );
        }
        let labels = [
            ("service", backend.service.as_str()),
            ("backend", endpoint.as_str()),
        ];
        up.add(labels, (backend.state == BackendState::Up).into());
        draining.add(labels, (backend.state == BackendState::Draining).into());
        weight.add(labels, backend.weight.into());
        flows.add(labels, open_flows);
        opened.add(labels, backend.flows_opened_total);
        let [service, backend_label] = labels;
        for (reason, count) in backend.failures.by_reason() {
            failed.add([service, backend_label, ("reason", reason)], count);
        }
        for (direction, traffic) in directions(backend.inbound, backend.outbound) {
            let labels = [service, backend_label, ("direction", direction)];
            packets.add(labels, traffic.packets_total);
            bytes.add(labels, traffic.bytes_total);
        }
    }
    vec![up, draining, weight, flows, opened, failed, packets, bytes, info]
}

/// One backend for each service and endpoint, which are the labels, with the open flows of all of them.
///
/// A backend that drains and its replacement at the same address and port are two backends with one name.
/// The series are those of the replacement: its counters begin at zero, as after a restart.
fn by_endpoint(backends: &[Backend]) -> Vec<(&Backend, u64)> {
    let mut kept: Vec<(&Backend, u64)> = Vec::with_capacity(backends.len());
    let mut places = HashMap::with_capacity(backends.len());
    let rank = |backend: &Backend| (backend.state != BackendState::Draining, backend.since);
    for backend in backends {
        match places.entry((&backend.service, backend.endpoint())) {
            Entry::Vacant(place) => {
                place.insert(kept.len());
                kept.push((backend, backend.flows));
            }
            Entry::Occupied(place) => {
                let (current, flows) = &mut kept[*place.get()];
                *flows += backend.flows;
                if rank(backend) > rank(current) {
                    *current = backend;
                }
            }
        }
    }
    kept
}

/// NAT ports belong to a backend's address, port and protocol, which services may share.
fn nat_ports(backends: &[Backend]) -> Vec<Family> {
    let mut ports: BTreeMap<(SocketAddr, Protocol), (u64, u64)> = BTreeMap::new();
    for backend in backends {
        let (used, capacity) = ports.entry((backend.endpoint(), backend.protocol)).or_default();
        *used += backend.nat_ports.used;
        *capacity = backend.nat_ports.capacity;
    }
    let mut used = Family::gauge("vl3lb_nat_ports_used", "NAT ports in use towards the backend");
    let mut capacity = Family::gauge(
        "vl3lb_nat_ports_capacity",
        "NAT ports available towards the backend",
    );
    for ((endpoint, protocol), (in_use, all)) in ports {
        let endpoint = endpoint.to_string();
        let labels = [("backend", endpoint.as_str()), ("protocol", protocol.name())];
        used.add(labels, in_use);
        capacity.add(labels, all);
    }
    vec![used, capacity]
}
