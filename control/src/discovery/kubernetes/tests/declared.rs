//! What each thing about a Service and its EndpointSlices means.

use std::num::NonZeroU32;

use vl3lb_common::schedule::Scheduler;
use vl3lb_common::{ClientAddress, Duration, Protocol};

use super::super::locality::Distribution;
use super::*;
use crate::config::{FlowRules, TargetPort, WhenAllDown};
use crate::discovery::Desired;

fn read(service: &Value) -> Option<ServiceRecord> {
    let records = kept::<ServiceRecord>(std::slice::from_ref(service));
    records.first().map(|record| (**record).clone())
}

/// What becomes of Services and slices, with these services in the file.
pub(super) fn served(file: &str, services: &[Value], slices: &[Value], pods: &[Value]) -> Assembled {
    let known = Inventory {
        pods: pods.iter().map(member).collect(),
        services: kept::<ServiceRecord>(services),
        slices: kept::<SliceRecord>(slices),
        nodes: Vec::new(),
    };
    collected(&config("{services: true}", file), &known)
}

/// `name[ host] protocol port`
pub(super) fn names(desired: &Desired) -> Vec<String> {
    let services = desired.services.iter().map(|service| {
        let host = service
            .host
            .iter()
            .map(|host| format!(" {host}"))
            .collect::<String>();
        format!("{}{host} {} {}", service.name, service.protocol, service.port)
    });
    services.collect()
}

/// `namespace/name reason`
pub(super) fn refusals(collected: &Assembled) -> Vec<String> {
    let refused = collected.refused.iter();
    let lines = refused.map(|refused| format!("{}/{} {}", refused.namespace, refused.name, refused.reason));
    lines.collect()
}

fn annotated(service: Value, key: &str, value: &str) -> Value {
    with(
        service,
        &format!("/metadata/annotations/{}", key.replace('/', "~1")),
        json!(value),
    )
}

#[test]
fn class_or_annotation_enable_a_service() {
    let class = || load_balancer("a", 80);
    let other = || with(class(), "/spec/loadBalancerClass", json!("example.com/other"));
    let headless = || service("a", json!({"clusterIP": "None", "ports": [{"port": 80}]}));
    let enabled = |service, value| annotated(service, "vl3-lb.io/enabled", value);
    for (what, service, load_balancer) in [
        ("its class", class(), Some(true)),
        ("its class, disabled", enabled(class(), "false"), None),
        ("another class", other(), None),
        ("another class, enabled", enabled(other(), "true"), Some(false)),
        ("headless", headless(), None),
        ("headless, enabled", enabled(headless(), "true"), Some(false)),
        ("without a spec", json!({"metadata": {"name": "a"}}), None),
    ] {
        let read = read(&service).filter(|declared| declared.refused.is_none());
        assert_eq!(
            read.map(|declared| declared.load_balancer),
            load_balancer,
            "{what}"
        );
    }
}

#[test]
fn a_disabled_service_with_our_status_has_a_stale_status() {
    let marked = |service: Value| {
        let ingress = json!({"loadBalancer": {"ingress": [{"ip": "172.16.1.9"}]}});
        let owners = json!([{"manager": "vl3-lb", "operation": "Apply", "subresource": "status"}]);
        with(
            with(service, "/status", ingress),
            "/metadata/managedFields",
            owners,
        )
    };
    let disabled = |name: &str| annotated(load_balancer(name, 80), "vl3-lb.io/enabled", "false");
    let cleared = with(
        marked(disabled("cleared")),
        "/status/loadBalancer/ingress",
        json!([]),
    );
    let owners = json!([{"manager": "kubectl", "operation": "Update", "subresource": "status"}]);
    let others = with(marked(disabled("others")), "/metadata/managedFields", owners);
    let collected = served(
        "",
        &[
            marked(load_balancer("first", 80)),
            // Another group may serve it.
            annotated(
                marked(load_balancer("second", 80)),
                "finance.lb.vl3-lb.io/ingress",
                "172.16.1.9",
            ),
            marked(disabled("disabled")),
            marked(with(
                load_balancer("unreadable", 81),
                "/spec/loadBalancerSourceRanges",
                json!(["everyone"]),
            )),
            cleared,
            others,
        ],
        &[],
        &[],
    );
    let stale: Vec<_> = collected
        .stale_statuses
        .iter()
        .map(|stale| (stale.name.as_str(), stale.unserved, stale.group_ingress.len()))
        .collect();
    // Another group may serve what only this balancer refuses; its own addresses are withdrawn from there.
    assert_eq!(
        stale,
        [
            ("disabled", true, 0),
            ("second", false, 1),
            ("unreadable", true, 0)
        ]
    );
    assert_eq!(collected.desired.services.len(), 1);
    assert!(
        refusals(&collected)
            .iter()
            .all(|refused| !refused.contains("disabled"))
    );
}

#[test]
fn settings_of_a_service_are_read() {
    let mut service = load_balancer("a", 80);
    service["spec"]["sessionAffinity"] = json!("ClientIP");
    service["spec"]["loadBalancerSourceRanges"] = json!([" 10.1.0.0/8"]);
    let plain = read(&service).unwrap();
    assert_eq!(plain.affinity, Duration::from_secs(10_800), "the API's default");
    assert_eq!(
        (plain.scheduler, plain.drain),
        (Scheduler::Maglev, Duration::from_secs(60))
    );
    assert_eq!(plain.source_ranges, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(plain.ports[0].target, TargetPort::Number(8081));

    service["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 60}});
    service["spec"]["ports"] =
        json!([{"port": 53, "protocol": "UDP", "name": "dns", "targetPort": "dns-udp"}]);
    let service = annotated(service, "vl3-lb.io/scheduler", "least-connections");
    let service = annotated(service, "vl3-lb.io/client-address", "proxyV2First");
    let read = read(&annotated(service, "vl3-lb.io/drain", "5m")).unwrap();
    assert_eq!(plain.client_address_of(Protocol::Udp), ClientAddress::None);
    assert_eq!(read.client_address_of(Protocol::Udp), ClientAddress::ProxyV2First);
    assert_eq!(read.client_address_of(Protocol::Tcp), ClientAddress::None);
    assert_eq!(read.notes, []);
    assert_eq!(read.affinity, Duration::from_secs(60));
    assert_eq!(read.scheduler, Scheduler::LeastConnections);
    assert_eq!(read.drain, Duration::from_secs(300));
    let port = &read.ports[0];
    assert_eq!((port.protocol, port.port), (Protocol::Udp, 53));
    assert_eq!(port.target, TargetPort::Name("dns-udp".to_owned()));
    assert!(read.notes.is_empty() && read.refused.is_none(), "{read:?}");
}

#[test]
fn traffic_policies_and_distribution_set_the_preference() {
    for (spec, distribution) in [
        (json!({}), Distribution::AsConfigured),
        (json!({"trafficDistribution": "PreferClose"}), Distribution::Zone),
        (
            json!({"trafficDistribution": "PreferSameZone"}),
            Distribution::Zone,
        ),
        (
            json!({"trafficDistribution": "PreferSameNode"}),
            Distribution::Node,
        ),
        (json!({"externalTrafficPolicy": "Local"}), Distribution::LocalOnly),
        (
            json!({"externalTrafficPolicy": "Cluster"}),
            Distribution::AsConfigured,
        ),
        (
            json!({"internalTrafficPolicy": "Local"}),
            Distribution::AsConfigured,
        ),
        (
            json!({"type": "ClusterIP", "internalTrafficPolicy": "Local"}),
            Distribution::LocalOnly,
        ),
    ] {
        let mut service = load_balancer("a", 80);
        for (key, value) in spec.as_object().unwrap() {
            service["spec"][key] = value.clone();
        }
        assert_eq!(read(&service).unwrap().distribution, distribution, "{spec}");
    }
}

#[test]
fn each_of_several_ports_is_a_service_with_a_common_host() {
    let mut service = load_balancer("a", 80);
    service["spec"]["ports"] = json!([
        {"name": "http", "port": 80},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "diameter", "port": 3868, "protocol": "SCTP"},
        {"name": "dccp", "port": 9, "protocol": "DCCP"},
    ]);
    let collected = served("", &[service], &[], &[]);
    // The balancer answers DNS questions itself.
    assert_eq!(
        names(&collected.desired),
        ["a-http a TCP 80", "a-diameter a SCTP 3868"]
    );
    assert_eq!(
        refusals(&collected),
        ["web/a UnsupportedProtocol", "web/a PortConflict"]
    );
    assert_eq!(
        collected.refused[0].message,
        "port 9: DCCP, allowed TCP, UDP, SCTP"
    );
    assert_eq!(
        collected.refused[1].message,
        "UDP 53 belongs to the DNS server (dns.listen)"
    );
    assert_eq!(collected.accepted[0].services, ["a-http", "a-diameter"]);
    assert_eq!(
        collected.desired.problems[0],
        "Service web/a: port 9: DCCP, allowed TCP, UDP, SCTP"
    );
}

#[test]
fn the_health_check_of_a_service_is_read_from_its_annotation() {
    let mut service = load_balancer("a", 80);
    service["spec"]["ports"] = json!([{"port": 80}, {"port": 53, "protocol": "UDP", "name": "dns"}]);
    let checks = |service: &Value, by_default| {
        let read = read(service).unwrap();
        let ports = read.ports.iter();
        let kinds = ports.map(|port| {
            let check = read.health_check(port, by_default)?;
            Some((check.kind.name(), check.kind.port(), check.fall))
        });
        (kinds.collect::<Vec<_>>(), read.notes)
    };
    let annotated = |text: &str| annotated(service.clone(), "vl3-lb.io/health-check", text);
    assert_eq!(checks(&service, false).0, [None, None]);
    assert_eq!(checks(&service, true).0, [Some(("tcp", None, 3)), None]);
    let http = annotated("{http: {path: /healthz, port: 8080}, fall: 1}");
    let of_both = [Some(("http", Some(8080), 1)); 2];
    assert_eq!(checks(&http, false), (of_both.to_vec(), Vec::new()));
    let off = annotated("off");
    assert_eq!(checks(&off, true), (vec![None, None], Vec::new()));
    let (kinds, notes) = checks(&annotated("udp: {payload: PING}"), true);
    assert_eq!(kinds, [None, Some(("udp", None, 3))]);
    assert_eq!(
        notes[0].message,
        "annotation vl3-lb.io/health-check: its check needs a port for port TCP 80, whose backends are not checked"
    );
    let (kinds, notes) = checks(&annotated("http: {path: x}"), true);
    assert_eq!(kinds, [Some(("tcp", None, 3)), None]);
    assert_eq!(
        notes[0].message,
        "annotation vl3-lb.io/health-check: healthCheck.http.path: x, allowed a path such as /healthz, at most 1024 \
         letters; its default holds"
    );
}

#[test]
fn the_rules_for_new_flows_are_read_from_annotations() {
    let mut service = load_balancer("a", 80);
    service["spec"]["ports"] = json!([{"port": 80}, {"port": 53, "protocol": "UDP", "name": "dns"}]);
    for (key, text) in [
        ("slow-start", "30s"),
        ("max-flows-per-backend", "1000"),
        ("when-all-down", "fail-open"),
        ("passive-check", "{failures: 2, holdOff: 5s}"),
    ] {
        service = annotated(service, &format!("vl3-lb.io/{key}"), text);
    }
    let record = read(&service).unwrap();
    assert_eq!(record.notes, []);
    let [tcp, udp] = [0, 1].map(|port| record.rules(&record.ports[port]));
    assert_eq!(tcp.slow_start, Duration::from_secs(30));
    assert_eq!(tcp.max_flows_per_backend, NonZeroU32::new(1000));
    assert_eq!(tcp.when_all_down, WhenAllDown::FailOpen);
    let passive = tcp.passive_check.clone().unwrap();
    assert_eq!((passive.failures, passive.hold_off), (2, Duration::from_secs(5)));
    assert_eq!(udp.passive_check, None);
    assert_eq!(udp.slow_start, tcp.slow_start);
    for (key, text) in [
        ("slow-start", "2h"),
        ("max-flows-per-backend", "0"),
        ("when-all-down", "open"),
        ("passive-check", "5"),
    ] {
        let faulty = annotated(load_balancer("a", 80), &format!("vl3-lb.io/{key}"), text);
        let record = read(&faulty).unwrap();
        assert_eq!(record.notes.len(), 1, "{key}");
        assert_eq!(record.rules(&record.ports[0]), FlowRules::default(), "{key}");
    }
}

#[test]
fn unsupported_settings_are_refused_with_a_reason() {
    let class = || load_balancer("a", 80);
    let with_spec = |key: &str, value: Value| with(class(), &format!("/spec/{key}"), value);
    for (service, reasons, is_served) in [
        (
            annotated(class(), "vl3-lb.io/enabled", "yes"),
            &["InvalidAnnotation"][..],
            false,
        ),
        (
            with_spec("type", json!("ExternalName")),
            &["UnsupportedType"],
            false,
        ),
        (with_spec("ports", json!([])), &["NoPorts"], false),
        (
            with_spec("loadBalancerSourceRanges", json!(["10.0.0.0/8", "10.0.0.0/33"])),
            &["InvalidSourceRange"],
            false,
        ),
        (
            with_spec("ports", json!([{"port": 80, "protocol": "DCCP"}])),
            &["UnsupportedProtocol", "NoPorts"],
            false,
        ),
        (
            annotated(class(), "vl3-lb.io/scheduler", "best"),
            &["InvalidAnnotation"],
            true,
        ),
        (
            annotated(class(), "vl3-lb.io/client-address", "proxyV1"),
            &["InvalidAnnotation"],
            true,
        ),
        (
            annotated(class(), "vl3-lb.io/client-address", "proxyV2First"),
            &["InvalidAnnotation"],
            true,
        ),
        (
            annotated(class(), "vl3-lb.io/drain", "long"),
            &["InvalidAnnotation"],
            true,
        ),
        (
            annotated(class(), "vl3-lb.io/health-check", "http: {path: x}"),
            &["InvalidAnnotation"],
            true,
        ),
        (
            annotated(class(), "vl3-lb.io/health-check", "udp: {payload: PING}"),
            &["InvalidAnnotation"],
            true,
        ),
        (
            with_spec("externalTrafficPolicy", json!("Local")),
            &["NodeUnknown"],
            false,
        ),
        (
            with_spec("trafficDistribution", json!("PreferClose")),
            &["ZoneUnknown"],
            true,
        ),
        (
            with_spec("trafficDistribution", json!("PreferMoon")),
            &["UnsupportedTrafficDistribution"],
            true,
        ),
        (
            with(
                with_spec(
                    "ports",
                    json!([{"name": "p".repeat(15), "port": 1}, {"name": "q", "port": 2}]),
                ),
                "/metadata/name",
                json!("n".repeat(63)),
            ),
            &["NameTooLong"],
            false,
        ),
    ] {
        let collected = served("", std::slice::from_ref(&service), &[], &[]);
        let found: Vec<_> = collected.refused.iter().map(|refused| refused.reason).collect();
        assert_eq!(found, reasons, "{service}");
        assert_eq!(!collected.desired.services.is_empty(), is_served, "{service}");
        assert_eq!(!collected.accepted.is_empty(), is_served, "{service}");
    }
}

#[test]
fn the_file_takes_precedence_then_the_older_service() {
    let at = |name: &str, port: u16, namespace: &str, created: &str| {
        let service = with(load_balancer(name, port), "/metadata/namespace", json!(namespace));
        with(service, "/metadata/creationTimestamp", json!(created))
    };
    let services = [
        at("finance", 1, "web", "2026-11-24T01:00:00Z"),
        at("ported", 8080, "web", "2026-11-24T01:00:00Z"),
        at("twice", 3, "web", "2026-11-24T03:00:00Z"),
        at("twice", 2, "api", "2026-11-24T02:00:00Z"),
        at("late", 2, "web", "2026-11-24T04:00:00Z"),
    ];
    let mut reversed = services.clone();
    reversed.reverse();
    for services in [services, reversed] {
        let collected = served(FINANCE, &services, &[], &[]);
        // A name that is taken gets the namespace.
        assert_eq!(
            names(&collected.desired),
            [
                "finance TCP 8080",
                "twice TCP 2",
                "finance.web TCP 1",
                "twice.web TCP 3"
            ]
        );
        let accepted = collected.accepted.iter();
        let accepted: Vec<_> = accepted
            .map(|accepted| (accepted.namespace.as_str(), &*accepted.services))
            .collect();
        assert_eq!(
            accepted,
            [
                ("api", &["twice".to_owned()][..]),
                ("web", &["finance.web".to_owned()]),
                ("web", &["twice.web".to_owned()])
            ]
        );
        assert_eq!(
            refusals(&collected),
            [
                "web/late PortConflict",
                "web/late NoPorts",
                "web/ported PortConflict",
                "web/ported NoPorts",
            ]
        );
        assert_eq!(
            collected.refused[2].message,
            "TCP 8080 belongs to service finance of the configuration file"
        );
    }
}
