use super::super::inventory::{LONG_DOWN, REOPENING};
use super::*;

fn client(name: &str, address: &str) -> Wire {
    Wire::new(name, "nse-0", &[address])
}

#[test]
fn an_address_stays_with_the_client_that_had_it_first() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [client("b", "172.16.1.3/32")]);
    let instance = scene.instance();
    assert!(scene.events().is_empty());
    // Its name sorts before the other's.
    scene.update("nse-0", [client("a", "172.16.1.3/32")]);
    assert_eq!(
        scene.events(),
        ["warn: address 172.16.1.3 is claimed by client a (a-0) and belongs to client b (b-0)"]
    );
    assert_eq!(scene.instance(), instance, "no flow ends");
    // Both go on refreshing.
    for name in ["a", "b", "a"] {
        scene.update("nse-0", [client(name, "172.16.1.3/32")]);
    }
    assert_eq!(scene.instance(), instance);
    assert!(scene.events().is_empty(), "one event");
    scene.delete("nse-0", "b");
    assert_eq!(scene.events(), ["info: address 172.16.1.3: the conflict is over"]);
    assert_ne!(
        scene.instance(),
        instance,
        "flows do not continue to another client"
    );
    scene.advance(REOPENING);
    assert!(scene.is_dead(&instance));
}

#[test]
fn a_claim_with_other_labels_does_not_take_an_address_into_a_service() {
    let mut scene = Scene::new();
    scene.replace(
        "nse-0",
        [client("ledger", "172.16.1.3/32").label("app", "ledger")],
    );
    scene.update("nse-0", [client("thief", "172.16.1.3/32")]);
    assert!(scene.backends().is_empty());
    // Nor out of one.
    scene.service = service("app=ledger");
    assert_eq!(scene.backends(), ["172.16.1.3"]);
}

#[test]
fn an_address_leaves_a_client_that_is_down_for_long() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [client("a", "172.16.1.3/32")]);
    scene.update("nse-0", [client("a", "172.16.1.3/32").state(State::Down)]);
    scene.update("nse-0", [client("b", "172.16.1.3/32")]);
    let instance = scene.instance();
    assert_eq!(scene.events(), Vec::<String>::new(), "resolved with the instance");
    assert_eq!(scene.inventory.deadline(scene.now), Some(scene.now + LONG_DOWN));
    scene.advance(LONG_DOWN);
    assert_eq!(
        scene.events(),
        [
            "warn: address 172.16.1.3 is claimed by client a (a-0) and belongs to client b (b-0)",
            "info: address 172.16.1.3: the conflict is over"
        ]
    );
    assert_ne!(scene.instance(), instance);
}

#[test]
fn one_client_with_two_connections_has_one_backend_for_each_address() {
    let mut scene = Scene::new();
    scene.list(vec![local("nse-0"), remote("nse-1", "tcp://10.0.0.2:5001")]);
    scene.replace("nse-0", [client("a", "172.16.1.3/32")]);
    let instance = scene.instance();
    // The manager of its own node lists it too, under another id.
    let mut again = Wire::new("a", "nse-1", &["172.16.1.3/32"]);
    again.0.id = "other".to_owned();
    scene.replace("nse-1", [again]);
    assert_eq!(scene.instance(), instance);
    assert!(scene.events().is_empty());
    // Restarted without closing the first.
    let mut restarted = client("a", "172.16.1.4/32");
    restarted.0.id = "restarted".to_owned();
    scene.update("nse-0", [restarted]);
    assert_eq!(
        scene.events(),
        ["info: client a (a-0) has several connections, with 172.16.1.4 and 172.16.1.3; all are used"]
    );
    assert_eq!(scene.backends(), ["172.16.1.3", "172.16.1.4"]);
}

#[test]
fn the_balancers_own_address_is_nobodys_backend() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [client("finance-lb", "172.16.1.103/32")]);
    scene.update("nse-0", [client("thief", "172.16.1.103/32")]);
    assert_eq!(
        scene.events(),
        [
            "warn: address 172.16.1.103, the balancer's, is claimed by client thief (thief-0) and belongs to client \
             finance-lb (finance-lb-0)"
        ]
    );
    assert!(scene.backends().is_empty());
}

#[test]
fn a_second_claim_of_a_dns_name_is_reported() {
    let mut scene = Scene::new();
    let balancer = client("finance-lb", "172.16.1.103/32").label("podName", "finance");
    let server = client("server-0", "172.16.1.3/32").label("podName", "server-0");
    // Another connection of the same pod.
    let mut again = server.clone().id("server-0-1");
    again.0.id = "again".to_owned();
    scene.replace("nse-0", [balancer, server, again]);
    scene.events();
    scene.update(
        "nse-0",
        [client("thief", "172.16.1.66/32").label("podName", "finance")],
    );
    assert_eq!(
        scene.events(),
        [
            "warn: DNS name finance, the balancer's, is claimed by client thief (thief-0), \
             spiffe://k8s.nsm/ns/web/pod/thief, and belongs to client finance-lb (finance-lb-0), \
             spiffe://k8s.nsm/ns/web/pod/finance-lb,"
        ]
    );
    scene.delete("nse-0", "thief");
    assert_eq!(scene.events(), ["info: DNS name finance: the conflict is over"]);
    scene.update(
        "nse-0",
        [client("thief", "172.16.1.66/32").label("podName", "server-0")],
    );
    assert_eq!(
        scene.events(),
        [
            "warn: DNS name server-0 is claimed by client thief (thief-0), spiffe://k8s.nsm/ns/web/pod/thief, and \
             belongs to client server-0 (server-0-1), spiffe://k8s.nsm/ns/web/pod/server-0,"
        ]
    );
}

/// The addresses of pods `web/NAME`.
fn addresses(scene: &mut Scene, name: &str) -> Vec<String> {
    let place = crate::discovery::PodPlace {
        pod: format!("web/{name}"),
        node: Some("node-1".to_owned()),
    };
    let (clients, _) = scene.resolve();
    let addresses = clients.connections().addresses(&place);
    addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn a_pod_name_stays_with_the_identity_that_had_it_first() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [client("server-0", "172.16.1.3/32")]);
    assert_eq!(addresses(&mut scene, "server-0"), ["172.16.1.3"]);
    let thief = client("server-0", "172.16.1.66/32")
        .id("thief-0")
        .subject("spiffe://k8s.nsm/ns/web/sa/thief");
    scene.update("nse-0", [thief_at_manager(thief)]);
    assert_eq!(
        scene.events(),
        [
            "warn: pod name server-0 is claimed by client server-0 (thief-0), spiffe://k8s.nsm/ns/web/sa/thief, and \
             belongs to client server-0 (server-0-0), spiffe://k8s.nsm/ns/web/pod/server-0,"
        ]
    );
    assert_eq!(addresses(&mut scene, "server-0"), ["172.16.1.3"]);
    // Labels select, whatever the name.
    assert_eq!(scene.backends(), ["172.16.1.3", "172.16.1.66"]);
}

fn thief_at_manager(mut wire: Wire) -> Wire {
    wire.0.id = "thief".to_owned();
    wire
}

#[test]
fn a_name_that_the_identity_contradicts_is_no_pod() {
    let mut scene = Scene::new();
    let thief = client("server-0", "172.16.1.66/32").subject("spiffe://k8s.nsm/ns/web/pod/thief");
    scene.replace("nse-0", [thief]);
    assert!(addresses(&mut scene, "server-0").is_empty());
    assert!(addresses(&mut scene, "thief").is_empty());
}

#[test]
fn pods_of_one_name_differ_by_namespace_and_node() {
    let mut scene = Scene::new();
    let other = client("server-0", "172.16.1.4/32").subject("spiffe://k8s.nsm/ns/api/pod/server-0");
    let elsewhere = client("server-1", "172.16.1.5/32").label("nodeName", "node-2");
    let unknown = client("server-2", "172.16.1.6/32").subject("spiffe://k8s.nsm/sa/default");
    scene.replace(
        "nse-0",
        [
            client("server-0", "172.16.1.3/32").label("nodeName", "node-1"),
            thief_at_manager(other),
            elsewhere,
            unknown,
        ],
    );
    assert_eq!(addresses(&mut scene, "server-0"), ["172.16.1.3"]);
    assert!(addresses(&mut scene, "server-1").is_empty());
    assert_eq!(
        addresses(&mut scene, "server-2"),
        ["172.16.1.6"],
        "its namespace is unknown"
    );
    assert!(scene.events().is_empty());
}
