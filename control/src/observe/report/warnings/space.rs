//! Tables and ports that are full.

use std::collections::BTreeMap;

use vl3lb_common::DropReason;
use vl3lb_common::stats::CloseCause;

use super::{MOST_TROUBLES, about, shown, warn};
use crate::api::{Backend, Status, Warning};
use crate::observe::report::build::Facts;
use crate::state::Directory;

/// A table fuller than this is nearly full.
const NEARLY_FULL: f64 = 0.8;

#[expect(clippy::cast_precision_loss, reason = "table sizes are far below 2^53")]
fn filled(used: u64, capacity: u64) -> Option<f64> {
    let ratio = used as f64 / capacity as f64;
    (capacity > 0 && ratio > NEARLY_FULL).then_some(ratio * 100.0)
}

pub(super) fn full_tables(status: &Status) -> impl Iterator<Item = Warning> {
    status.workers.iter().filter_map(|worker| {
        let percent = filled(worker.flow_table_entries, worker.flow_table_capacity)?;
        let text = format!("flow table of worker {} is {percent:.0}% full", worker.id);
        Some(about(
            &worker.id.to_string(),
            DropReason::FlowTableFull.remedy(),
            warn("flow_table_filling", text),
        ))
    })
}

pub(super) fn forgotten_clients(facts: &Facts<'_>) -> impl Iterator<Item = Warning> {
    facts
        .sample
        .workers
        .iter()
        .enumerate()
        .filter_map(|(id, worker)| {
            let before = facts.start?.workers.get(id)?;
            let added = worker.affinity_evicted.saturating_sub(before.affinity_evicted);
            let rate = facts.rate(Some(added)).filter(|&rate| rate > 0.0)?;
            let text = format!(
                "affinity table of worker {id} is full: {}/s clients lose their backend before their time",
                shown(rate)
            );
            Some(about(
                &id.to_string(),
                DropReason::FlowTableFull.remedy(),
                warn("affinity_table_full", text),
            ))
        })
}

/// Ports of programs of this host are left out of the NAT ports.
pub(super) fn taken_ports(facts: &Facts<'_>) -> Option<Warning> {
    let ports = &facts.local_ports.uses;
    let shown: Vec<String> = ports
        .iter()
        .take(MOST_TROUBLES)
        .map(ToString::to_string)
        .collect();
    if ports.is_empty() {
        return None;
    }
    let more = match ports.len().saturating_sub(MOST_TROUBLES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (first, last) = (facts.identity.nat_ports.first(), facts.identity.nat_ports.last());
    let text = format!(
        "natPorts {first}-{last} leaves out ports of programs on this host: {}{more}",
        shown.join(", ")
    );
    let next = "none is needed; a flow that had such a port has ended. Move `natPorts` or the program for more NAT ports";
    Some(about("natPorts", next, warn("nat_ports_taken", text)))
}

/// NAT ports belong to an address, port and protocol, which backends of several services may share.
pub(super) fn full_ports(backends: &[Backend]) -> impl Iterator<Item = Warning> {
    let mut ports: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    for backend in backends {
        let (used, capacity) = ports.entry((backend.endpoint(), backend.protocol)).or_default();
        *used += backend.nat_ports.used;
        *capacity = backend.nat_ports.capacity;
    }
    ports.into_iter().filter_map(|((endpoint, _), (used, capacity))| {
        let percent = filled(used, capacity)?;
        let text = format!("{percent:.0}% of the NAT ports towards {endpoint} are in use");
        Some(about(
            &endpoint.to_string(),
            DropReason::NatPortsExhausted.remedy(),
            warn("nat_ports_filling", text),
        ))
    })
}

/// Half-open and UDP flows end before their time, so that new ones find room. It comes before any packet is dropped.
pub(super) fn evicted_flows(facts: &Facts<'_>) -> impl Iterator<Item = Warning> {
    let services = facts.directory().into_iter().flat_map(Directory::live_services);
    services.filter_map(|entry| {
        let baseline = entry.baseline.as_deref();
        let before = facts.start?.service(entry.slot, baseline);
        let added = facts.sample.service(entry.slot, baseline).since(&before);
        let evicted = added.closed[CloseCause::Evicted as usize];
        let rate = facts.rate(Some(evicted)).filter(|&rate| rate > 0.0)?;
        let name = &entry.name;
        let text = format!(
            "service {name}: {}/s half-open and UDP flows end before their time to make room for new ones",
            shown(rate)
        );
        let next = "add backends, widen `natPorts` or raise `flows`; look at the clients with the most flows";
        Some(about(name, next, warn("flows_evicted", text)))
    })
}
