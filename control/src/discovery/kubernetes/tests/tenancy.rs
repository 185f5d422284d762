//! Namespaces that share a balancer: whose pods are backends, which addresses they may claim, and their quotas.

use super::declared::refusals;
use super::*;

/// An object in another namespace.
fn in_namespace(object: Value, namespace: &str) -> Value {
    with(object, "/metadata/namespace", json!(namespace))
}

/// A pod on a node with the address 172.16.1.50, which claims `addresses` by an annotation.
fn claiming(name: &str, namespace: &str, created: &str, addresses: &str) -> Value {
    let pod = in_namespace(ready(name, "10.0.9.9"), namespace);
    let pod = with(pod, "/status/hostIP", json!("172.16.1.50"));
    let pod = with(pod, "/metadata/creationTimestamp", json!(created));
    with(pod, "/metadata/annotations/vl3~1address", json!(addresses))
}

/// The set for pods with the addresses of an annotation.
fn annotated(kubernetes: &str, services: &str, pods: &[Value]) -> Assembled {
    let from = AddressFrom::Annotation("vl3/address".to_owned());
    let known = Inventory {
        pods: pods
            .iter()
            .map(|pod| Arc::new(read_from(pod, from.clone())))
            .collect(),
        ..Inventory::default()
    };
    let kubernetes = format!("{{addressFrom: 'annotation:vl3/address', {kubernetes}}}");
    collected(&config(&kubernetes, services), &known)
}

/// Addresses of the first service's backends that are not dead, sorted.
fn live(assembled: &Assembled) -> Vec<String> {
    let backends = assembled.desired.services[0].backends.iter();
    let live = backends.filter(|backend| backend.eligibility != crate::discovery::Eligibility::Dead);
    let mut addresses: Vec<String> = live.map(|backend| backend.address.to_string()).collect();
    addresses.sort();
    addresses
}

fn texts(assembled: &Assembled) -> Vec<String> {
    let denied = assembled.denied.iter();
    denied
        .map(|denied| format!("{}: {}", denied.reason.word(), denied.text))
        .collect()
}

#[test]
fn labels_make_a_pod_a_backend_only_in_the_namespaces_of_the_service() {
    let pods = [
        ready("a", "10.0.0.1"),
        in_namespace(ready("b", "10.0.0.2"), "api"),
    ];
    for (namespaces, backends, left_out) in [
        ("[web]", &["10.0.0.1"][..], 1),
        ("[web, api]", &["10.0.0.1", "10.0.0.2"], 0),
        ("all", &["10.0.0.1", "10.0.0.2"], 0),
    ] {
        let service = format!(
            "{{name: finance, port: 8080, targetPort: 8081, selector: {{app: finance}}, namespaces: {namespaces}}}"
        );
        let known = Inventory {
            pods: pods.iter().map(member).collect(),
            ..Inventory::default()
        };
        let assembled = collected(&config("{namespaces: [web, api]}", &service), &known);
        assert_eq!(live(&assembled), backends, "{namespaces}");
        let count = assembled.left_out.get("NamespaceNotAllowed").copied();
        assert_eq!(count.unwrap_or_default(), left_out, "{namespaces}");
        if left_out > 0 {
            assert_eq!(
                texts(&assembled),
                ["NamespaceNotAllowed: pod api/b: namespace api, allowed web (services[].namespaces)"]
            );
        }
        assert!(
            assembled.desired.problems.is_empty(),
            "others may use the same labels"
        );
    }
}

#[test]
fn endpoints_written_by_hand_are_within_the_networks_of_their_namespace() {
    let victim = with(
        ready("victim", "10.0.0.9"),
        "/status/hostIP",
        json!("172.16.1.50"),
    );
    let own = in_namespace(ready("own", "203.0.113.7"), "api");
    let cases = [
        ("in a routed network", "172.16.1.2", None),
        ("of another family", "2001:db8::2", None),
        ("its own pod, which the kubelet reports", "203.0.113.7", None),
        (
            "outside",
            "198.51.100.1",
            Some(
                "198.51.100.1, allowed addresses of its own backends in 10.0.0.0/8, 172.16.0.0/12, 2001:db8::/32 \
                 (kubernetes.claims for namespace api)",
            ),
        ),
        (
            "the balancer",
            "172.16.1.103",
            Some("172.16.1.103, an address of the balancer, allowed"),
        ),
        (
            "a node",
            "172.16.1.50",
            Some("172.16.1.50, an address of a node, allowed"),
        ),
        (
            "a pod of another namespace",
            "10.0.0.9",
            Some("10.0.0.9, an address of a pod in namespace web, allowed"),
        ),
        (
            "the cloud's metadata",
            "169.254.169.254",
            Some("169.254.169.254, a loopback or link-local address, allowed"),
        ),
        (
            "link-local",
            "fe80::1",
            Some("fe80::1, a loopback or link-local address, allowed"),
        ),
    ];
    for (what, address, refusal) in cases {
        let bare = json!({"addresses": [address], "conditions": {"ready": true}});
        // A reference to a pod that has another address is no better.
        let posing = with(
            with(endpoint("own", address), "/targetRef/uid", json!("uid-own")),
            "/targetRef/namespace",
            json!("api"),
        );
        for endpoint in [bare, posing] {
            let known = Inventory {
                pods: [&victim, &own].map(member).to_vec(),
                services: kept::<ServiceRecord>(&[in_namespace(load_balancer("db", 80), "api")]),
                slices: kept::<SliceRecord>(&[in_namespace(slice("db-1", "db", json!([endpoint])), "api")]),
                nodes: Vec::new(),
            };
            let config = config("{services: true, namespaces: [web, api]}", "");
            let assembled = collected(&config, &known);
            let Some(refusal) = refusal else {
                assert_eq!(live(&assembled), [address], "{what}");
                assert!(assembled.left_out.is_empty(), "{what}");
                continue;
            };
            assert!(live(&assembled).is_empty(), "{what}");
            assert_eq!(refusals(&assembled), ["api/db AddressNotAllowed"], "{what}");
            let message = format!("EndpointSlice api/db-1: endpoints: {refusal}");
            assert!(
                assembled.refused[0].message.starts_with(&message),
                "{:?}",
                assembled.refused
            );
            let problem = format!("Service api/db: {message}");
            assert!(assembled.desired.problems[0].starts_with(&problem), "{what}");
            assert_eq!(assembled.left_out, [("AddressNotAllowed", 1)].into(), "{what}");
        }
    }
}

#[test]
fn an_endpoint_is_judged_again_when_pods_and_networks_change() {
    let config = config("{services: true, namespaces: [web, api]}", "");
    let bare = json!({"addresses": ["10.0.0.9"], "conditions": {"ready": true}});
    let mut assembly = assembly(&config);
    assembly.replace_services(new(&kept::<ServiceRecord>(&[in_namespace(
        load_balancer("db", 80),
        "api",
    )])));
    assembly.replace_slices(new(&kept::<SliceRecord>(&[in_namespace(
        slice("db-1", "db", json!([bare])),
        "api",
    )])));
    assert_eq!(live(&assembly.assemble()), ["10.0.0.9"]);
    let victim = member(&ready("victim", "10.0.0.9"));
    assembly.replace_pods(new(&[Arc::clone(&victim)]));
    assert!(
        live(&assembly.assemble()).is_empty(),
        "it is a pod's of another namespace now"
    );
    assembly.replace_pods(vec![Change {
        old: Some(victim),
        new: None,
    }]);
    assert_eq!(live(&assembly.assemble()), ["10.0.0.9"]);
    assert!(assembly.replace_surroundings(Surroundings::default()));
    assert!(live(&assembly.assemble()).is_empty(), "no route leads there");
    assert!(!assembly.replace_surroundings(Surroundings::default()));
}

#[test]
fn annotations_claim_addresses_within_the_networks_of_their_namespace() {
    let at = "2026-11-24T08:00:00Z";
    let pods = [
        claiming("a", "web", at, "172.16.1.2"),
        claiming(
            "b",
            "web",
            at,
            "172.16.1.103, 198.51.100.1, 169.254.0.1, 172.16.1.50, 172.16.1.3",
        ),
    ];
    let assembled = annotated("", FINANCE, &pods);
    assert_eq!(live(&assembled), ["172.16.1.2", "172.16.1.3"]);
    assert_eq!(assembled.left_out, [("AddressNotAllowed", 4)].into());
    let problem = &assembled.desired.problems[0];
    assert!(
        problem.starts_with("service finance: pod web/b: annotation vl3/address: 169.254.0.1, a loopback")
            && problem.ends_with("; and 3 more"),
        "{problem}"
    );

    let web = "claims: [{namespaces: [web], networks: [198.51.100.0/24]}]";
    assert_eq!(live(&annotated(web, FINANCE, &pods)), ["198.51.100.1"]);
    let none = annotated("claims: []", FINANCE, &pods);
    assert!(live(&none).is_empty());
    assert!(
        none.desired.problems[0].contains("172.16.1.2, allowed none"),
        "{:?}",
        none.desired.problems
    );
}

#[test]
fn an_address_stays_in_the_namespace_that_claimed_it_first() {
    let (early, late) = ("2026-11-24T08:00:00Z", "2026-11-24T09:00:00Z");
    let first = claiming("first", "web", early, "172.16.1.2");
    let thief = claiming("thief", "api", late, "172.16.1.2");
    let heir = claiming("heir", "web", late, "172.16.1.2");
    let dead = with(first.clone(), "/status/phase", json!("Failed"));
    for (what, pods, owner, refused) in [
        (
            "beside another namespace",
            vec![first.clone(), thief.clone()],
            "web/first",
            1,
        ),
        (
            "its own namespace's newer pod",
            vec![first.clone(), heir.clone(), thief.clone()],
            "web/heir",
            1,
        ),
        ("dead", vec![dead, thief.clone()], "api/thief", 0),
    ] {
        let mut reversed = pods.clone();
        reversed.reverse();
        for pods in [pods, reversed] {
            let assembled = annotated("namespaces: [web, api]", FINANCE_OF_ALL, &pods);
            let backends = assembled.desired.services[0].backends.iter();
            let live: Vec<_> = backends
                .filter(|backend| backend.eligibility == crate::discovery::Eligibility::NewFlows)
                .map(|backend| backend.pod.as_ref().unwrap().pod.as_str())
                .collect();
            assert_eq!(live, [owner], "{what}");
            let claim = format!("{owner} has it");
            assert_eq!(
                texts(&assembled)
                    .iter()
                    .filter(|text| text.contains(&claim))
                    .count(),
                refused,
                "{what}: {:?}",
                texts(&assembled)
            );
        }
    }
}

#[test]
fn quotas_limit_services_and_backends_of_each_namespace() {
    let service = |namespace: &str, name: &str, port: u16| in_namespace(load_balancer(name, port), namespace);
    let bare = |address: &str| json!({"addresses": [address], "conditions": {"ready": true}});
    let slices = [
        in_namespace(
            slice("a-1", "a", json!([bare("10.0.0.3"), bare("10.0.0.1")])),
            "api",
        ),
        in_namespace(
            slice("b-1", "b", json!([bare("10.0.0.9"), bare("10.0.0.2")])),
            "api",
        ),
        slice(
            "w-1",
            "w",
            json!([
                bare("10.0.1.1"),
                bare("10.0.1.2"),
                bare("10.0.1.3"),
                bare("10.0.1.4")
            ]),
        ),
    ];
    let known = Inventory {
        pods: Vec::new(),
        services: kept::<ServiceRecord>(&[
            service("api", "a", 1),
            service("api", "b", 2),
            service("api", "c", 3),
            service("web", "w", 4),
        ]),
        slices: kept::<SliceRecord>(&slices),
        nodes: Vec::new(),
    };
    let quotas = "quotas: [{namespaces: [api], services: 2, backends: 3}]";
    let config = config(
        &format!("{{services: true, namespaces: [web, api], {quotas}}}"),
        "",
    );
    let assembled = collected(&config, &known);
    let shown: Vec<_> = assembled
        .desired
        .services
        .iter()
        .map(|service| {
            let addresses = service.backends.iter().map(|backend| backend.address.to_string());
            (service.name.as_str(), addresses.collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("a", vec!["10.0.0.3".to_owned(), "10.0.0.1".to_owned()]),
            ("b", vec!["10.0.0.2".to_owned()]),
            (
                "w",
                ["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4"]
                    .map(str::to_owned)
                    .to_vec()
            ),
        ]
    );
    assert_eq!(
        refusals(&assembled),
        ["api/c QuotaExceeded", "api/c NoPorts", "api/b QuotaExceeded"]
    );
    assert_eq!(
        assembled.refused[0].message,
        "TCP 3: namespace api has 2 services, allowed 2 (kubernetes.quotas)"
    );
    assert_eq!(
        assembled.refused[2].message,
        "service b: 1 backends in namespace api are over the quota, allowed 3 of that namespace in all services \
         (kubernetes.quotas)"
    );
}

#[test]
fn backends_of_a_services_of_the_file_count_for_the_namespaces_of_their_pods() {
    let pods = [
        in_namespace(ready("a", "10.0.0.1"), "api"),
        in_namespace(ready("b", "10.0.0.2"), "api"),
        ready("c", "10.0.0.3"),
        ready("d", "10.0.0.4"),
    ];
    let known = Inventory {
        pods: pods.iter().map(member).collect(),
        ..Inventory::default()
    };
    let kubernetes = "{namespaces: [web, api], quotas: [{namespaces: [api], backends: 1}]}";
    let assembled = collected(&config(kubernetes, FINANCE_OF_ALL), &known);
    assert_eq!(live(&assembled), ["10.0.0.1", "10.0.0.3", "10.0.0.4"]);
    assert!(
        assembled.desired.problems[0].starts_with("service finance: 1 backends in namespace api are over"),
        "{:?}",
        assembled.desired.problems
    );
    assert_eq!(assembled.left_out, [("QuotaExceeded", 1)].into());
}
