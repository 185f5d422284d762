//! What each thing about a pod means.

use serde_json::{Value, json};

use super::*;
use crate::discovery::Eligibility;

/// `address:port weight takes` of each backend of the first service, in order, and the problems.
fn backends(services: &str, pods: &[Value]) -> (Vec<String>, Vec<String>) {
    let members: Vec<_> = pods.iter().map(member).collect();
    let collected = selected(services, &members);
    let service = &collected.desired.services[0];
    let mut backends: Vec<_> = service.backends.iter().map(shown).collect();
    backends.sort();
    (backends, collected.problems.into_iter().collect())
}

#[test]
fn the_state_of_a_pod_decides_its_eligibility() {
    let pod = || ready("a", "10.0.0.1");
    let deleted = |pod| with(pod, "/metadata/deletionTimestamp", json!("2026-11-24T09:00:00Z"));
    let phase = |phase: &str| with(pod(), "/status/phase", json!(phase));
    let drain = |value: &str| with(pod(), "/metadata/annotations/vl3-lb.io~1drain", json!(value));
    for (what, pod, eligibility) in [
        ("ready", pod(), Eligibility::NewFlows),
        ("unready", unready(pod()), Eligibility::ExistingFlows),
        (
            "unknown",
            with(pod(), "/status/conditions/0/status", json!("Unknown")),
            Eligibility::ExistingFlows,
        ),
        (
            "without conditions",
            with(pod(), "/status/conditions", json!([])),
            Eligibility::ExistingFlows,
        ),
        (
            "ready in another way",
            with(pod(), "/status/conditions/0/type", json!("ContainersReady")),
            Eligibility::ExistingFlows,
        ),
        ("terminating", deleted(pod()), Eligibility::ExistingFlows),
        (
            "terminating and unready",
            deleted(unready(pod())),
            Eligibility::ExistingFlows,
        ),
        ("failed", phase("Failed"), Eligibility::Dead),
        ("succeeded", phase("Succeeded"), Eligibility::Dead),
        (
            "terminating and finished",
            deleted(phase("Succeeded")),
            Eligibility::ExistingFlows,
        ),
        ("drained", drain("true"), Eligibility::ExistingFlows),
        ("not drained", drain("false"), Eligibility::NewFlows),
        (
            "drained in its own words",
            drain("yes"),
            Eligibility::ExistingFlows,
        ),
    ] {
        assert_eq!(member(&pod).eligibility, eligibility, "{what}");
    }
}

#[test]
fn invalid_annotations_are_reported() {
    let pod = ready("a", "10.0.0.1");
    let pod = with(pod, "/metadata/annotations/vl3-lb.io~1drain", json!("yes"));
    let pod = with(pod, "/metadata/annotations/vl3-lb.io~1weight", json!("1001"));
    assert_eq!(
        backends(FINANCE, &[pod]),
        (
            vec!["10.0.0.1:8081 1 ExistingFlows".to_owned()],
            vec![
                "pod web/a: annotation vl3-lb.io/drain: \"yes\", allowed true, false; taken for true"
                    .to_owned(),
                "pod web/a: annotation vl3-lb.io/weight: \"1001\", allowed 0-1000; taken for 1".to_owned(),
            ]
        )
    );
}

#[test]
fn a_pod_is_a_backup_by_its_annotation() {
    for (text, is_backup, faults) in [("true", true, 0), ("false", false, 0), ("yes", false, 1)] {
        let key = "/metadata/annotations/vl3-lb.io~1backup";
        let pod = read_from(
            &with(ready("a", "10.0.0.1"), key, json!(text)),
            AddressFrom::PodIp,
        );
        assert_eq!((pod.backup, pod.problems.len()), (is_backup, faults), "{text}");
    }
    let pod = with(
        ready("a", "10.0.0.1"),
        "/metadata/annotations/vl3-lb.io~1backup",
        json!("true"),
    );
    let selected = selected(FINANCE, &[member(&pod), member(&ready("b", "10.0.0.2"))]);
    let backups: Vec<_> = selected.desired.services[0]
        .backends
        .iter()
        .map(|backend| backend.backup)
        .collect();
    assert_eq!(backups, [true, false]);
}

#[test]
fn the_weight_is_read_from_its_annotation() {
    for (text, weight) in [
        ("0", 0),
        ("7", 7),
        ("1000", 1000),
        ("-1", 1),
        ("", 1),
        ("heavy", 1),
    ] {
        let pod = with(
            ready("a", "10.0.0.1"),
            "/metadata/annotations/vl3-lb.io~1weight",
            json!(text),
        );
        assert_eq!(member(&pod).weight, weight, "{text}");
    }
}

#[test]
fn both_families_become_backends() {
    let pod = with(
        ready("a", "10.0.0.1"),
        "/status/podIPs",
        json!([{"ip": "10.0.0.1"}, {"ip": "2001:db8::1"}]),
    );
    let expected = ["10.0.0.1:8081 1 NewFlows", "[2001:db8::1]:8081 1 NewFlows"];
    assert_eq!(backends(FINANCE, &[pod]).0, expected);
}

#[test]
fn addresses_come_from_the_configured_place() {
    let networks = r#"[
        {"name": "cbr0", "interface": "eth0", "ips": ["10.0.0.1"], "default": true},
        {"name": "vl3/blue", "interface": "nsm-1", "ips": ["172.16.1.2", "2001:db8::2"]},
        {"name": "vl3/red", "interface": "net2", "ips": ["172.16.2.2"]},
        {"name": "vl3/empty"}
    ]"#;
    let key = "/metadata/annotations/k8s.v1.cni.cncf.io~1network-status";
    let pod = with(ready("a", "10.0.0.1"), key, json!(networks));
    let pod = with(
        pod,
        "/metadata/annotations/vl3.io~1address",
        json!("172.16.3.2, 2001:db8::3,"),
    );
    let network = |name: &str| AddressFrom::NetworkStatus(name.to_owned());
    for (from, addresses) in [
        (AddressFrom::PodIp, &["10.0.0.1"][..]),
        (network("vl3/blue"), &["172.16.1.2", "2001:db8::2"]),
        (network("blue"), &["172.16.1.2", "2001:db8::2"]),
        (network("nsm-1"), &["172.16.1.2", "2001:db8::2"]),
        (network("red"), &["172.16.2.2"]),
        (network("empty"), &[]),
        (network("vl3"), &[]),
        (
            AddressFrom::Annotation("vl3.io/address".to_owned()),
            &["172.16.3.2", "2001:db8::3"],
        ),
        (AddressFrom::Annotation("vl3.io/other".to_owned()), &[]),
    ] {
        let member = read_from(&pod, from.clone());
        let found: Vec<_> = member.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(found, addresses, "{from}");
        let missing = format!("ready, but without address from {from}");
        assert_eq!(member.problems.contains(&missing), addresses.is_empty(), "{from}");
    }
}

#[test]
fn an_invalid_address_is_reported_and_the_others_stay() {
    let key = "/metadata/annotations/a";
    let from = || AddressFrom::Annotation("a".to_owned());
    let pod = with(
        ready("a", "10.0.0.1"),
        key,
        json!("172.16.1.2,172.16.1,::1,172.16.1.2"),
    );
    let member = read_from(&pod, from());
    assert_eq!(member.addresses.len(), 1);
    assert_eq!(
        member.problems,
        [
            "annotation:a: \"172.16.1\" is not a unicast address",
            "annotation:a: \"::1\" is not a unicast address"
        ]
    );
    let status = "/metadata/annotations/k8s.v1.cni.cncf.io~1network-status";
    let pod = with(ready("a", "10.0.0.1"), status, json!("{"));
    let member = read_from(&pod, AddressFrom::NetworkStatus("blue".to_owned()));
    assert!(
        member.problems[0].starts_with("k8s.v1.cni.cncf.io/network-status: "),
        "{member:?}"
    );
}

#[test]
fn a_pod_without_address_is_no_backend_yet() {
    let pod = with(ready("a", ""), "/status", json!({"phase": "Pending"}));
    assert_eq!(backends(FINANCE, &[pod]), (vec![], vec![]));
    let bare = json!({"metadata": {"name": "b", "labels": {"app": "finance"}}});
    assert_eq!(backends(FINANCE, &[bare]), (vec![], vec![]));
}

#[test]
fn a_named_port_is_looked_up_in_each_pod() {
    let service = "{name: finance, port: 5300, protocol: UDP, targetPort: dns, selector: {app: finance}}";
    let port = |name: &str, protocol: Value, number: u32| {
        let port = json!({"name": name, "protocol": protocol, "containerPort": number});
        json!([{"name": "server"}, {"name": "other", "ports": [port]}])
    };
    let pod = |name: &str, ports: Value| {
        with(
            ready(name, &format!("10.0.0.{}", name.len())),
            "/spec/containers",
            ports,
        )
    };
    let sidecar = with(
        ready("aaaa", "10.0.0.4"),
        "/spec/initContainers",
        json!([
            {"name": "once", "ports": [{"name": "dns", "protocol": "UDP", "containerPort": 1}]},
            {"name": "along", "restartPolicy": "Always",
             "ports": [{"name": "dns", "protocol": "UDP", "containerPort": 1053}]},
        ]),
    );
    let (backends, problems) = backends(
        service,
        &[
            pod("a", port("dns", json!("UDP"), 5353)),
            pod("aa", port("dns", json!("TCP"), 5353)),
            pod("aaa", port("dns", json!(null), 5353)),
            sidecar,
            pod("aaaaa", port("dns", json!("UDP"), 70_000)),
            unready(pod("aaaaaa", json!([]))),
        ],
    );
    assert_eq!(backends, ["10.0.0.1:5353 1 NewFlows", "10.0.0.4:1053 1 NewFlows"]);
    let missing =
        |pod| format!("pod web/{pod}: no UDP port named dns, the target port of service finance; left out");
    assert_eq!(problems, ["aa", "aaa", "aaaaa"].map(missing));
}

#[test]
fn the_displayed_port_is_that_of_most_backends() {
    let service = "{name: finance, port: 80, targetPort: http, selector: {app: finance}}";
    let at = |name: &str, address: &str, port: u16| {
        with(
            ready(name, address),
            "/spec/containers/0/ports/0/containerPort",
            json!(port),
        )
    };
    let pods = [
        at("a", "10.0.0.1", 8081),
        at("b", "10.0.0.2", 8082),
        at("c", "10.0.0.3", 8082),
    ];
    for (count, port) in [(0, 80), (1, 8081), (2, 8081), (3, 8082)] {
        let members: Vec<_> = pods[..count].iter().map(member).collect();
        let desired = selected(service, &members).desired;
        assert_eq!(desired.services[0].target_port, port, "{count} pods");
    }
}

#[test]
fn each_service_has_the_pods_that_it_selects() {
    let labelled = |name: &str, address: &str, labels: Value| {
        member(&with(ready(name, address), "/metadata/labels", labels))
    };
    let pods = [
        labelled("a", "10.0.0.1", json!({"app": "finance", "tier": "web"})),
        labelled("b", "10.0.0.2", json!({"app": "finance", "tier": "api"})),
        labelled("c", "10.0.0.3", json!({"app": "ledger"})),
        labelled("d", "10.0.0.4", json!({})),
    ];
    let collected = selected(
        "{name: a, port: 1, selector: {app: finance}}, {name: b, port: 2, selector: 'app=finance,tier!=web'}, \
         {name: c, port: 3, selector: 'tier in (web,api)'}, {name: d, port: 4, selector: '!app'}",
        &pods,
    );
    let desired = collected.desired;
    let hosts = desired.services.iter().map(|service| {
        let mut hosts: Vec<_> = service
            .backends
            .iter()
            .map(|backend| backend.address.to_string())
            .collect();
        hosts.sort();
        hosts.join(" ")
    });
    let expected = ["10.0.0.1 10.0.0.2", "10.0.0.2", "10.0.0.1 10.0.0.2", "10.0.0.4"];
    assert_eq!(hosts.collect::<Vec<_>>(), expected);
    assert!(collected.problems.is_empty());
    assert_eq!(desired.services[1].selector["tier"], "not in (web)");
}

#[test]
fn an_address_belongs_to_the_newest_pod_that_is_alive() {
    let old = || ready("old", "10.0.0.1");
    let new = || {
        with(
            ready("new", "10.0.0.1"),
            "/metadata/creationTimestamp",
            json!("2026-11-24T09:00:00Z"),
        )
    };
    let failed = |pod| with(pod, "/status/phase", json!("Failed"));
    let host = |pod| with(pod, "/spec/hostNetwork", json!(true));
    for (what, pods, expected) in [
        ("the newer", [old(), new()], ["new NewFlows", "old Dead"]),
        (
            "the newer, still starting",
            [old(), unready(new())],
            ["new ExistingFlows", "old Dead"],
        ),
        ("the living", [old(), failed(new())], ["new Dead", "old NewFlows"]),
        (
            "the living newer",
            [failed(old()), new()],
            ["new NewFlows", "old Dead"],
        ),
        (
            "both, on the node's network",
            [host(old()), host(new())],
            ["new NewFlows", "old NewFlows"],
        ),
    ] {
        let mut pods: Vec<_> = pods.iter().map(member).collect();
        for _ in 0..2 {
            pods.reverse();
            let desired = selected(FINANCE, &pods).desired;
            let backends = desired.services[0].backends.iter();
            let mut found: Vec<_> = backends
                .map(|backend| {
                    let uid = backend.instance.as_deref().unwrap();
                    format!("{} {:?}", uid.trim_start_matches("uid-"), backend.eligibility)
                })
                .collect();
            found.sort();
            assert_eq!(found, expected, "{what}");
        }
    }
}

#[test]
fn a_terminating_pod_gets_new_flows_if_no_other_is_ready() {
    let deleted = |pod| with(pod, "/metadata/deletionTimestamp", json!("2026-11-24T09:00:00Z"));
    let drained = |pod| with(pod, "/metadata/annotations/vl3-lb.io~1drain", json!("true"));
    let (a, b) = (ready("a", "10.0.0.1"), ready("b", "10.0.0.2"));
    for (pods, expected) in [
        ([deleted(a.clone()), b.clone()], ["ExistingFlows", "NewFlows"]),
        (
            [deleted(a.clone()), unready(b.clone())],
            ["NewFlows", "ExistingFlows"],
        ),
        ([deleted(a.clone()), deleted(b.clone())], ["NewFlows", "NewFlows"]),
        (
            [deleted(unready(a.clone())), unready(b.clone())],
            ["ExistingFlows", "ExistingFlows"],
        ),
        (
            [drained(deleted(a.clone())), drained(b.clone())],
            ["ExistingFlows", "ExistingFlows"],
        ),
    ] {
        let pods = pods.each_ref().map(member);
        let desired = selected(FINANCE, &pods).desired;
        let backends = desired.services[0].backends.iter();
        let eligibility: Vec<_> = backends
            .map(|backend| format!("{:?}", backend.eligibility))
            .collect();
        assert_eq!(eligibility, expected);
    }
}

#[test]
fn irrelevant_fields_of_a_pod_are_no_change() {
    let pod = ready("a", "10.0.0.1");
    let managed = with(
        pod.clone(),
        "/metadata/managedFields",
        json!([{"manager": "kubelet"}]),
    );
    assert_eq!(member(&pod), member(&managed));
}

#[test]
fn a_backend_names_its_pod_and_node() {
    let placed = with(ready("a", "10.0.0.1"), "/spec/nodeName", json!("worker-1"));
    let pods: Vec<_> = [placed, ready("b", "10.0.0.2")].iter().map(member).collect();
    let desired = selected(FINANCE, &pods).desired;
    let places: Vec<_> = desired.services[0]
        .backends
        .iter()
        .map(|backend| {
            let place = backend.pod.as_ref().unwrap();
            (place.pod.as_str(), place.node.as_deref())
        })
        .collect();
    assert_eq!(places, [("web/a", Some("worker-1")), ("web/b", None)]);
}

#[test]
fn owners_and_dead_pods_are_known_whatever_their_labels() {
    let other =
        |name: &str, address: &str| with(ready(name, address), "/metadata/labels/app", json!("ledger"));
    let failed = |pod| with(pod, "/status/phase", json!("Failed"));
    let pods = [
        ready("a", "10.0.0.1"),
        other("b", "10.0.0.2"),
        failed(ready("failed", "10.0.0.3")),
        // As after an eviction.
        failed(with(other("evicted", ""), "/status/podIPs", json!([]))),
        with(ready("node", "10.0.0.4"), "/spec/hostNetwork", json!(true)),
        ready("displaced", "10.0.0.5"),
        with(
            other("newer", "10.0.0.5"),
            "/metadata/creationTimestamp",
            json!("2026-11-24T09:00:00Z"),
        ),
    ];
    let members: Vec<_> = pods.iter().map(member).collect();
    let collected = selected(FINANCE, &members);
    let instances = &collected.desired.instances;
    let mut owners: Vec<_> = instances
        .owners
        .iter()
        .map(|(address, uid)| format!("{address} {uid}"))
        .collect();
    owners.sort_unstable();
    assert_eq!(
        owners,
        [
            "10.0.0.1 uid-a",
            "10.0.0.2 uid-b",
            "10.0.0.3 uid-failed",
            "10.0.0.5 uid-newer"
        ]
    );
    let mut dead: Vec<_> = instances.dead.iter().map(|uid| &**uid).collect();
    dead.sort_unstable();
    assert_eq!(dead, ["uid-evicted", "uid-failed"]);
    let backends = collected.desired.services[0].backends.iter().map(shown);
    let displaced: Vec<_> = backends
        .filter(|backend| backend.starts_with("10.0.0.5"))
        .collect();
    assert_eq!(
        displaced,
        ["10.0.0.5:8081 1 Dead"],
        "by a pod that no service selects"
    );
}

#[test]
fn the_time_of_a_pod_change_is_that_of_deletion_or_readiness() {
    let pod = with(
        ready("a", "10.0.0.1"),
        "/status/conditions/0/lastTransitionTime",
        json!("2026-11-24T08:00:05Z"),
    );
    let deleted = with(
        pod.clone(),
        "/metadata/deletionTimestamp",
        json!("2026-11-24T09:00:30Z"),
    );
    let deleted = with(deleted, "/metadata/deletionGracePeriodSeconds", json!(30));
    for (pod, time) in [
        (ready("a", "10.0.0.1"), None),
        (pod, Some("2026-11-24T08:00:05Z")),
        (deleted, Some("2026-11-24T09:00:00Z")),
    ] {
        let time = time.map(|time| humantime::parse_rfc3339(time).unwrap());
        assert_eq!(member(&pod).changed, time);
    }
}
