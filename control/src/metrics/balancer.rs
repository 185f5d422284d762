//! Families of the balancer as a whole: process, workers, sockets, control plane.

use crate::api::{FlowTraffic, LeftOut, Report, Status, Worker};

use super::family::Family;
use crate::discovery::Origin;

/// The families, in order.
pub(super) fn families(report: &Report) -> Vec<Family> {
    let status = &report.status;
    let mut families = identity(status);
    families.extend(process(status));
    families.extend(workers(report));
    families.extend(sockets(status));
    families.extend(fast_path(status));
    families.extend(control_plane(report));
    families.extend(flow_log(status));
    families.extend(peers(status));
    families
}

fn identity(status: &Status) -> Vec<Family> {
    vec![
        Family::gauge("vl3lb_build_info", "The running build; always 1")
            .with([("version", &status.version), ("revision", &status.revision)], 1),
        attachment(status),
        Family::gauge(
            "vl3lb_ready",
            "Whether workers are bound and a complete snapshot is live",
        )
        .with([], status.ready.into()),
        Family::gauge("vl3lb_draining", "Whether the balancer is shutting down")
            .with([], status.draining.into()),
    ]
}

/// No sample while the data plane is not attached.
fn attachment(status: &Status) -> Family {
    let mut family = Family::gauge("vl3lb_dataplane_info", "How the data plane is attached; always 1");
    let interface = &status.interface;
    if let (Some(mode), Some(link), Some(driver)) = (&status.mode, &interface.link, &interface.kind) {
        let labels = [
            ("attach", mode.attach.as_str()),
            ("zero_copy", flag_text(mode.zero_copy)),
            ("link", link),
            ("driver", driver),
        ];
        family.add(labels, 1);
    }
    family
}

const fn flag_text(flag: bool) -> &'static str {
    if flag { "true" } else { "false" }
}

fn process(status: &Status) -> Vec<Family> {
    let process = &status.process;
    vec![
        Family::counter(
            "vl3lb_cpu_throttled_seconds",
            "Time throttled by the CPU limit of the cgroup",
        )
        .with_real([], process.cpu_throttled_seconds_total),
        Family::counter("process_cpu_seconds", "CPU time used, user and system")
            .with_real([], process.cpu_seconds_total),
        Family::gauge("process_resident_memory_bytes", "Memory that is resident")
            .with_known(process.resident_memory_bytes),
        Family::gauge("process_virtual_memory_bytes", "Memory that is mapped")
            .with_known(process.virtual_memory_bytes),
        Family::gauge("process_open_fds", "Open file descriptors").with_known(process.open_fds),
        Family::gauge("process_max_fds", "Limit of open file descriptors").with_known(process.max_fds),
        Family::gauge(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970",
        )
        .with_real([], status.start_time.unix_seconds()),
    ]
}

/// One sample per worker.
fn per_worker(mut family: Family, workers: &[Worker], value: impl Fn(&Worker) -> u64) -> Family {
    for worker in workers {
        family.add([("worker", &worker.id.to_string())], value(worker));
    }
    family
}

/// One sample per worker that knows the value.
fn per_worker_real(mut family: Family, workers: &[Worker], value: impl Fn(&Worker) -> Option<f64>) -> Family {
    for worker in workers {
        family.add_real([("worker", &worker.id.to_string())], value(worker));
    }
    family
}

fn workers(report: &Report) -> Vec<Family> {
    let workers = &report.status.workers;
    let now = report.time.unix_seconds();
    let mut generation = Family::gauge(
        "vl3lb_worker_generation",
        "Generation of the snapshot that the worker uses",
    );
    for worker in workers {
        if let Some(value) = worker.generation {
            generation.add([("worker", &worker.id.to_string())], value);
        }
    }
    vec![
        per_worker(
            Family::gauge("vl3lb_flow_table_entries", "Flows in the worker's table"),
            workers,
            |worker| worker.flow_table_entries,
        ),
        per_worker(
            Family::gauge("vl3lb_flow_table_capacity", "Room in the worker's flow table"),
            workers,
            |worker| worker.flow_table_capacity,
        ),
        per_worker(
            Family::counter("vl3lb_worker_received_packets", "Packets taken from the queue"),
            workers,
            |worker| worker.received_packets_total,
        ),
        per_worker(
            Family::counter("vl3lb_worker_transmitted_packets", "Packets sent"),
            workers,
            |worker| worker.transmitted_packets_total,
        ),
        per_worker(
            Family::counter("vl3lb_worker_bursts", "Bursts that had packets"),
            workers,
            |worker| worker.bursts_total,
        ),
        per_worker(
            Family::counter("vl3lb_worker_wakeups", "Wakeups of the worker from sleep"),
            workers,
            |worker| worker.wakeups_total,
        ),
        per_worker(
            Family::counter("vl3lb_worker_core_moves", "Moves to another CPU core"),
            workers,
            |worker| worker.core_moves_total,
        ),
        per_worker(
            Family::counter(
                "vl3lb_worker_handoff_packets",
                "Packets handed to the worker that owns their flow",
            ),
            workers,
            |worker| worker.handoff_packets_total,
        ),
        per_worker(
            Family::counter(
                "vl3lb_worker_answers",
                "ICMP errors and TCP resets sent by the balancer",
            ),
            workers,
            |worker| worker.answers_total,
        ),
        per_worker(
            Family::counter(
                "vl3lb_worker_answers_suppressed",
                "ICMP errors and TCP resets not sent because of their rate limit",
            ),
            workers,
            |worker| worker.answers_suppressed_total,
        ),
        per_worker(
            Family::counter(
                "vl3lb_worker_segmented_packets",
                "Super-packets that were segmented (GSO)",
            ),
            workers,
            |worker| worker.segmented_packets_total,
        ),
        per_worker(
            Family::counter(
                "vl3lb_worker_addresses_left_out",
                "Segments of services with `clientAddress: toa` without room for the client's address",
            ),
            workers,
            |worker| worker.addresses_left_out_total,
        ),
        per_worker(
            Family::counter(
                "vl3lb_worker_fragmented_packets",
                "IPv4 packets that were fragmented because they are longer than the next hop takes",
            ),
            workers,
            |worker| worker.fragmented_packets_total,
        ),
        per_worker(
            Family::counter(
                "vl3lb_worker_waited_fragments",
                "Fragments that came before the first one of their datagram and waited for it",
            ),
            workers,
            |worker| worker.waited_fragments_total,
        ),
        per_worker(
            Family::counter(
                "vl3lb_worker_affinity_evicted_clients",
                "Clients whose affinity was evicted early because the table was full",
            ),
            workers,
            |worker| worker.affinity_evicted_clients_total,
        ),
        per_worker_real(
            Family::counter(
                "vl3lb_worker_busy_seconds",
                "Time spent on bursts that had packets",
            ),
            workers,
            |worker| Some(worker.busy_seconds_total),
        ),
        per_worker_real(
            Family::gauge(
                "vl3lb_worker_heartbeat_timestamp_seconds",
                "When the worker last completed a loop, in seconds since 1970",
            ),
            workers,
            |worker| worker.heartbeat_age_seconds.map(|age| now - age),
        ),
        generation,
    ]
}

fn sockets(status: &Status) -> Vec<Family> {
    let mut xsk = Family::counter(
        "vl3lb_xsk_drop_packets",
        "Packets that the AF_XDP socket dropped, by the kernel's own counters",
    );
    let mut free = Family::gauge(
        "vl3lb_umem_frames_free",
        "Frames of packet memory that are in the queue's hands and free",
    );
    for worker in &status.workers {
        let queue = worker.queue.to_string();
        for (reason, packets) in worker.xsk_drops.by_reason() {
            xsk.add([("queue", &queue), ("reason", reason)], packets);
        }
        free.add([("queue", &queue)], worker.umem_frames_free);
    }
    vec![
        xsk,
        Family::counter("vl3lb_steer_packets", "Packets by decision of the steer program")
            .with([("action", "redirect")], status.steering.redirect)
            .with([("action", "pass")], status.steering.pass)
            .with([("action", "drop")], status.steering.drop),
        free,
    ]
}

fn fast_path(status: &Status) -> Vec<Family> {
    let path = &status.fast_path;
    let both = |family: Family, of: fn(&FlowTraffic) -> u64| {
        family
            .with([("direction", "in")], of(&path.inbound))
            .with([("direction", "out")], of(&path.outbound))
    };
    let mut punted = Family::counter(
        "vl3lb_fastpath_punted_packets",
        "Packets of flows in the in-kernel path that went to the workers",
    );
    for count in &path.punted {
        punted.add([("reason", count.reason.as_str())], count.packets_total);
    }
    vec![
        Family::gauge("vl3lb_fastpath_flows", "Flows in the in-kernel path").with([], path.flows),
        Family::gauge(
            "vl3lb_fastpath_capacity",
            "Flows that the in-kernel path has room for; 0 while it is not in use",
        )
        .with([], path.capacity.into()),
        Family::counter(
            "vl3lb_fastpath_promoted_flows",
            "Flows put into the in-kernel path",
        )
        .with([], path.promoted_flows_total),
        Family::counter(
            "vl3lb_fastpath_full_flows",
            "Flows that found no room in the in-kernel path",
        )
        .with([], path.full_flows_total),
        both(
            Family::counter(
                "vl3lb_fastpath_packets",
                "Packets that the in-kernel path forwarded; services and backends count them too",
            ),
            |traffic| traffic.packets_total,
        ),
        both(
            Family::counter(
                "vl3lb_fastpath_bytes",
                "Bytes of IP packets that the in-kernel path forwarded",
            ),
            |traffic| traffic.bytes_total,
        ),
        punted,
        Family::counter(
            "vl3lb_fastpath_lost_packets",
            "Packets that the in-kernel path dropped because the kernel refused a change",
        )
        .with([], path.lost_packets_total),
    ]
}

fn peers(status: &Status) -> Vec<Family> {
    let mut peers = Family::gauge(
        "vl3lb_peers",
        "Other balancers of the group that are alive, by state",
    );
    let mut leader = Family::gauge("vl3lb_leader", "Whether this balancer writes for the group");
    let mut writes = Family::counter(
        "vl3lb_kubernetes_writes",
        "Writes to the Kubernetes API; balancing needs none",
    );
    let mut troubles = Family::gauge(
        "vl3lb_kubernetes_troubles",
        "What cannot be written to the Kubernetes API now, or not be learnt from it about peers",
    );
    if let Some(group) = &status.peer_group {
        let ready = group.peers.iter().filter(|peer| peer.ready).count();
        peers.add([("state", "ready")], ready as u64);
        peers.add([("state", "not_ready")], (group.peers.len() - ready) as u64);
        leader.add([], group.leads.into());
        for count in &group.writes {
            let labels = [("resource", count.resource.as_str()), ("result", &count.result)];
            writes.add(labels, count.writes_total);
        }
        troubles.add([], group.troubles.len() as u64);
    }
    vec![peers, leader, writes, troubles]
}

fn control_plane(report: &Report) -> Vec<Family> {
    let status = &report.status;
    let mut synced = Family::gauge(
        "vl3lb_discovery_synced",
        "Whether the source's last complete set is known and kept up to date",
    );
    let mut last_event = Family::gauge(
        "vl3lb_discovery_last_event_timestamp_seconds",
        "Time of the last event of the source, in seconds since 1970",
    );
    let mut loaded = Family::gauge(
        "vl3lb_discovery_loaded_timestamp_seconds",
        "When the set in use was last known to be current, in seconds since 1970",
    );
    let mut events = Family::counter("vl3lb_discovery_events", "Events of the source: sets and changes");
    let mut errors = Family::counter("vl3lb_discovery_errors", "Failures of the source, by reason");
    let mut missing = Family::gauge(
        "vl3lb_discovery_missing",
        "1 for each collection that the source may not list, so that what depends on it is not served",
    );
    let mut left_out = Family::gauge(
        "vl3lb_discovery_left_out",
        "Services, pods and endpoints that are not served, by reason: see the warnings and events",
    );
    for discovery in &status.discovery {
        for LeftOut { reason, count } in &discovery.left_out {
            left_out.add(
                [("source", discovery.source.as_str()), ("reason", reason)],
                *count,
            );
        }
        for collection in &discovery.missing {
            let namespace = collection.namespace.as_deref().unwrap_or_default();
            let labels = [
                ("source", discovery.source.as_str()),
                ("resource", &collection.resource),
                ("namespace", namespace),
            ];
            missing.add(labels, 1);
        }
        let source = [("source", discovery.source.as_str())];
        synced.add(source, discovery.synced.into());
        last_event.add_real(source, discovery.last_event_time.map(|time| time.unix_seconds()));
        events.add(source, discovery.events_total);
        loaded.add_real(source, discovery.loaded_time.map(|time| time.unix_seconds()));
        let [source] = source;
        for count in &discovery.errors {
            errors.add([source, ("reason", &count.reason)], count.errors_total);
        }
    }
    let mut apply = Family::histogram(
        "vl3lb_snapshot_apply_duration_seconds",
        "Time from a change seen to its use by the last worker",
    );
    apply.add_distribution([], &status.snapshot_apply_seconds);
    let mut programming = Family::histogram(
        "vl3lb_network_programming_duration_seconds",
        "Time from a change in Kubernetes, by its own timestamp, to its use by the last worker",
    );
    programming.add_distribution(
        [("source", Origin::Kubernetes.name())],
        &status.network_programming_seconds,
    );
    let mut queries = Family::counter("vl3lb_dns_queries", "DNS responses by code");
    for count in &status.dns.queries {
        queries.add([("rcode", &count.rcode)], count.queries_total);
    }
    let mut limited = Family::counter(
        "vl3lb_dns_limited_responses",
        "DNS responses over UDP beyond the limits per source and for all",
    );
    limited.add([("action", "truncated")], status.dns.limited_truncated_total);
    limited.add([("action", "dropped")], status.dns.limited_dropped_total);
    let mut query_duration =
        Family::histogram("vl3lb_dns_query_duration_seconds", "Response time of DNS queries");
    query_duration.add_distribution([], &status.dns.query_duration_seconds);
    vec![
        Family::gauge(
            "vl3lb_snapshot_generation",
            "Generation of the last published snapshot",
        )
        .with_known(report.generation),
        Family::gauge(
            "vl3lb_snapshot_timestamp_seconds",
            "When the last snapshot was published, in seconds since 1970",
        )
        .with_real([], status.snapshot_time.map(|time| time.unix_seconds())),
        apply,
        programming,
        Family::counter(
            "vl3lb_snapshot_failures",
            "Snapshots that did not reach the workers",
        )
        .with([], status.snapshot_failures_total),
        synced,
        last_event,
        loaded,
        events,
        errors,
        missing,
        left_out,
        Family::gauge(
            "vl3lb_config_last_reload_successful",
            "Whether the current configuration file is in use",
        )
        .with([], status.config.ok.into()),
        Family::gauge(
            "vl3lb_config_last_reload_success_timestamp_seconds",
            "When the configuration in use was read, in seconds since 1970",
        )
        .with_real([], status.config.loaded_time.map(|time| time.unix_seconds())),
        queries,
        limited,
        query_duration,
        Family::gauge("vl3lb_interface_up", "Whether the vL3 interface is up")
            .with_known(status.interface.up.map(u64::from)),
        Family::gauge(
            "vl3lb_neighbors_unresolved",
            "Neighbours that workers ask for and the kernel has not resolved",
        )
        .with_known(status.interface.neighbors_unresolved),
        Family::counter(
            "vl3lb_events_lost",
            "Events that readers missed because they were too slow",
        )
        .with([], status.events_lost_total),
        Family::gauge("vl3lb_flow_followers", "Readers of flow events").with([], status.flow_followers),
        Family::counter(
            "vl3lb_flow_events_lost",
            "Flow events that readers missed because they were too slow",
        )
        .with([], status.flow_events_lost_total),
        Family::gauge("vl3lb_captures_active", "Captures that run").with([], status.captures_active),
        Family::counter(
            "vl3lb_capture_lost_packets",
            "Packets that captures have lost, because more matched than could be copied",
        )
        .with([], status.capture_lost_packets_total),
    ]
}

/// No sample without a flow log.
fn flow_log(status: &Status) -> Vec<Family> {
    let log = status.flow_log.as_ref();
    let written = log.filter(|log| log.file.is_some());
    let sent = log.filter(|log| log.collector.is_some());
    let mut lost = Family::counter("vl3lb_flow_log_lost_flows", "Flows that were not logged");
    for loss in log.iter().flat_map(|log| &log.lost) {
        lost.add([("reason", loss.reason.as_str())], loss.flows_total);
    }
    vec![
        Family::counter(
            "vl3lb_flow_log_written_flows",
            "Flows written to the file of the flow log",
        )
        .with_known(written.map(|log| log.written_total)),
        Family::counter(
            "vl3lb_flow_log_sent_flows",
            "Flows sent to the IPFIX collector of the flow log",
        )
        .with_known(sent.map(|log| log.sent_total)),
        lost,
    ]
}
