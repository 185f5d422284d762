use std::sync::Arc;

use crate::api::{BackendState, ServiceState, Severity};
use vl3lb_common::dataplane::{Dataplane, PublishError};
use vl3lb_common::snapshot::{BackendSlot, ServiceSlot};
use vl3lb_common::stats::{CloseCause, ServiceStats};
use vl3lb_common::{DropReason, snapshot};

use crate::config::Metrics;
use crate::discovery::{Missing, SourceStatus};
use crate::network::{LinkState, NetworkView};
use crate::observe::filter::FlowFilter;
use crate::observe::flows::{FlowOrder, Scan, select};

use super::fixture::{self, at, flow, live};

#[test]
fn services_and_backends_are_sorted_worst_first() {
    let report = fixture::report();
    let services: Vec<_> = report
        .services
        .iter()
        .map(|s| (s.name.as_str(), s.state))
        .collect();
    assert_eq!(
        services,
        [
            ("ledger", ServiceState::Down),
            ("dns", ServiceState::Ok),
            ("finance", ServiceState::Ok)
        ]
    );
    let backends: Vec<_> = report
        .backends
        .iter()
        .map(|b| (b.service.as_str(), b.state))
        .collect();
    assert_eq!(
        backends,
        [
            ("ledger", BackendState::Down),
            ("finance", BackendState::Draining),
            ("dns", BackendState::Up),
            ("finance", BackendState::Up)
        ]
    );
}

#[test]
fn backends_are_counted_for_their_own_service() {
    let report = fixture::report();
    for service in &report.services {
        let own = report.backends.iter().filter(|b| b.service == service.name);
        assert_eq!(service.backends.total, own.clone().count(), "{}", service.name);
        let up = own.filter(|b| b.state == BackendState::Up).count();
        assert_eq!(service.backends.up, up, "{}", service.name);
    }
    assert_eq!(report.status.totals.backends.total, report.backends.len());
}

#[test]
fn rates_are_measured_over_the_window() {
    let report = fixture::report();
    assert_eq!(report.window_seconds, Some(10.0));
    let finance = report.services.iter().find(|s| s.name == "finance").unwrap();
    assert_eq!(finance.inbound.packets_per_second, Some(290_000.0));
    assert_eq!(finance.new_flows_per_second, Some(2_900.0));
    assert_eq!(finance.flows, 14_500);
    assert_eq!(report.status.totals.drops_per_second, Some(340.1));
    assert_eq!(report.status.workers[0].busy_ratio, Some(0.31));
    assert_eq!(report.status.workers[0].packets_per_burst, Some(31.0));
    assert_eq!(report.status.workers[1].packets_per_burst, None);
}

#[test]
fn rates_without_a_window_are_unknown() {
    let live = live(1);
    let report = live.reporter.report();
    assert_eq!(report.window_seconds, None);
    assert!(report.services.iter().all(|s| s.new_flows_per_second.is_none()));
    assert_eq!(report.status.totals.drop_ratio, None);
    live.reporter.sample();
    *live.recorder.now.lock().unwrap() = at(3602);
    let report = live.reporter.report();
    assert_eq!(report.window_seconds, Some(2.0));
    assert_eq!(report.services[0].new_flows_per_second, Some(0.0));
}

#[test]
fn totals_count_every_drop_once() {
    let report = fixture::report();
    let of = |reason: DropReason| {
        let drops = &report.status.totals.drops;
        drops
            .iter()
            .find(|drop| drop.reason == reason.name())
            .unwrap()
            .packets_total
    };
    assert_eq!((of(DropReason::NoBackend), of(DropReason::Malformed)), (3400, 1));
    assert_eq!(report.status.totals.drops.len(), DropReason::COUNT);
}

#[test]
fn warnings_are_sorted_worst_first_with_a_next_step() {
    let report = fixture::report();
    let warnings = &report.status.warnings;
    assert_eq!(warnings[0].severity, Severity::Error);
    assert_eq!(warnings[0].text, "service ledger: no backend up");
    assert_eq!(
        warnings[0].next.as_deref(),
        Some("vl3-lb backends --service ledger")
    );
    let codes: Vec<_> = warnings.iter().map(|warning| warning.code.as_str()).collect();
    assert!(
        codes.contains(&"drops") && codes.contains(&"kernel_drops"),
        "{codes:?}"
    );
    let malformed = warnings.iter().find(|warning| warning.text.contains("malformed"));
    assert!(malformed.is_none(), "what clients send is no warning");
}

#[test]
fn every_warning_has_a_subject_a_next_step_and_a_time() {
    let live = live(1);
    let mut directory = fixture::directory();
    directory.problems = vec!["service dns: UDP 53 belongs to service other; left out".to_owned()];
    live.current
        .send_replace(Some(Arc::new(fixture::current(directory))));
    live.reporter.sample();
    live.publisher
        .record(&Err(PublishError::Steer("workers are stuck".into())));
    fixture::count_traffic(&live.recorder);
    *live.recorder.now.lock().unwrap() = at(3700);
    let warnings = live.reporter.report().status.warnings;
    for code in [
        "no_backend_up",
        "drops",
        "kernel_drops",
        "worker_stuck",
        "left_out",
        "publish_failing",
    ] {
        assert!(warnings.iter().any(|warning| warning.code == code), "{code}");
    }
    for warning in &warnings {
        assert!(
            warning.subject.is_some() && warning.since.is_some() && warning.next.is_some(),
            "{warning:?}"
        );
    }
    let left_out = warnings.iter().find(|warning| warning.code == "left_out");
    assert_eq!(left_out.unwrap().subject.as_deref(), Some("service dns"));
}

#[test]
fn collections_that_may_not_be_listed_are_named() {
    let missing = |kind: &str, namespace: Option<&str>, place: &str| Missing {
        kind: kind.to_owned(),
        namespace: namespace.map(str::to_owned),
        place: place.to_owned(),
        reason: Some(format!("list {kind} in {place}: forbidden")),
        since: std::time::SystemTime::UNIX_EPOCH,
    };
    let source = SourceStatus {
        missing: vec![
            missing("pods", Some("api"), "namespace api"),
            missing("nodes", None, "the cluster"),
        ],
        ..fixture::source()
    };
    let report = fixture::live_with(1, source).reporter.report();
    let warnings = report.status.warnings.iter();
    let texts: Vec<_> = warnings
        .filter(|warning| warning.code == "discovery_incomplete")
        .map(|warning| warning.text.as_str())
        .collect();
    assert_eq!(
        texts,
        [
            "list pods in namespace api: forbidden; serving without them",
            "list nodes in the cluster: forbidden; serving without them",
        ]
    );
    let metrics = crate::metrics::render(Arc::new(report), Metrics::default()).unwrap();
    for series in [
        "vl3lb_discovery_missing{source=\"static\",resource=\"pods\",namespace=\"api\"} 1",
        "vl3lb_discovery_missing{source=\"static\",resource=\"nodes\",namespace=\"\"} 1",
    ] {
        assert!(metrics.contains(series), "{series} in {metrics}");
    }
}

#[test]
fn a_new_owner_of_a_slot_starts_at_zero() {
    let live = live(2);
    for stats in live.reporter.dataplane().stats() {
        stats.service(ServiceSlot(0)).inbound.packets.add(500);
        stats.service(ServiceSlot(0)).flows_opened.add(3);
    }
    let mut directory = fixture::directory();
    let baseline = ServiceStats::default();
    for stats in live.reporter.dataplane().stats() {
        baseline.absorb(stats.service(ServiceSlot(0)));
    }
    directory.services[0].as_mut().unwrap().baseline = Some(Arc::new(baseline));
    live.current
        .send_replace(Some(Arc::new(fixture::current(directory))));
    let finance = |report: crate::api::Report| {
        let service = report.services.into_iter().find(|s| s.name == "finance").unwrap();
        (service.inbound.packets_total, service.flows)
    };
    assert_eq!(finance(live.reporter.report()), (0, 0));
    let stats = live.reporter.dataplane();
    stats.stats()[1].service(ServiceSlot(0)).inbound.packets.add(4);
    assert_eq!(finance(live.reporter.report()), (4, 0));
}

#[test]
fn a_reused_name_has_one_series() {
    let live = live(1);
    let mut directory = fixture::directory();
    // finance was removed and drains in slot 0; another finance is in slot 3.
    let mut again = directory.services[0].clone().unwrap();
    directory.services[0].as_mut().unwrap().live = false;
    again.slot = ServiceSlot(3);
    directory.services[3] = Some(again);
    let mut backend = directory.backends[0].clone().unwrap();
    backend.slot = BackendSlot(3);
    backend.service = ServiceSlot(3);
    directory.backends[0].as_mut().unwrap().state = snapshot::BackendState::Draining { since: at(0) };
    directory.backends[3] = Some(backend);
    live.current
        .send_replace(Some(Arc::new(fixture::current(directory))));
    let report = live.reporter.report();
    assert_eq!(report.services.iter().filter(|s| s.name == "finance").count(), 1);
    let backends: Vec<_> = report
        .backends
        .iter()
        .filter(|b| b.service == "finance")
        .collect();
    assert_eq!(backends.len(), 1);
    assert_eq!(backends[0].state, BackendState::Up);
}

#[test]
fn not_ready_says_why() {
    let live = live(1);
    assert_eq!(live.reporter.readiness(), Ok(()));
    let network = |change: fn(&mut NetworkView)| {
        let mut network = fixture::network();
        change(&mut network);
        live.network.send_replace(Some(Arc::new(network)));
        let (reason, status) = (
            live.reporter.readiness().unwrap_err().to_string(),
            live.reporter.report().status,
        );
        assert_eq!(status.not_ready_reason.as_ref(), Some(&reason));
        (reason, status.warnings[0].code.clone())
    };
    for (change, reason, warning) in [
        (
            (|network| *network = NetworkView::absent()) as fn(&mut NetworkView),
            "does not exist: waiting for it",
            "interface_down",
        ),
        (
            |network| network.state = LinkState::Down,
            "is down",
            "interface_down",
        ),
        (
            |network| network.state = LinkState::NoCarrier,
            "has no carrier",
            "interface_down",
        ),
        (
            |network| network.addresses.clear(),
            "no address",
            "interface_down",
        ),
    ] {
        let not_ready = network(change);
        assert!(not_ready.0.contains(reason), "{not_ready:?}");
        assert_eq!(not_ready.1, warning);
    }
    live.network.send_replace(Some(Arc::new(fixture::network())));

    let attachment = live.recorder.attachment.lock().unwrap().take();
    let reason = live.reporter.readiness().unwrap_err().to_string();
    assert_eq!(reason, "attaching to interface nsm-1");
    live.attach_failure
        .send_replace(Some("nsm-1 has no native XDP".into()));
    let reason = live.reporter.readiness().unwrap_err().to_string();
    assert_eq!(reason, "not attached to interface nsm-1: nsm-1 has no native XDP");
    let status = live.reporter.report().status;
    assert_eq!((status.mode, status.interface.mtu), (None, Some(1446)));
    assert_eq!(status.warnings[0].code, "attach_failed");
    assert_eq!(live.reporter.health(), Ok(()));
    *live.recorder.attachment.lock().unwrap() = attachment;

    let mut replaced = fixture::network();
    replaced.index = Some(8);
    live.network.send_replace(Some(Arc::new(replaced.clone())));
    assert!(
        live.reporter
            .readiness()
            .unwrap_err()
            .to_string()
            .contains("was replaced")
    );
    replaced.index = fixture::network().index;
    replaced.addresses = vec!["172.16.1.250".parse().unwrap()];
    live.network.send_replace(Some(Arc::new(replaced)));
    assert!(
        live.reporter
            .readiness()
            .unwrap_err()
            .to_string()
            .contains("not live yet")
    );
    live.network.send_replace(Some(Arc::new(fixture::network())));

    let stats = live.reporter.dataplane();
    stats.stats()[0].generation.set(0);
    assert!(
        live.reporter
            .readiness()
            .unwrap_err()
            .to_string()
            .contains("worker 0")
    );
    stats.stats()[0].generation.set(42);
    live.current.send_replace(None);
    assert!(
        live.reporter
            .readiness()
            .unwrap_err()
            .to_string()
            .contains("no complete set")
    );
    live.reporter.drain();
    assert!(
        live.reporter
            .readiness()
            .unwrap_err()
            .to_string()
            .contains("shutting down")
    );
    assert_eq!(live.reporter.health(), Ok(()));
}

#[test]
fn a_worker_that_does_not_come_round_is_unhealthy() {
    let live = live(2);
    *live.recorder.now.lock().unwrap() = at(3600 + 30);
    assert_eq!(live.reporter.health(), Ok(()));
    *live.recorder.now.lock().unwrap() = at(3600 + 31);
    assert!(
        live.reporter
            .health()
            .unwrap_err()
            .to_string()
            .contains("worker 0")
    );
    live.reporter.dataplane().stats()[0].heartbeat.set(0);
    *live.recorder.now.lock().unwrap() = at(3600);
    assert!(live.reporter.health().is_ok(), "it has only just started");
    live.reporter.dataplane().stats()[0].heartbeat.set(at(3600).0);
    *live.recorder.now.lock().unwrap() = at(3600 + 31);
    let report = live.reporter.report();
    assert_eq!(report.status.warnings[0].code, "worker_stuck");
}

#[test]
fn flows_are_read_in_slices_and_limited() {
    let live = live(2);
    *live.recorder.flows.lock().unwrap() = vec![
        (0..50).map(|number| flow(0, number)).collect(),
        (50..80).map(|number| flow(1, number)).collect(),
    ];
    let names = live.reporter.service_names();
    let first = |filters: &[(&str, &str)], order, limit| {
        let mut filter = FlowFilter::default();
        for (name, value) in filters {
            filter.add(name, value).unwrap();
        }
        let dataplane = live.reporter.dataplane();
        let scan = Scan::new(dataplane, names.clone(), filter, super::WORKER_STUCK);
        let selection = select(scan, order, limit);
        assert!(selection.warnings.is_empty());
        let ports: Vec<_> = selection
            .flows
            .iter()
            .map(|flow| flow.client_port - 40_000)
            .collect();
        (ports, selection.matched)
    };
    assert_eq!(first(&[], FlowOrder::Activity, 3), (vec![0, 1, 2], 80));
    assert_eq!(first(&[], FlowOrder::Age, 2), (vec![79, 78], 80));
    assert_eq!(first(&[("worker", "1")], FlowOrder::Activity, 1), (vec![50], 30));
    assert_eq!(first(&[("service", "dns")], FlowOrder::Activity, 9), (vec![], 0));
    assert_eq!(
        first(&[("nat-port", "31880")], FlowOrder::Activity, 0),
        (vec![], 1)
    );
}

#[test]
fn flows_that_end_early_to_make_room_are_a_warning_before_packets_are_dropped() {
    let live = live(1);
    live.reporter.sample();
    let stats = live.recorder.stats()[0].service(ServiceSlot(0));
    stats.flows_closed[CloseCause::Evicted as usize].add(40);
    *live.recorder.now.lock().unwrap() = at(3602);
    let report = live.reporter.report();
    let warnings = &report.status.warnings;
    let warning = warnings.iter().find(|warning| warning.code == "flows_evicted");
    let warning = warning.expect("a warning");
    assert_eq!(
        warning.text,
        "service finance: 20/s half-open and UDP flows end before their time to make room for new ones"
    );
    assert!(!warnings.iter().any(|warning| warning.code == "drops"));
}

#[test]
fn services_that_share_a_backend_fill_its_ports_together() {
    let live = live(1);
    let mut directory = fixture::directory();
    let first = directory.backends[0].clone().unwrap();
    let other = directory.backends[1].as_mut().unwrap();
    (other.address, other.port, other.service) = (first.address, first.port, first.service);
    let used = [BackendSlot(0), BackendSlot(1)];
    for slot in used {
        live.recorder.stats()[0].backend(slot).nat_ports.set(10_000);
    }
    live.current
        .send_replace(Some(Arc::new(fixture::current(directory))));
    let report = live.reporter.report();
    let filling: Vec<_> = report
        .status
        .warnings
        .iter()
        .filter(|warning| warning.code == "nat_ports_filling")
        .collect();
    assert_eq!(filling.len(), 1, "{filling:?}");
    assert!(
        filling[0].text.starts_with("89% of the NAT ports towards"),
        "{filling:?}"
    );
}
