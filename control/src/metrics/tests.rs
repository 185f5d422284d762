use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::*;
use crate::api::{Backend, BackendState};
use crate::golden;
use crate::observe::report::fixture;

/// Every family with its type and labels. Names are stable: boards and alerts use them.
const REGISTRY: &[(&str, &str, &str)] = &[
    ("vl3lb_build_info", "gauge", "version revision"),
    ("vl3lb_dataplane_info", "gauge", "attach zero_copy link driver"),
    ("vl3lb_ready", "gauge", ""),
    ("vl3lb_draining", "gauge", ""),
    ("vl3lb_cpu_throttled_seconds", "counter", ""),
    ("process_cpu_seconds", "counter", ""),
    ("process_resident_memory_bytes", "gauge", ""),
    ("process_virtual_memory_bytes", "gauge", ""),
    ("process_open_fds", "gauge", ""),
    ("process_max_fds", "gauge", ""),
    ("process_start_time_seconds", "gauge", ""),
    ("vl3lb_flow_table_entries", "gauge", "worker"),
    ("vl3lb_flow_table_capacity", "gauge", "worker"),
    ("vl3lb_worker_received_packets", "counter", "worker"),
    ("vl3lb_worker_transmitted_packets", "counter", "worker"),
    ("vl3lb_worker_bursts", "counter", "worker"),
    ("vl3lb_worker_wakeups", "counter", "worker"),
    ("vl3lb_worker_core_moves", "counter", "worker"),
    ("vl3lb_worker_handoff_packets", "counter", "worker"),
    ("vl3lb_worker_answers", "counter", "worker"),
    ("vl3lb_worker_answers_suppressed", "counter", "worker"),
    ("vl3lb_worker_segmented_packets", "counter", "worker"),
    ("vl3lb_worker_addresses_left_out", "counter", "worker"),
    ("vl3lb_worker_fragmented_packets", "counter", "worker"),
    ("vl3lb_worker_waited_fragments", "counter", "worker"),
    ("vl3lb_worker_affinity_evicted_clients", "counter", "worker"),
    ("vl3lb_worker_busy_seconds", "counter", "worker"),
    ("vl3lb_worker_heartbeat_timestamp_seconds", "gauge", "worker"),
    ("vl3lb_worker_generation", "gauge", "worker"),
    ("vl3lb_xsk_drop_packets", "counter", "queue reason"),
    ("vl3lb_steer_packets", "counter", "action"),
    ("vl3lb_umem_frames_free", "gauge", "queue"),
    ("vl3lb_fastpath_flows", "gauge", ""),
    ("vl3lb_fastpath_capacity", "gauge", ""),
    ("vl3lb_fastpath_promoted_flows", "counter", ""),
    ("vl3lb_fastpath_full_flows", "counter", ""),
    ("vl3lb_fastpath_packets", "counter", "direction"),
    ("vl3lb_fastpath_bytes", "counter", "direction"),
    ("vl3lb_fastpath_punted_packets", "counter", "reason"),
    ("vl3lb_fastpath_lost_packets", "counter", ""),
    ("vl3lb_snapshot_generation", "gauge", ""),
    ("vl3lb_snapshot_timestamp_seconds", "gauge", ""),
    ("vl3lb_snapshot_apply_duration_seconds", "histogram", ""),
    (
        "vl3lb_network_programming_duration_seconds",
        "histogram",
        "source",
    ),
    ("vl3lb_snapshot_failures", "counter", ""),
    ("vl3lb_discovery_synced", "gauge", "source"),
    ("vl3lb_discovery_last_event_timestamp_seconds", "gauge", "source"),
    ("vl3lb_discovery_loaded_timestamp_seconds", "gauge", "source"),
    ("vl3lb_discovery_events", "counter", "source"),
    ("vl3lb_discovery_errors", "counter", "source reason"),
    ("vl3lb_discovery_missing", "gauge", "source resource namespace"),
    ("vl3lb_discovery_left_out", "gauge", "source reason"),
    ("vl3lb_config_last_reload_successful", "gauge", ""),
    ("vl3lb_config_last_reload_success_timestamp_seconds", "gauge", ""),
    ("vl3lb_dns_queries", "counter", "rcode"),
    ("vl3lb_dns_limited_responses", "counter", "action"),
    ("vl3lb_dns_query_duration_seconds", "histogram", ""),
    ("vl3lb_interface_up", "gauge", ""),
    ("vl3lb_neighbors_unresolved", "gauge", ""),
    ("vl3lb_events_lost", "counter", ""),
    ("vl3lb_flow_followers", "gauge", ""),
    ("vl3lb_flow_events_lost", "counter", ""),
    ("vl3lb_captures_active", "gauge", ""),
    ("vl3lb_capture_lost_packets", "counter", ""),
    ("vl3lb_flow_log_written_flows", "counter", ""),
    ("vl3lb_flow_log_sent_flows", "counter", ""),
    ("vl3lb_flow_log_lost_flows", "counter", "reason"),
    ("vl3lb_peers", "gauge", "state"),
    ("vl3lb_leader", "gauge", ""),
    ("vl3lb_kubernetes_writes", "counter", "resource result"),
    ("vl3lb_kubernetes_troubles", "gauge", ""),
    ("vl3lb_nsm_connection_info", "gauge", "network_service endpoint"),
    ("vl3lb_nsm_connection_state", "gauge", "state"),
    ("vl3lb_nsm_monitored", "gauge", ""),
    ("vl3lb_nsm_data_plane_alive", "gauge", ""),
    ("vl3lb_nsm_round_trip_seconds", "gauge", ""),
    ("vl3lb_nsm_next_refresh_timestamp_seconds", "gauge", ""),
    ("vl3lb_nsm_token_expiry_timestamp_seconds", "gauge", ""),
    ("vl3lb_nsm_svid_expiry_timestamp_seconds", "gauge", ""),
    ("vl3lb_nsm_calls", "counter", "call result"),
    ("vl3lb_nsm_heals", "counter", "reason"),
    ("vl3lb_nsm_replacements", "counter", ""),
    ("vl3lb_nsm_address_changes", "counter", ""),
    ("vl3lb_nsm_monitor_losses", "counter", ""),
    ("vl3lb_nsm_registry_followed", "gauge", ""),
    ("vl3lb_nsm_endpoint_followed", "gauge", "endpoint"),
    ("vl3lb_nsm_endpoint_connections", "gauge", "endpoint"),
    ("vl3lb_nsm_stream_losses", "counter", "stream"),
    ("vl3lb_nsm_conflicts", "counter", "kind"),
    ("vl3lb_nsm_conflicts_open", "gauge", ""),
    ("vl3lb_nsm_skipped_connections", "counter", "reason"),
    ("vl3lb_nsm_unknown_events", "counter", ""),
    ("vl3lb_service_flows", "gauge", "service"),
    ("vl3lb_service_flows_opened", "counter", "service"),
    ("vl3lb_service_flows_closed", "counter", "service cause"),
    ("vl3lb_service_packets", "counter", "service direction"),
    ("vl3lb_service_bytes", "counter", "service direction"),
    ("vl3lb_service_backends", "gauge", "service state"),
    ("vl3lb_service_backend_transitions", "counter", "service state"),
    // By service, where it has flows to two backends.
    ("vl3lb_service_imbalance_ratio", "gauge", ""),
    ("vl3lb_health_checks", "counter", "service result"),
    (
        "vl3lb_health_check_duration_seconds",
        "histogram",
        "service result",
    ),
    ("vl3lb_service_connect_duration_seconds", "histogram", "service"),
    ("vl3lb_service_flow_duration_seconds", "histogram", "service"),
    ("vl3lb_drop_packets", "counter", "service reason"),
    ("vl3lb_backend_up", "gauge", "service backend"),
    ("vl3lb_backend_draining", "gauge", "service backend"),
    ("vl3lb_backend_weight", "gauge", "service backend"),
    ("vl3lb_backend_flows", "gauge", "service backend"),
    ("vl3lb_backend_flows_opened", "counter", "service backend"),
    ("vl3lb_backend_flows_failed", "counter", "service backend reason"),
    ("vl3lb_backend_packets", "counter", "service backend direction"),
    ("vl3lb_backend_bytes", "counter", "service backend direction"),
    (
        "vl3lb_backend_info",
        "gauge",
        "service backend backend_pod backend_node",
    ),
    ("vl3lb_nat_ports_used", "gauge", "backend protocol"),
    ("vl3lb_nat_ports_capacity", "gauge", "backend protocol"),
];

/// Labels that any family may have.
const LABELS: [&str; 11] = [
    "service",
    "backend",
    "protocol",
    "direction",
    "reason",
    "state",
    "cause",
    "worker",
    "queue",
    "result",
    "source",
];
/// Labels of one family only.
const OWN_LABELS: &[(&str, &[&str])] = &[
    ("vl3lb_build_info", &["version", "revision"]),
    ("vl3lb_dataplane_info", &["attach", "zero_copy", "link", "driver"]),
    ("vl3lb_steer_packets", &["action"]),
    ("vl3lb_fastpath_packets", &["direction"]),
    ("vl3lb_fastpath_bytes", &["direction"]),
    ("vl3lb_fastpath_punted_packets", &["reason"]),
    ("vl3lb_dns_queries", &["rcode"]),
    ("vl3lb_dns_limited_responses", &["action"]),
    ("vl3lb_backend_info", &["backend_pod", "backend_node"]),
    ("vl3lb_discovery_missing", &["resource", "namespace"]),
    ("vl3lb_kubernetes_writes", &["resource", "result"]),
    ("vl3lb_nsm_connection_info", &["network_service", "endpoint"]),
    ("vl3lb_nsm_calls", &["call"]),
    ("vl3lb_nsm_endpoint_followed", &["endpoint"]),
    ("vl3lb_nsm_endpoint_connections", &["endpoint"]),
    ("vl3lb_nsm_stream_losses", &["stream"]),
    ("vl3lb_nsm_conflicts", &["kind"]),
];

/// The name, labels and value of a sample line.
fn sample_line(line: &str) -> (&str, Vec<(&str, &str)>, f64) {
    let (series, value) = line.rsplit_once(' ').expect(line);
    let value = value.parse().expect(line);
    let Some((name, labels)) = series.split_once('{') else {
        return (series, Vec::new(), value);
    };
    let labels = labels
        .strip_suffix('}')
        .expect(line)
        .split("\",")
        .map(|label| {
            let (name, value) = label.split_once("=\"").expect(line);
            (name, value.trim_end_matches('"'))
        })
        .collect();
    (name, labels, value)
}

#[test]
fn every_family_is_registered_with_its_type_and_labels() {
    let families = families(&fixture::report(), Metrics::default());
    let found: Vec<_> = families
        .iter()
        .map(|family| {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let mut labels: Vec<_> = family.label_names().collect();
            let mut seen = HashSet::new();
            labels.retain(|label| seen.insert(*label));
            (family.name, kind, labels.join(" "))
        })
        .collect();
    let registry: Vec<_> = REGISTRY
        .iter()
        .map(|&(name, kind, labels)| (name, kind, labels.to_owned()))
        .collect();
    assert_eq!(found, registry);
}

#[test]
fn without_a_series_per_backend_no_family_names_one() {
    let content = Metrics { per_backend: false };
    let fewer = families(&fixture::report(), content);
    let names: HashSet<_> = fewer.iter().map(|family| family.name).collect();
    for family in families(&fixture::report(), Metrics::default()) {
        let names_backends = family.label_names().any(|label| label == "backend");
        assert_eq!(names.contains(family.name), !names_backends, "{}", family.name);
    }
    let text = render(Arc::new(fixture::report()), content).unwrap();
    assert!(!text.contains("backend=\""), "{text}");
    assert!(text.contains("vl3lb_service_flows{"), "{text}");
}

#[test]
fn labels_have_bounded_values() {
    let own: HashMap<_, _> = OWN_LABELS.iter().copied().collect();
    for family in families(&fixture::report(), Metrics::default()) {
        let own = own.get(family.name).copied().unwrap_or_default();
        for label in family.label_names() {
            assert!(
                LABELS.contains(&label) || own.contains(&label),
                "{} {label}",
                family.name
            );
        }
    }
}

#[test]
fn the_text_is_well_formed_openmetrics() {
    let mut report = fixture::report();
    // It has no service with two backends in use.
    report.services[0].imbalance = Some(1.25);
    let text = render(Arc::new(report), Metrics::default()).unwrap();
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(check(&text), REGISTRY.len());
    golden::check("metrics.txt", &text);
}

/// Checks that names, suffixes and values are right and that no series is there twice. Number of families.
fn check(text: &str) -> usize {
    let mut types = HashMap::new();
    let mut current = "";
    let mut series = HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(types.insert(name, kind), None, "{name} is there twice");
            current = name;
        } else if !line.starts_with('#') {
            let (name, labels, value) = sample_line(line);
            let suffix = name
                .strip_prefix(current)
                .unwrap_or_else(|| panic!("{line} is not of {current}"));
            let allowed: &[&str] = match types[current] {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(allowed.contains(&suffix), "{line}");
            assert!(value >= 0.0, "{line}");
            assert!(
                series.insert((name, format!("{labels:?}"))),
                "{line} is there twice"
            );
        }
    }
    types.len()
}

#[test]
fn a_backend_and_its_replacement_at_one_address_are_one_series() {
    let mut report = fixture::report();
    let position = |state| {
        let matches = |backend: &Backend| backend.service == "finance" && backend.state == state;
        report.backends.iter().position(matches).unwrap()
    };
    let (draining, up) = (position(BackendState::Draining), position(BackendState::Up));
    // The pod was replaced by one with the same address.
    report.backends[draining].address = report.backends[up].address;
    let (old, new) = (report.backends[draining].clone(), report.backends[up].clone());
    let text = render(Arc::new(report), Metrics::default()).unwrap();
    check(&text);
    let labels = "{service=\"finance\",backend=\"172.16.1.2:8081\"}";
    for (name, value) in [
        ("vl3lb_backend_up", 1),
        ("vl3lb_backend_draining", 0),
        ("vl3lb_backend_flows", old.flows + new.flows),
        ("vl3lb_backend_flows_opened_total", new.flows_opened_total),
    ] {
        let line = format!("{name}{labels} {value}");
        assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
    }
}

#[test]
fn drops_without_a_service_have_an_empty_label() {
    let text = render(Arc::new(fixture::report()), Metrics::default()).unwrap();
    for line in [
        "vl3lb_drop_packets_total{service=\"ledger\",reason=\"no_backend\"} 3400",
        "vl3lb_drop_packets_total{service=\"\",reason=\"malformed\"} 1",
        "vl3lb_service_backends{service=\"ledger\",state=\"up\"} 0",
        "vl3lb_backend_up{service=\"dns\",backend=\"[2001:db8::9]:54\"} 1",
        "vl3lb_service_connect_duration_seconds_bucket{le=\"+Inf\",service=\"finance\"} 1",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
    }
}

#[test]
fn unknown_values_have_no_series() {
    let mut report = fixture::report();
    report.status.process.cpu_throttled_seconds_total = None;
    report.status.snapshot_time = None;
    report.generation = None;
    let text = render(Arc::new(report), Metrics::default()).unwrap();
    for name in ["cpu_throttled", "snapshot_timestamp", "snapshot_generation"] {
        assert!(!text.contains(name), "{name}");
    }
}

/// The names of series in `text`, which has expressions of Prometheus.
fn series_names(text: &str) -> Vec<&str> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter| !is_name(letter));
    words
        .filter(|word| word.starts_with("vl3lb_") || word.starts_with("process_"))
        .collect()
}

#[test]
fn board_and_alert_rules_use_families_that_exist() {
    let mut known = HashSet::new();
    for &(name, kind, _) in REGISTRY {
        match kind {
            "counter" => known.extend([format!("{name}_total")]),
            "histogram" => known.extend(["bucket", "count", "sum"].map(|part| format!("{name}_{part}"))),
            _ => known.extend([name.to_owned()]),
        }
    }
    for text in [
        include_str!("../../../deploy/kubernetes/components/alerts/prometheusrule.yaml"),
        include_str!("../../../deploy/kubernetes/components/board/vl3-lb.json"),
        include_str!("../../../tests/netns/monitoring/alerts.yaml"),
        include_str!("../../../docs/runbook.md"),
    ] {
        let names = series_names(text);
        assert!(!names.is_empty(), "a text without a name");
        for name in names {
            assert!(known.contains(name), "{name} is no registered family");
        }
    }
}
