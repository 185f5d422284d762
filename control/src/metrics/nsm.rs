//! Families of the connection to the vL3 network.

use crate::api::{NsmState, Status};

use super::family::Family;

/// The families, in order; without samples where another process makes the interface.
pub(super) fn families(status: &Status) -> Vec<Family> {
    let mut info = Family::gauge(
        "vl3lb_nsm_connection_info",
        "Network service and endpoint of the connection; always 1",
    );
    let mut state = Family::gauge(
        "vl3lb_nsm_connection_state",
        "1 for the state of the connection to the network service, 0 for all others",
    );
    let mut monitored = Family::gauge(
        "vl3lb_nsm_monitored",
        "Whether the manager reports changes of the connection",
    );
    let mut alive = Family::gauge(
        "vl3lb_nsm_data_plane_alive",
        "Whether the endpoint answers ICMP echo requests through the interface",
    );
    let mut round_trip = Family::gauge(
        "vl3lb_nsm_round_trip_seconds",
        "How long the endpoint's last echo reply took",
    );
    let mut refresh = Family::gauge(
        "vl3lb_nsm_next_refresh_timestamp_seconds",
        "When the connection is refreshed, in seconds since 1970",
    );
    let mut tokens = Family::gauge(
        "vl3lb_nsm_token_expiry_timestamp_seconds",
        "When the first token of the connection's path expires, in seconds since 1970",
    );
    let mut svid = Family::gauge(
        "vl3lb_nsm_svid_expiry_timestamp_seconds",
        "When this workload's SVID expires, in seconds since 1970",
    );
    let mut calls = Family::counter("vl3lb_nsm_calls", "Calls to the manager");
    let mut heals = Family::counter("vl3lb_nsm_heals", "Early refreshes of the connection, by reason");
    let mut replacements = Family::counter(
        "vl3lb_nsm_replacements",
        "Connections replaced because they carried no packets, or were closed by others",
    );
    let mut addresses = Family::counter(
        "vl3lb_nsm_address_changes",
        "Times that the network assigned other addresses",
    );
    let mut losses = Family::counter(
        "vl3lb_nsm_monitor_losses",
        "Streams of events of the manager that ended",
    );
    if let Some(nsm) = &status.nsm {
        let endpoint = nsm.endpoint.as_deref().unwrap_or_default();
        let labels = [
            ("network_service", nsm.network_service.as_str()),
            ("endpoint", endpoint),
        ];
        info.add(labels, 1);
        for candidate in NsmState::ALL {
            state.add([("state", candidate.name())], (candidate == nsm.state).into());
        }
        monitored.add([], nsm.monitored.into());
        match nsm.data_plane.as_str() {
            "alive" => alive.add([], 1),
            "silent" | "absent" => alive.add([], 0),
            _ => {}
        }
        round_trip.add_real([], nsm.round_trip_seconds);
        refresh.add_real([], nsm.next_refresh_time.map(|time| time.unix_seconds()));
        tokens.add_real([], nsm.token_expiry_time.map(|time| time.unix_seconds()));
        svid.add_real([], nsm.svid_expiry_time.map(|time| time.unix_seconds()));
        for count in &nsm.calls {
            let labels = [("call", count.call.as_str()), ("result", &count.result)];
            calls.add(labels, count.calls_total);
        }
        for count in &nsm.heals {
            heals.add([("reason", &count.reason)], count.heals_total);
        }
        replacements.add([], nsm.replacements_total);
        addresses.add([], nsm.address_changes_total);
        losses.add([], nsm.monitor_losses_total);
    }
    vec![
        info,
        state,
        monitored,
        alive,
        round_trip,
        refresh,
        tokens,
        svid,
        calls,
        heals,
        replacements,
        addresses,
        losses,
    ]
}
