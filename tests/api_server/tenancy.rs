//! Namespaces that share a balancer, with a real API server: whose pods are backends, which addresses they may claim, and
//! their quotas.

use std::time::Duration;

use serde_json::{Value, json};
use vl3lb_testbed::OrPanic;
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::api_server::ApiServer;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client::dig;
use vl3lb_tests::config::Config;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::permission::shipped_role;
use crate::pods::Pods;

const CONVERGENCE: Duration = Duration::from_secs(60);
/// The balancer runs in the first one.
const NAMESPACES: [&str; 2] = ["web", "api"];

#[test]
fn a_namespace_reaches_neither_the_services_nor_the_pods_of_another() {
    let topology = topology();
    let server = server(&topology);
    for namespace in NAMESPACES {
        Pods::of(&server, namespace).create(if namespace == "web" { 0..2 } else { 2..3 });
    }
    let balancer = start(
        &server,
        &topology,
        &json!({
            "services": true,
            "namespaces": NAMESPACES,
            "quotas": [{"namespaces": ["api"], "services": 3}],
        }),
        &json!(["web"]),
    );
    expect_backends(&balancer, "finance", &[Pods::address(0), Pods::address(1)]);

    // Endpoints written by hand: free in the network, a victim's, the balancer's, and one outside. (The API server itself
    // rejects link-local ones.)
    let own = topology.balancer.address(Family::V4).to_string();
    let (free, victim) = (Pods::address(9), Pods::address(0));
    let forged = [&victim, &own, "198.51.100.1"];
    let addresses = std::iter::once(free.as_str()).chain(forged);
    let endpoints: Vec<Value> = addresses.map(|address| json!({"addresses": [address]})).collect();
    apply(&server, "v1", "services", &service("forged", 9000));
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "forged", "labels": {"kubernetes.io/service-name": "forged"}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"port": 8081, "name": ""}],
    });
    apply(&server, "discovery.k8s.io/v1", "endpointslices", &slice);
    expect_backends(&balancer, "forged", &[free]);
    expect_left_out(&balancer, "AddressNotAllowed", 3.0);
    expect_left_out(&balancer, "NamespaceNotAllowed", 1.0);
    let status = balancer.cli_json(&["status"]).to_string();
    assert!(
        status.contains("EndpointSlice api/forged: endpoints:") && status.contains("and 2 more"),
        "{status}"
    );
    let events = balancer.cli_json(&["events"]).to_string();
    for claim in [
        format!("{victim}, an address of a pod in namespace web"),
        format!("{own}, an address of the balancer"),
        "198.51.100.1, allowed".to_owned(),
        "pod api/finance-2: namespace api, allowed web".to_owned(),
    ] {
        assert!(events.contains(&claim), "{claim}: {events}");
    }

    // The namespace has three services at most, and the one that serves stays.
    for (name, port) in [("second", 9001), ("third", 9002), ("fourth", 9003)] {
        apply(&server, "v1", "services", &service(name, port));
    }
    expect_left_out(&balancer, "QuotaExceeded", 1.0);
    let status = balancer.cli_json(&["status"]).to_string();
    assert!(
        status.contains("namespace api has 3 services, allowed 3 (kubernetes.quotas)"),
        "{status}"
    );
    expect_backends(&balancer, "finance", &[Pods::address(0), Pods::address(1)]);
}

#[test]
fn annotations_claim_addresses_only_in_the_networks_of_their_namespace() {
    let topology = topology();
    let server = server(&topology);
    for (namespace, number) in [("web", 0), ("api", 2)] {
        Pods::of(&server, namespace).create(number..=number);
    }
    // It takes the address that another namespace has had before, and one outside of its networks.
    annotate(&server, "web", 0, "10.128.7.1");
    annotate(&server, "api", 2, "10.128.7.1,10.128.8.1,10.129.0.1");
    let balancer = start(
        &server,
        &topology,
        &json!({
            "addressFrom": "annotation:vl3/address",
            "namespaces": NAMESPACES,
            "claims": [
                {"namespaces": ["web"], "networks": "routed"},
                {"namespaces": ["api"], "networks": ["10.128.8.0/24"]},
            ],
        }),
        &"all".into(),
    );
    expect_backends(
        &balancer,
        "finance",
        &["10.128.7.1".to_owned(), "10.128.8.1".to_owned()],
    );
    expect_left_out(&balancer, "AddressNotAllowed", 2.0);
    let status = balancer.cli_json(&["status"]).to_string();
    assert!(
        status.contains("pod api/finance-2: annotation vl3/address:"),
        "{status}"
    );
}

#[test]
fn services_of_one_name_in_two_namespaces_have_a_name_each() {
    let topology = topology();
    let server = server(&topology);
    let kubernetes = json!({"services": true, "namespaces": NAMESPACES});
    let balancer = start(&server, &topology, &kubernetes, &"all".into());
    let own = topology.balancer.address(Family::V4);
    for (namespace, port, backend, name) in [("web", 9000, 8, "shop"), ("api", 9001, 9, "shop.api")] {
        let backend = Pods::address(backend);
        apply_in(&server, namespace, "v1", "services", &service("shop", port));
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "shop", "labels": {"kubernetes.io/service-name": "shop"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [backend]}],
            "ports": [{"port": 8081, "name": ""}],
        });
        apply_in(
            &server,
            namespace,
            "discovery.k8s.io/v1",
            "endpointslices",
            &slice,
        );
        expect_backends(&balancer, name, &[backend]);
        for name in [name, &format!("shop.{namespace}")] {
            let query = [&format!("{name}.vl3-lb"), "A"];
            let answer = dig(&topology.clients[0].netns, own, &query);
            let found: Vec<&str> = answer.records.iter().map(|(_, data)| data.as_str()).collect();
            assert_eq!(found, [own.to_string()], "{name}");
        }
    }
    // The clients of the first name do not meet the second Service when the first one is deleted, as in an upgrade.
    server.must_kubectl(&["delete", "service", "shop", "--namespace", "web"], "");
    wait::until("the first service to be gone", CONVERGENCE, || {
        let answer = balancer.cli_json(&["services"]);
        let items = answer["items"].as_array().into_iter().flatten();
        let names: Vec<_> = items.filter_map(|item| item["name"].as_str()).collect();
        (names == ["finance", "shop.api"])
            .then_some(())
            .ok_or_else(|| answer.to_string())
    });
}

fn topology() -> Topology {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    // The pods of the test have addresses without anything behind them.
    let route = format!("route add 10.128.0.0/16 via {}", Family::V4.router());
    topology.balancer.netns.ip(&route).or_panic();
    topology
}

/// With the Role of the manifests in both namespaces.
fn server(topology: &Topology) -> ApiServer {
    let server = ApiServer::start(&topology.router().netns, Family::V4.router());
    for namespace in NAMESPACES {
        server.kubeconfig_of(namespace, "vl3-lb");
        let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
        server.apply(&format!("{rbac}/roles/vl3-lb"), &shipped_role());
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "vl3-lb"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "vl3-lb"},
            "subjects": [{"kind": "ServiceAccount", "name": "vl3-lb", "namespace": NAMESPACES[0]}],
        });
        server.apply(&format!("{rbac}/rolebindings/vl3-lb"), &binding);
    }
    server
}

/// A balancer with a service for pods of `namespaces`.
fn start(server: &ApiServer, topology: &Topology, kubernetes: &Value, namespaces: &Value) -> Balancer {
    let kubeconfig = server.kubeconfig_of(NAMESPACES[0], "vl3-lb");
    let variable = format!("KUBECONFIG={}", kubeconfig.display());
    let config = Config::new("auto")
        .with("discovery", "kubernetes".into())
        .with("kubernetes", kubernetes.clone())
        .service(json!({
            "name": "finance",
            "port": 8080,
            "targetPort": 8081,
            "selector": {"app": "finance"},
            "namespaces": namespaces,
        }));
    let mut balancer = Balancer::launch_through(&topology.balancer, &config, &["env", &variable]);
    balancer.wait_ready_answer();
    balancer
}

/// A Service for the balancer.
fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "annotations": {"vl3-lb.io/enabled": "true"}},
        "spec": {"ports": [{"port": port}]},
    })
}

/// Writes an object of the namespace api.
fn apply(server: &ApiServer, version: &str, resource: &str, object: &Value) {
    apply_in(server, "api", version, resource, object);
}

fn apply_in(server: &ApiServer, namespace: &str, version: &str, resource: &str, object: &Value) {
    let root = if version == "v1" { "api" } else { "apis" };
    let name = object["metadata"]["name"].as_str().expect("it has a name");
    server.apply(
        &format!("/{root}/{version}/namespaces/{namespace}/{resource}/{name}"),
        object,
    );
}

fn annotate(server: &ApiServer, namespace: &str, number: usize, addresses: &str) {
    let pod = format!("finance-{number}");
    let annotation = format!("vl3/address={addresses}");
    server.must_kubectl(
        &["annotate", "pod", &pod, "--namespace", namespace, &annotation],
        "",
    );
}

/// Waits until these are the addresses of the backends that are up.
fn expect_backends(balancer: &Balancer, service: &str, addresses: &[String]) {
    wait::until(&format!("{service} with {addresses:?}"), CONVERGENCE, || {
        let answer = balancer.cli_json(&["backends", "--service", service]);
        let items = answer["items"].as_array().into_iter().flatten();
        let up = items.filter(|item| item["state"] == "up");
        let mut found: Vec<&str> = up.filter_map(|item| item["address"].as_str()).collect();
        found.sort_unstable();
        (found == addresses)
            .then_some(())
            .ok_or_else(|| answer.to_string())
    });
}

fn expect_left_out(balancer: &Balancer, reason: &str, count: f64) {
    wait::until(&format!("{count} left out: {reason}"), CONVERGENCE, || {
        let found = balancer
            .metrics()
            .sum("vl3lb_discovery_left_out", &[("reason", reason)]);
        (found == count).then_some(()).ok_or(found)
    });
}
