use vl3lb_common::{BackendSlot, ServiceSlot};

use super::*;

fn flow() -> FlowRecord {
    FlowRecord {
        worker: 1,
        protocol: Protocol::Tcp,
        client: "172.16.1.100".parse().unwrap(),
        client_port: 40_000,
        service_address: "172.16.1.103".parse().unwrap(),
        service_port: 8080,
        nat_port: 31_877,
        backend: "172.16.1.102".parse().unwrap(),
        backend_port: 8081,
        service: ServiceSlot(0),
        backend_slot: BackendSlot(0),
        state: FlowState::Established,
        age_micros: 60_000_000,
        idle_micros: 400_000,
        expires_micros: 3_600_000_000,
        packets_in: 1,
        bytes_in: 90,
        packets_out: 1,
        bytes_out: 90,
        fast: false,
    }
}

fn accepts(filters: &[(&str, &str)]) -> bool {
    let mut filter = FlowFilter::default();
    for (name, value) in filters {
        assert_eq!(filter.add(name, value), Ok(true), "{name} {value}");
    }
    filter.accepts(&flow(), Some("finance"))
}

#[test]
fn each_filter_accepts_exactly_its_values() {
    for (name, hit, miss) in [
        ("service", "finance", "dns"),
        ("service", "fin*", "*s"),
        ("service", "*nan*", "f*x*e"),
        ("backend", "172.16.1.102", "172.16.1.103"),
        ("backend", "172.16.1.102:8081", "172.16.1.102:8080"),
        ("client", "172.16.1.0/24", "172.16.2.0/24"),
        ("client", "172.16.1.100", "172.16.1.101"),
        ("client", "0.0.0.0/0", "::/0"),
        ("port", "8080", "8081"),
        ("nat-port", "31877", "40000"),
        ("proto", "tcp", "UDP"),
        ("state", "established", "half_closed"),
        ("older", "60s", "61s"),
        ("idle", "400ms", "1s"),
        ("worker", "1", "0"),
    ] {
        assert!(accepts(&[(name, hit)]), "{name} {hit}");
        assert!(!accepts(&[(name, miss)]), "{name} {miss}");
        assert!(!accepts(&[(name, &format!("!{hit}"))]), "{name} !{hit}");
        assert!(accepts(&[(name, &format!("!{miss}"))]), "{name} !{miss}");
    }
}

#[test]
fn the_same_filter_means_either_and_different_ones_mean_both() {
    assert!(accepts(&[("state", "opening"), ("state", "established")]));
    assert!(!accepts(&[("state", "established"), ("proto", "UDP")]));
    assert!(!accepts(&[("service", "*"), ("service", "!finance")]));
    assert!(accepts(&[]));
}

#[test]
fn what_cannot_be_understood_is_refused_with_what_is_allowed() {
    for (name, value) in [
        ("state", "open"),
        ("port", "70000"),
        ("client", "10.0.0.0/33"),
        ("client", "ten"),
        ("proto", "DCCP"),
        ("older", "soon"),
        ("worker", "-1"),
        ("backend", "172.16.1.102:99999"),
        ("service", ""),
    ] {
        let error = FlowFilter::default().add(name, value).unwrap_err();
        assert!(error.to_string().starts_with(name), "{error}");
        assert!(error.to_string().contains("allowed"), "{error}");
    }
    assert_eq!(FlowFilter::default().add("colour", "red"), Ok(false));
}

#[test]
fn a_flow_of_a_service_that_is_gone_has_no_name_to_match() {
    let mut filter = FlowFilter::default();
    filter.add("service", "*").unwrap();
    assert!(!filter.accepts(&flow(), None));
}

#[test]
fn names_without_a_wildcard_must_exist() {
    let known = ["finance", "dns"];
    let mut filter = ServiceFilter::default();
    filter.add("service", "fin*").unwrap();
    filter.add("service", "!gone").unwrap();
    filter.add("service", "dns").unwrap();
    assert_eq!(filter.missing(known.into_iter()), None);
    filter.add("service", "finanse").unwrap();
    assert_eq!(filter.missing(known.into_iter()), Some("finanse"));
}

#[test]
fn backends_are_found_by_node() {
    let report = crate::observe::report::fixture::report();
    let on = |node: &str| {
        let mut filter = BackendFilter::default();
        assert_eq!(filter.add("node", node), Ok(true));
        report
            .backends
            .iter()
            .filter(|backend| filter.accepts(backend))
            .count()
    };
    // Two run on nodes, two are of no pod.
    assert_eq!(
        (on("node-1"), on("node-*"), on("!node-1"), on("elsewhere")),
        (1, 2, 3, 0)
    );
}

#[test]
fn the_name_of_several_services_means_all_of_them() {
    for (filter, accepted) in [
        ("web", true),
        ("web@172.16.1.103", true),
        ("w*", true),
        ("web@172.16.1.10", false),
        ("we", false),
        ("!web", false),
        ("!web@172.16.1.104", true),
    ] {
        let mut names = FlowFilter::default();
        names.add("service", filter).unwrap();
        assert_eq!(
            names.accepts(&flow(), Some("web@172.16.1.103")),
            accepted,
            "{filter}"
        );
    }
    let mut names = FlowFilter::default();
    names.add("service", "web").unwrap();
    let known = ["web@172.16.1.103", "web@172.16.1.104"];
    assert_eq!(names.missing(known.into_iter()), None);
    assert!(
        !names.accepts(&flow(), Some("web.shop")),
        "the Service of a namespace has a name of its own"
    );
}
