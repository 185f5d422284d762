//! Families of the discovery of clients of a network service.

use super::family::Family;
use crate::api::{NsmReasonCount, Status};

/// The families, in order; without samples where no source follows a network service.
pub(super) fn families(status: &Status) -> Vec<Family> {
    let mut registry = Family::gauge(
        "vl3lb_nsm_registry_followed",
        "Whether the list of endpoints is kept up to date",
    );
    let mut monitors = Family::gauge(
        "vl3lb_nsm_endpoint_followed",
        "Whether the list of connections of the endpoint is kept up to date",
    );
    let mut connections = Family::gauge(
        "vl3lb_nsm_endpoint_connections",
        "Connections of the endpoint that are known",
    );
    let mut losses = Family::counter(
        "vl3lb_nsm_stream_losses",
        "Streams that ended, and attempts to open one that failed",
    );
    let mut conflicts = Family::counter(
        "vl3lb_nsm_conflicts",
        "Claims of two clients to one address or name, by kind",
    );
    let mut open_conflicts = Family::gauge("vl3lb_nsm_conflicts_open", "Conflicts that last");
    let mut skipped = Family::counter(
        "vl3lb_nsm_skipped_connections",
        "Connections of events that were left out, by reason",
    );
    let mut unknown = Family::counter("vl3lb_nsm_unknown_events", "Events of an unknown type");
    for nsm in status.discovery.iter().filter_map(|source| source.nsm.as_ref()) {
        registry.add([], nsm.registry.live.into());
        for endpoint in &nsm.endpoints {
            let labels = [("endpoint", endpoint.name.as_str())];
            monitors.add(labels, endpoint.monitor.live.into());
            connections.add(labels, endpoint.connections);
        }
        losses.add([("stream", "registry")], nsm.registry_losses_total);
        losses.add([("stream", "monitor")], nsm.monitor_losses_total);
        for NsmReasonCount { reason, total } in &nsm.conflicts_total {
            conflicts.add([("kind", reason)], *total);
        }
        open_conflicts.add([], nsm.conflicts.len() as u64);
        for NsmReasonCount { reason, total } in &nsm.skipped_connections_total {
            skipped.add([("reason", reason)], *total);
        }
        unknown.add([], nsm.unknown_events_total);
    }
    vec![
        registry,
        monitors,
        connections,
        losses,
        conflicts,
        open_conflicts,
        skipped,
        unknown,
    ]
}
