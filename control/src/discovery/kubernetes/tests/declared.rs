//! What each thing about a Service and its EndpointSlices means.

use vl3lb_common::schedule::Scheduler;
use vl3lb_common::{Duration, Protocol};

use super::super::locality::Nearness;
use super::*;
use crate::config::TargetPort;
use crate::discovery::Desired;

fn read(service: &Value) -> Option<Declared> {
    let declared = kept::<Declared>(std::slice::from_ref(service));
    declared.first().map(|declared| (**declared).clone())
}

/// What becomes of Services and slices, with these services in the file.
fn served(file: &str, services: &[Value], slices: &[Value], pods: &[Value]) -> Collected {
    let known = Known {
        pods: pods.iter().map(member).collect(),
        services: kept::<Declared>(services),
        slices: kept::<Slice>(slices),
        nodes: Vec::new(),
    };
    collected(&config("{services: true}", file), &known)
}

/// `name[ host] protocol port`
fn names(desired: &Desired) -> Vec<String> {
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
fn refusals(collected: &Collected) -> Vec<String> {
    let refused = collected.refused.iter();
    let told = refused.map(|refused| format!("{}/{} {}", refused.namespace, refused.name, refused.reason));
    told.collect()
}

fn annotated(service: Value, key: &str, value: &str) -> Value {
    with(
        service,
        &format!("/metadata/annotations/{}", key.replace('/', "~1")),
        json!(value),
    )
}

#[test]
fn a_service_is_served_if_its_class_or_an_annotation_says_so() {
    let class = || load_balancer("a", 80);
    let other = || with(class(), "/spec/loadBalancerClass", json!("example.com/other"));
    let headless = || service("a", json!({"clusterIP": "None", "ports": [{"port": 80}]}));
    let enabled = |service, value| annotated(service, "vl3-lb.io/enabled", value);
    for (what, service, load_balancer) in [
        ("its class", class(), Some(true)),
        ("its class, not wanted", enabled(class(), "false"), None),
        ("another class", other(), None),
        ("another class, wanted", enabled(other(), "true"), Some(false)),
        ("headless", headless(), None),
        ("headless, wanted", enabled(headless(), "true"), Some(false)),
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
fn a_service_that_is_served_no_more_and_has_our_status_is_left() {
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
            marked(load_balancer("served", 80)),
            // Another group may serve it.
            marked(load_balancer("refused", 80)),
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
    let left: Vec<_> = collected.left.iter().map(|left| left.name.as_str()).collect();
    assert_eq!(left, ["disabled", "unreadable"]);
    assert_eq!(collected.desired.services.len(), 1);
    assert!(
        refusals(&collected)
            .iter()
            .all(|refused| !refused.contains("disabled"))
    );
}

#[test]
fn what_a_service_asks_for_is_read() {
    let mut asked = load_balancer("a", 80);
    asked["spec"]["sessionAffinity"] = json!("ClientIP");
    asked["spec"]["loadBalancerSourceRanges"] = json!([" 10.1.0.0/8"]);
    let plain = read(&asked).unwrap();
    assert_eq!(plain.affinity, Duration::from_secs(10_800), "the API's default");
    assert_eq!(
        (plain.scheduler, plain.drain),
        (Scheduler::Maglev, Duration::from_secs(60))
    );
    assert_eq!(plain.source_ranges, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(plain.ports[0].target, TargetPort::Number(8081));

    asked["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 60}});
    asked["spec"]["ports"] = json!([{"port": 53, "protocol": "UDP", "name": "dns", "targetPort": "dns-udp"}]);
    let asked = annotated(asked, "vl3-lb.io/scheduler", "least-connections");
    let read = read(&annotated(asked, "vl3-lb.io/drain", "5m")).unwrap();
    assert_eq!(read.affinity, Duration::from_secs(60));
    assert_eq!(read.scheduler, Scheduler::LeastConnections);
    assert_eq!(read.drain, Duration::from_secs(300));
    let port = &read.ports[0];
    assert_eq!((port.protocol, port.port), (Protocol::Udp, 53));
    assert_eq!(port.target, TargetPort::Name("dns-udp".to_owned()));
    assert!(read.noted.is_empty() && read.refused.is_none(), "{read:?}");
}

#[test]
fn policies_and_distribution_say_how_near_backends_are() {
    for (spec, nearness) in [
        (json!({}), Nearness::AsConfigured),
        (json!({"trafficDistribution": "PreferClose"}), Nearness::Zone),
        (json!({"trafficDistribution": "PreferSameZone"}), Nearness::Zone),
        (json!({"trafficDistribution": "PreferSameNode"}), Nearness::Node),
        (json!({"externalTrafficPolicy": "Local"}), Nearness::OnlyNode),
        (
            json!({"externalTrafficPolicy": "Cluster"}),
            Nearness::AsConfigured,
        ),
        (json!({"internalTrafficPolicy": "Local"}), Nearness::AsConfigured),
        (
            json!({"type": "ClusterIP", "internalTrafficPolicy": "Local"}),
            Nearness::OnlyNode,
        ),
    ] {
        let mut service = load_balancer("a", 80);
        for (key, value) in spec.as_object().unwrap() {
            service["spec"][key] = value.clone();
        }
        assert_eq!(read(&service).unwrap().nearness, nearness, "{spec}");
    }
}

#[test]
fn several_ports_have_names_of_their_own_and_one_in_common() {
    let mut service = load_balancer("a", 80);
    service["spec"]["ports"] = json!([
        {"name": "http", "port": 80},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "sctp", "port": 9, "protocol": "SCTP"},
    ]);
    let collected = served("", &[service], &[], &[]);
    // The balancer answers DNS questions itself.
    assert_eq!(names(&collected.desired), ["a-http a TCP 80"]);
    assert_eq!(
        refusals(&collected),
        ["web/a UnsupportedProtocol", "web/a PortConflict"]
    );
    assert_eq!(collected.refused[0].message, "port 9: SCTP, allowed TCP, UDP");
    assert_eq!(
        collected.refused[1].message,
        "UDP 53 is that of the DNS server (dns.listen)"
    );
    assert_eq!(collected.accepted[0].services, ["a-http"]);
    assert_eq!(
        collected.desired.problems[0],
        "Service web/a: port 9: SCTP, allowed TCP, UDP"
    );
}

#[test]
fn what_cannot_be_done_is_refused_with_its_reason() {
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
            with_spec("ports", json!([{"port": 80, "protocol": "SCTP"}])),
            &["UnsupportedProtocol", "NoPorts"],
            false,
        ),
        (
            annotated(class(), "vl3-lb.io/scheduler", "best"),
            &["InvalidAnnotation"],
            true,
        ),
        (
            annotated(class(), "vl3-lb.io/drain", "long"),
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
fn the_file_wins_then_the_older_service() {
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
        assert_eq!(names(&collected.desired), ["finance TCP 8080", "twice TCP 2"]);
        assert_eq!(collected.accepted.len(), 1);
        assert_eq!(collected.accepted[0].namespace, "api");
        assert_eq!(
            refusals(&collected),
            [
                "web/finance NameConflict",
                "web/ported PortConflict",
                "web/ported NoPorts",
                "web/twice NameConflict",
                "web/late PortConflict",
                "web/late NoPorts",
            ]
        );
        let told: Vec<_> = collected
            .refused
            .iter()
            .map(|refused| refused.message.as_str())
            .collect();
        assert_eq!(
            told[0],
            "the name finance is that of a service of the configuration file"
        );
        assert_eq!(
            told[1],
            "TCP 8080 is that of service finance of the configuration file"
        );
        assert_eq!(told[3], "the name twice is that of Service api/twice");
    }
}

#[test]
fn endpoints_become_backends_as_they_say() {
    let with_conditions =
        |pod: &str, address: &str, conditions: Value| with(endpoint(pod, address), "/conditions", conditions);
    let first = slice(
        "a-1",
        "a",
        json!([
            endpoint("a", "10.0.0.1"),
            with_conditions("b", "10.0.0.2", json!({"ready": false, "serving": false})),
            with_conditions("c", "10.0.0.3", json!({"ready": false, "serving": true, "terminating": true})),
            with_conditions("d", "10.0.0.4", json!({})),
            {"addresses": ["10.0.0.5", "10.0.0.6"]},
            endpoint("gone", "10.0.0.10"),
            {"addresses": ["not-an-address"]},
        ]),
    );
    let mut second = slice("a-2", "a", json!([endpoint("f", "2001:db8::7")]));
    second["addressType"] = json!("IPv6");
    second["ports"] = json!([{"port": 9090, "name": ""}, {"port": 1, "name": "other"}]);
    let mut others = slice("b-1", "b", json!([endpoint("g", "10.0.0.8")]));
    others["ports"] = json!([]);
    let elsewhere = with(
        slice("a-3", "a", json!([endpoint("h", "10.0.0.9")])),
        "/metadata/namespace",
        json!("api"),
    );
    let collected = served(
        "",
        &[load_balancer("a", 80)],
        &[first, second, others, elsewhere],
        &[
            ready("a", "10.0.0.1"),
            ready("b", "10.0.0.2"),
            ready("c", "10.0.0.3"),
            ready("d", "10.0.0.4"),
            ready("f", "2001:db8::7"),
        ],
    );
    let service = &collected.desired.services[0];
    let mut backends: Vec<_> = service.backends.iter().map(shown).collect();
    backends.sort();
    assert_eq!(
        backends,
        [
            "10.0.0.1:8081 1 NewFlows",
            "10.0.0.2:8081 1 OldFlows",
            "10.0.0.3:8081 1 OldFlows",
            "10.0.0.4:8081 1 NewFlows",
            "10.0.0.5:8081 1 NewFlows",
            "[2001:db8::7]:9090 1 NewFlows",
        ]
    );
    let by_address = |address: &str| {
        let mut backends = service.backends.iter();
        backends
            .find(|backend| backend.address.to_string() == address)
            .unwrap()
    };
    assert_eq!(by_address("10.0.0.1").instance.as_deref(), Some("uid-a"));
    assert_eq!(by_address("10.0.0.1").pod.as_ref().unwrap().pod, "web/a");
    assert_eq!(by_address("10.0.0.5").instance, None, "no pod");
}

#[test]
fn what_a_pod_says_of_itself_counts_beside_its_endpoint() {
    let pod = || ready("a", "10.0.0.1");
    let annotated = |key: &str, value: &str| {
        with(
            pod(),
            &format!("/metadata/annotations/vl3-lb.io~1{key}"),
            json!(value),
        )
    };
    let newer = with(
        with(ready("b", "10.0.0.1"), "/metadata/labels", json!({})),
        "/metadata/creationTimestamp",
        json!("2026-11-24T09:00:00Z"),
    );
    for (what, pods, backend) in [
        ("ready", vec![pod()], "10.0.0.1:8081 1 NewFlows"),
        // Perhaps the Service publishes addresses that are not ready.
        ("unready", vec![unready(pod())], "10.0.0.1:8081 1 NewFlows"),
        (
            "weighted",
            vec![annotated("weight", "7")],
            "10.0.0.1:8081 7 NewFlows",
        ),
        (
            "drained",
            vec![annotated("drain", "true")],
            "10.0.0.1:8081 1 OldFlows",
        ),
        (
            "failed",
            vec![with(pod(), "/status/phase", json!("Failed"))],
            "10.0.0.1:8081 1 Nothing",
        ),
        (
            "its address is another's",
            vec![pod(), newer],
            "10.0.0.1:8081 1 Nothing",
        ),
    ] {
        let slices = [slice("a-1", "a", json!([endpoint("a", "10.0.0.1")]))];
        let collected = served("", &[load_balancer("a", 80)], &slices, &pods);
        let backends = collected.desired.services[0].backends.iter().map(shown);
        assert_eq!(backends.collect::<Vec<_>>(), [backend], "{what}");
    }
}

#[test]
fn endpoints_that_serve_until_they_end_get_new_flows_if_no_other_one_is_ready() {
    let deleted = |pod| with(pod, "/metadata/deletionTimestamp", json!("2026-11-24T09:00:00Z"));
    let drained = |pod| with(pod, "/metadata/annotations/vl3-lb.io~1drain", json!("true"));
    let failed = |pod| with(pod, "/status/phase", json!("Failed"));
    let pod = || ready("a", "10.0.0.1");
    let says = |conditions: Value| with(endpoint("a", "10.0.0.1"), "/conditions", conditions);
    let serves = || says(json!({"ready": false, "serving": true, "terminating": true}));
    let ended = || says(json!({"ready": false, "serving": false, "terminating": true}));
    let unready = || says(json!({"ready": false, "serving": false, "terminating": false}));
    for (what, endpoint, pod, alone) in [
        ("serves", serves(), deleted(pod()), "NewFlows"),
        (
            "serves, and nobody else knows it yet",
            serves(),
            pod(),
            "NewFlows",
        ),
        (
            "is deleted, and only the pod knows it",
            says(json!({"ready": true})),
            deleted(pod()),
            "NewFlows",
        ),
        ("does not serve", ended(), deleted(pod()), "OldFlows"),
        ("is unready", unready(), pod(), "OldFlows"),
        ("is drained", serves(), drained(deleted(pod())), "OldFlows"),
        ("is dead", serves(), failed(pod()), "Nothing"),
    ] {
        let takes = |endpoints: Vec<Value>| {
            let slices = [slice("a-1", "a", json!(endpoints))];
            let pods = [pod.clone(), ready("b", "10.0.0.2")];
            let collected = served("", &[load_balancer("a", 80)], &slices, &pods);
            format!("{:?}", collected.desired.services[0].backends[0].takes)
        };
        assert_eq!(takes(vec![endpoint.clone()]), alone, "{what}");
        let with_another = takes(vec![endpoint, super::endpoint("b", "10.0.0.2")]);
        let less = if alone == "NewFlows" { "OldFlows" } else { alone };
        assert_eq!(with_another, less, "{what}, beside one that is ready");
    }
}

#[test]
fn with_other_addresses_than_pod_ips_a_service_has_the_pods_that_it_selects() {
    let at = |name: &str, namespace: &str, address: &str| {
        let pod = with(
            ready(name, "10.0.0.1"),
            "/metadata/annotations/vl3~1address",
            json!(address),
        );
        with(pod, "/metadata/namespace", json!(namespace))
    };
    let address_from = || AddressFrom::Annotation("vl3/address".to_owned());
    let pods = [at("a", "web", "172.16.1.2"), at("b", "api", "172.16.1.3")];
    let mut without = load_balancer("without", 81);
    without["spec"]["selector"] = json!(null);
    let known = Known {
        pods: pods
            .iter()
            .map(|pod| Arc::new(read_from(pod, address_from())))
            .collect(),
        services: kept::<Declared>(&[
            with(
                load_balancer("a", 80),
                "/spec/publishNotReadyAddresses",
                json!(true),
            ),
            without,
        ]),
        slices: Vec::new(),
        nodes: Vec::new(),
    };
    let config = config(
        "{services: true, namespaces: all, addressFrom: 'annotation:vl3/address'}",
        "",
    );
    let collected = collected(&config, &known);
    let backends = collected.desired.services[0].backends.iter().map(shown);
    assert_eq!(
        backends.collect::<Vec<_>>(),
        ["172.16.1.2:8081 1 NewFlows"],
        "its own namespace's"
    );
    assert_eq!(collected.desired.services.len(), 1);
    assert_eq!(
        refusals(&collected),
        ["web/a NotReadyAddresses", "web/without NoSelector"]
    );
}

#[test]
fn zones_are_those_of_endpoints_or_else_of_nodes() {
    let env = |name: &str| (name == "NODE_NAME").then(|| "worker-1".to_owned());
    let config = config_at("{services: true, topology: {prefer: zone}}", "", &env);
    let node = |name: &str, zone: &str| json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}});
    let on = |pod: &str, address: &str, key: &str, value: &str| {
        with(endpoint(pod, address), &format!("/{key}"), json!(value))
    };
    let endpoints = json!([
        on("a", "10.0.0.1", "zone", "east"),
        on("b", "10.0.0.2", "zone", "west"),
        on("c", "10.0.0.3", "nodeName", "worker-2"),
        on("d", "10.0.0.4", "nodeName", "worker-3"),
    ]);
    let pods = [
        ("a", "10.0.0.1"),
        ("b", "10.0.0.2"),
        ("c", "10.0.0.3"),
        ("d", "10.0.0.4"),
    ]
    .map(|(name, address)| member(&ready(name, address)));
    let known = Known {
        services: kept::<Declared>(&[load_balancer("a", 80)]),
        slices: kept::<Slice>(&[slice("a-1", "a", endpoints)]),
        nodes: kept(&[
            node("worker-1", "east"),
            node("worker-2", "east"),
            node("worker-3", "west"),
        ]),
        pods: pods.to_vec(),
    };
    let collected = collected(&config, &known);
    let weights = collected.desired.services[0]
        .backends
        .iter()
        .map(|backend| backend.weight);
    assert_eq!(weights.collect::<Vec<_>>(), [1, 0, 1, 0]);
}

#[test]
fn when_a_slice_changed_is_an_annotation() {
    let at = "2026-11-24T08:00:05Z";
    let slice = slice("a-1", "a", json!([endpoint("a", "10.0.0.1")]));
    let key = "/metadata/annotations/endpoints.kubernetes.io~1last-change-trigger-time";
    let slices = [with(slice, key, json!(at))];
    let collected = served("", &[load_balancer("a", 80)], &slices, &[ready("a", "10.0.0.1")]);
    let changed = collected.desired.services[0].backends[0].changed;
    assert_eq!(changed, Some(humantime::parse_rfc3339(at).unwrap()));
}
