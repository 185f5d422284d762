//! What each thing about the EndpointSlices of a Service means.

use vl3lb_common::Protocol;

use super::declared::{refusals, served};
use super::*;

#[test]
fn conditions_of_endpoints_decide_eligibility() {
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
            "10.0.0.2:8081 1 ExistingFlows",
            "10.0.0.3:8081 1 ExistingFlows",
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
fn the_state_of_a_pod_limits_its_endpoint() {
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
            "10.0.0.1:8081 1 ExistingFlows",
        ),
        (
            "failed",
            vec![with(pod(), "/status/phase", json!("Failed"))],
            "10.0.0.1:8081 1 Dead",
        ),
        (
            "its address is another's",
            vec![pod(), newer],
            "10.0.0.1:8081 1 Dead",
        ),
    ] {
        let slices = [slice("a-1", "a", json!([endpoint("a", "10.0.0.1")]))];
        let collected = served("", &[load_balancer("a", 80)], &slices, &pods);
        let backends = collected.desired.services[0].backends.iter().map(shown);
        assert_eq!(backends.collect::<Vec<_>>(), [backend], "{what}");
    }
}

#[test]
fn terminating_endpoints_get_new_flows_if_no_other_is_ready() {
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
        ("does not serve", ended(), deleted(pod()), "ExistingFlows"),
        ("is unready", unready(), pod(), "ExistingFlows"),
        ("is drained", serves(), drained(deleted(pod())), "ExistingFlows"),
        ("is dead", serves(), failed(pod()), "Dead"),
    ] {
        let eligibility = |endpoints: Vec<Value>| {
            let slices = [slice("a-1", "a", json!(endpoints))];
            let pods = [pod.clone(), ready("b", "10.0.0.2")];
            let collected = served("", &[load_balancer("a", 80)], &slices, &pods);
            format!("{:?}", collected.desired.services[0].backends[0].eligibility)
        };
        assert_eq!(eligibility(vec![endpoint.clone()]), alone, "{what}");
        let with_another = eligibility(vec![endpoint, super::endpoint("b", "10.0.0.2")]);
        let less = if alone == "NewFlows" {
            "ExistingFlows"
        } else {
            alone
        };
        assert_eq!(with_another, less, "{what}, beside one that is ready");
    }
}

#[test]
fn an_endpoint_that_terminates_and_is_ready_serves() {
    let deleted = |pod| with(pod, "/metadata/deletionTimestamp", json!("2026-11-24T09:00:00Z"));
    let drained = |pod| with(pod, "/metadata/annotations/vl3-lb.io~1drain", json!("true"));
    let conditions = json!({"ready": true, "serving": false, "terminating": true});
    for (what, pod, eligibility) in [
        (
            "its pod is deleted",
            deleted(unready(ready("a", "10.0.0.1"))),
            "NewFlows",
        ),
        ("its pod is not", unready(ready("a", "10.0.0.1")), "NewFlows"),
        (
            "its pod is drained",
            drained(deleted(ready("a", "10.0.0.1"))),
            "ExistingFlows",
        ),
    ] {
        // Beside one that does not terminate: it is no last resort.
        let endpoints = json!([
            with(endpoint("a", "10.0.0.1"), "/conditions", conditions.clone()),
            endpoint("b", "10.0.0.2"),
        ]);
        let mut service = load_balancer("a", 80);
        service["spec"]["publishNotReadyAddresses"] = json!(true);
        let pods = [pod, ready("b", "10.0.0.2")];
        let collected = served("", &[service], &[slice("a-1", "a", endpoints)], &pods);
        let backends = &collected.desired.services[0].backends;
        assert_eq!(format!("{:?}", backends[0].eligibility), eligibility, "{what}");
    }
}

#[test]
fn without_pod_ips_a_service_has_the_pods_of_its_selector() {
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
    let known = Inventory {
        pods: pods
            .iter()
            .map(|pod| Arc::new(read_from(pod, address_from())))
            .collect(),
        services: kept::<ServiceRecord>(&[
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
fn zones_come_from_endpoints_else_from_nodes() {
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
    let known = Inventory {
        services: kept::<ServiceRecord>(&[load_balancer("a", 80)]),
        slices: kept::<SliceRecord>(&[slice("a-1", "a", endpoints)]),
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
fn the_time_of_a_slice_change_is_read_from_its_annotation() {
    let at = "2026-11-24T08:00:05Z";
    let slice = slice("a-1", "a", json!([endpoint("a", "10.0.0.1")]));
    let key = "/metadata/annotations/endpoints.kubernetes.io~1last-change-trigger-time";
    let slices = [with(slice, key, json!(at))];
    let collected = served("", &[load_balancer("a", 80)], &slices, &[ready("a", "10.0.0.1")]);
    let changed = collected.desired.services[0].backends[0].changed;
    assert_eq!(changed, Some(humantime::parse_rfc3339(at).unwrap()));
}

/// A name may stand for a port of each protocol.
#[test]
fn endpoints_of_an_sctp_port_are_its_backends() {
    let mut service = load_balancer("a", 80);
    service["spec"]["ports"] = json!([
        {"name": "http", "port": 80, "targetPort": 8081},
        {"name": "diameter", "port": 3868, "protocol": "SCTP", "targetPort": 3869},
    ]);
    let mut slice = slice(
        "a-1",
        "a",
        json!([endpoint("a", "10.0.0.1"), endpoint("b", "10.0.0.2")]),
    );
    slice["ports"] = json!([
        {"name": "http", "protocol": "TCP", "port": 8081},
        {"name": "diameter", "protocol": "SCTP", "port": 3869},
    ]);
    let pods = [ready("a", "10.0.0.1"), ready("b", "10.0.0.2")];
    let collected = served("", &[service], &[slice], &pods);
    assert_eq!(refusals(&collected), Vec::<String>::new());
    let services = &collected.desired.services;
    let [http, diameter] = &services[..] else {
        panic!("{} services", services.len());
    };
    for (service, protocol, expected) in [
        (
            http,
            Protocol::Tcp,
            ["10.0.0.1:8081 1 NewFlows", "10.0.0.2:8081 1 NewFlows"],
        ),
        (
            diameter,
            Protocol::Sctp,
            ["10.0.0.1:3869 1 NewFlows", "10.0.0.2:3869 1 NewFlows"],
        ),
    ] {
        let mut backends: Vec<_> = service.backends.iter().map(shown).collect();
        backends.sort();
        assert_eq!(
            (service.protocol, &backends[..]),
            (protocol, &expected.map(str::to_owned)[..])
        );
    }
}
