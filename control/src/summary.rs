//! A line about each part of the balancer, for `vl3-lb status` and the status page.

use std::fmt::Write;

use crate::api::{
    BackendState, Discovery, FlowLog, NsmConnection, NsmDiscovery, Peer, PeerGroup, ServiceState, Status,
    Time, Traffic, Worker,
};
use crate::number::{Digits, UNKNOWN, age, percent};

/// Peers in the line; JSON has all.
const SHOWN_PEERS: usize = 4;

/// Label and line of each part that this balancer has, at `now`.
pub(crate) fn lines(status: &Status, now: Time, digits: Digits) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("interface", interface(status)),
        ("mode", mode(status)),
        ("fast path", fast_path(status)),
        ("services", services(status)),
        ("traffic", traffic(status, digits)),
        ("control", control(status, now)),
    ];
    lines.extend(
        status
            .flow_log
            .as_ref()
            .map(|log| ("flow log", flow_log(log, digits))),
    );
    lines.extend(
        status
            .nsm
            .as_ref()
            .map(|connection| ("nsm", nsm_connection(connection, now))),
    );
    lines.extend(
        status
            .peer_group
            .as_ref()
            .map(|group| ("peers", peer_group(group, now))),
    );
    lines
}

/// How long ago `time` was.
pub(crate) fn since(time: Option<Time>, now: Time) -> String {
    time.map_or_else(|| UNKNOWN.to_owned(), |time| age(now.since(time)))
}

/// Joins the parts of a line with a wide gap.
fn parts(parts: &[String]) -> String {
    parts
        .iter()
        .filter(|part| !part.is_empty())
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("   ")
}

fn interface(status: &Status) -> String {
    let interface = &status.interface;
    let addresses: Vec<_> = interface.addresses.iter().map(ToString::to_string).collect();
    let kind = interface.kind.as_deref().or(interface.link.as_deref());
    let link = match (interface.index, interface.mtu) {
        (Some(index), Some(mtu)) => format!(
            "{} {} ifindex {index} mtu {mtu}{}",
            interface.name,
            kind.unwrap_or(UNKNOWN),
            if interface.up == Some(false) { " DOWN" } else { "" }
        ),
        _ => format!("{} ABSENT", interface.name),
    };
    parts(&[
        link,
        if addresses.is_empty() {
            "no address".to_owned()
        } else {
            addresses.join("  ")
        },
    ])
}

fn mode(status: &Status) -> String {
    let Some(mode) = &status.mode else {
        return "not attached".to_owned();
    };
    let copy = if mode.zero_copy { "zero-copy" } else { "copy" };
    let reason = if mode.reason.is_empty() {
        String::new()
    } else {
        format!(" ({})", mode.reason)
    };
    let listed = |of: fn(&Worker) -> String, separator: &str| {
        let texts: Vec<_> = status.workers.iter().map(of).collect();
        texts.join(separator)
    };
    let core = |worker: &Worker| {
        worker
            .core
            .map_or_else(|| UNKNOWN.to_owned(), |core| core.to_string())
    };
    let workers = match status.workers.len() {
        1 => format!("1 queue, worker on core {}", listed(core, ",")),
        queues => format!("{queues} queues, workers on cores {}", listed(core, ",")),
    };
    let mut shown = vec![
        format!("{} XDP, {copy}{reason}", mode.attach),
        workers,
        format!("busy {}", listed(|worker| percent(worker.busy_ratio), " ")),
    ];
    if !mode.refuses_local_clients.is_empty() {
        shown.push(format!(
            "no clients in this network namespace: {}",
            mode.refuses_local_clients
        ));
    }
    parts(&shown)
}

/// How many flows and what share of packets stay in the kernel, and why others do not.
fn fast_path(status: &Status) -> String {
    let path = &status.fast_path;
    if path.capacity == 0 {
        return format!("off ({})", path.reason);
    }
    let count = |number| Digits::Short.count(number);
    let room = if path.full_flows_total > 0 {
        format!("{} found no room", count(path.full_flows_total))
    } else {
        String::new()
    };
    let punted: Vec<_> = path
        .punted
        .iter()
        .filter(|punt| punt.packets_total > 0)
        .map(|punt| format!("{} {}", punt.reason, count(punt.packets_total)))
        .collect();
    parts(&[
        format!("{} of {} flows", count(path.flows), count(path.capacity.into())),
        format!("{} of packets", percent(path.packet_ratio)),
        room,
        if punted.is_empty() {
            String::new()
        } else {
            format!("to workers: {}", punted.join(", "))
        },
    ])
}

/// `3: 1 ok, 1 degraded, 1 down`: the states with a count above zero.
fn tally(total: usize, states: &[(usize, &str)]) -> String {
    let mut text = total.to_string();
    let mut separator = ": ";
    for (count, state) in states.iter().filter(|(count, _)| *count > 0) {
        // Writing to a string cannot fail.
        write!(text, "{separator}{count} {state}").ok();
        separator = ", ";
    }
    text
}

/// Services and backends by state.
pub(crate) fn services(status: &Status) -> String {
    let totals = &status.totals;
    let backends = totals.backends;
    let imbalance = totals.imbalance.as_ref();
    parts(&[
        tally(
            totals.services_ok + totals.services_degraded + totals.services_down,
            &[
                (totals.services_ok, ServiceState::Ok.name()),
                (totals.services_degraded, ServiceState::Degraded.name()),
                (totals.services_down, ServiceState::Down.name()),
            ],
        ),
        format!(
            "backends {}",
            tally(
                backends.total,
                &[
                    (backends.up, BackendState::Up.name()),
                    (backends.draining, BackendState::Draining.name()),
                    (backends.unknown, BackendState::Unknown.name()),
                    (backends.down, BackendState::Down.name()),
                ],
            )
        ),
        imbalance.map_or_else(String::new, |worst| {
            format!("imbalance {:.2} ({})", worst.ratio, worst.service)
        }),
    ])
}

/// `in 310k pps 1.7G bit/s`: the rates of one direction.
pub(crate) fn direction(name: &str, traffic: Traffic, digits: Digits) -> String {
    format!(
        "{name} {} pps {} bit/s",
        digits.rate(traffic.packets_per_second),
        digits.bits(traffic.bytes_per_second)
    )
}

fn traffic(status: &Status, digits: Digits) -> String {
    let totals = &status.totals;
    let change = totals.flows_change_per_second.map_or_else(String::new, |change| {
        let sign = if change >= 0.0 { "+" } else { "" };
        format!(", {sign}{}/s", digits.rate(Some(change)))
    });
    let captured = match status.captures_active {
        0 => String::new(),
        1 => ", 1 capture runs".to_owned(),
        captures => format!(", {captures} captures run"),
    };
    let followed = match status.flow_followers {
        0 => String::new(),
        followers => format!(", followed by {followers}"),
    };
    #[expect(clippy::cast_precision_loss, reason = "numbers of flows are far below 2^53")]
    let filled = (totals.flow_capacity > 0).then(|| totals.flows as f64 / totals.flow_capacity as f64);
    parts(&[
        direction("in", totals.inbound, digits),
        direction("out", totals.outbound, digits),
        format!(
            "drops {}/s ({})",
            digits.rate(totals.drops_per_second),
            percent(totals.drop_ratio)
        ),
        format!(
            "flows {} of {} ({}){change}{followed}{captured}",
            digits.count(totals.flows),
            digits.count(totals.flow_capacity),
            percent(filled)
        ),
    ])
}

fn control(status: &Status, now: Time) -> String {
    let clients = |nsm: &NsmDiscovery| {
        let followed = nsm.endpoints.iter().filter(|endpoint| endpoint.monitor.live);
        let connections: u64 = nsm.endpoints.iter().map(|endpoint| endpoint.connections).sum();
        format!(
            " of {} ({} of {} endpoints followed, {connections} connections)",
            nsm.network_service,
            followed.count(),
            nsm.endpoints.len()
        )
    };
    let source = |discovery: &Discovery| {
        format!(
            "discovery {}{} {}, last event {} ago",
            discovery.source,
            discovery.nsm.as_ref().map_or_else(String::new, clients),
            if discovery.synced {
                "in sync"
            } else if !discovery.missing.is_empty() && discovery.last_error.is_none() {
                "INCOMPLETE"
            } else {
                "NOT IN SYNC"
            },
            since(discovery.last_event_time, now)
        )
    };
    let config = &status.config;
    let mut texts: Vec<_> = status.discovery.iter().map(source).collect();
    texts.push(format!(
        "config {} {}, read {} ago",
        config.path.as_deref().unwrap_or("from the environment"),
        if config.ok { "ok" } else { "REFUSED" },
        since(config.loaded_time, now)
    ));
    parts(&texts)
}

/// Where flows are logged, and how many were not.
fn flow_log(log: &FlowLog, digits: Digits) -> String {
    let to = |count: u64, target: String| format!("{} flows to {target}", digits.count(count));
    let lost: Vec<_> = log
        .lost
        .iter()
        .filter(|loss| loss.flows_total > 0)
        .map(|loss| format!("{} {}", loss.reason, digits.count(loss.flows_total)))
        .collect();
    parts(&[
        log.file
            .clone()
            .map_or_else(String::new, |file| to(log.written_total, file)),
        log.collector
            .map_or_else(String::new, |collector| to(log.sent_total, collector.to_string())),
        if lost.is_empty() {
            String::new()
        } else {
            format!("LOST {}", lost.join(", "))
        },
    ])
}

/// The connection to the vL3 network: state, path, and what keeps it.
fn nsm_connection(nsm: &NsmConnection, now: Time) -> String {
    let state = nsm.state.name();
    let reason = nsm
        .reason
        .as_ref()
        .map_or_else(String::new, |reason| format!(" ({reason})"));
    let left = |what: &str, time: Option<Time>| {
        time.map_or_else(String::new, |time| format!("{what} {}", age(time.since(now))))
    };
    let data_plane = match nsm.round_trip_seconds {
        Some(took) => format!("data plane {} {:.1} ms", nsm.data_plane, took * 1e3),
        None => format!("data plane {}", nsm.data_plane),
    };
    let addresses: Vec<_> = nsm.addresses.iter().map(ToString::to_string).collect();
    parts(&[
        format!(
            "{} {state}{reason} {}",
            nsm.network_service,
            age(now.since(nsm.state_since))
        ),
        nsm.path.join(" > "),
        addresses.join("  "),
        data_plane,
        if nsm.next_refresh_time.is_some_and(|time| time < now) {
            "refresh OVERDUE".to_owned()
        } else {
            left("refresh in", nsm.next_refresh_time)
        },
        left("tokens", nsm.token_expiry_time),
        left("SVID", nsm.svid_expiry_time),
        if nsm.monitored { "" } else { "NOT MONITORED" }.to_owned(),
    ])
}

/// The peers, each with its state, addresses and age.
fn peer_group(group: &PeerGroup, now: Time) -> String {
    let peer = |peer: &Peer| {
        let addresses: Vec<_> = peer.addresses.iter().map(ToString::to_string).collect();
        let ready = if peer.ready { "ready" } else { "NOT READY" };
        let age = age(now.since(peer.since));
        format!("{} {} {ready} {age}", peer.name, addresses.join(" "))
    };
    let mut texts = vec![format!("group {}", group.group)];
    texts.push(match &group.leader {
        Some(_) if group.leads => "leader".to_owned(),
        Some(leader) => format!("leader {leader}"),
        None => "no leader".to_owned(),
    });
    match group.peers.len() {
        0 => texts.push("no other balancer".to_owned()),
        count if count > SHOWN_PEERS => texts.push(format!("{count} others, by name the first")),
        _ => {}
    }
    texts.extend(group.peers.iter().take(SHOWN_PEERS).map(peer));
    parts(&texts)
}
