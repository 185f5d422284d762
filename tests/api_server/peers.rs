//! Two balancers of one group find each other through a real API server, and one of them leaves.

use std::net::IpAddr;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use vl3lb_testbed::OrPanic;
use vl3lb_testbed::addresses::{Family, INTERFACE};
use vl3lb_testbed::node::Node;
use vl3lb_tests::api_server::ApiServer;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client::dig;
use vl3lb_tests::config::Config;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::permission::shipped_role;
use crate::pods::{NAMESPACE, Pods};
use crate::watch::{ROLE, expect_backends};

/// Longer than a Lease.
const CONVERGENCE: Duration = Duration::from_secs(40);

/// A headless Service of the balancer's service, which the leader keeps EndpointSlices for.
const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata:
  name: finance
  labels: {vl3-lb.io/publish: "true"}
spec:
  clusterIP: None
  ports: [{name: http, port: 8080}]
"#;

#[test]
fn dns_answers_contain_all_balancers_until_one_leaves() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let server = ApiServer::start(&topology.router().netns, Family::V4.router());
    server.kubeconfig_of(NAMESPACE, "vl3-lb");
    Pods::new(&server).create(0..1);
    let (first, second) = (&topology.balancer, &topology.servers[0]);
    let a = start(&server, first, "lb-a");
    let b = start(&server, second, "lb-b");
    let both = |family| sorted(vec![first.address(family), second.address(family)]);
    let client = &topology.clients[0];
    for queried in [first, second] {
        for family in Family::BOTH {
            expect_answers(client, queried, family, &both(family));
        }
    }
    server.must_kubectl(&["apply", "--namespace", NAMESPACE, "--filename", "-"], SERVICE);
    for family in Family::BOTH {
        expect_published(&server, family, &both(family));
    }
    let status = |balancer: &Balancer| balancer.cli_json(&["status"])["items"][0]["replicas"].clone();
    for balancer in [&a, &b] {
        let group = status(balancer);
        assert_eq!(group["peers"].as_array().map(Vec::len), Some(1), "{group}");
        assert_eq!(group["troubles"], json!([]), "the Role of the manifests suffices");
    }

    let leads = status(&a)["leads"] == true;
    let (mut leaver, gone, rest) = if leads {
        (a, first, second)
    } else {
        (b, second, first)
    };
    let pid = Pid::from_raw(leaver.pid().cast_signed()).expect("a process id");
    kill_process(pid, Signal::TERM).expect("signal the balancer");
    for queried in [rest, gone] {
        expect_answers(client, queried, Family::V4, &[rest.address(Family::V4)]);
    }
    let (health, _) = leaver.http("/healthz").expect("it serves while it drains");
    assert_eq!(health, 200);
    assert!(leaver.wait_end().success());

    expect_published(&server, Family::V4, &[rest.address(Family::V4)]);
    let leases = server.must_kubectl(&["get", "leases", "--namespace", NAMESPACE, "-o", "name"], "");
    assert_eq!(
        leases.lines().count(),
        2,
        "one balancer and its leadership: {leases}"
    );
}

#[test]
fn a_dead_balancer_leaves_dns_when_its_lease_expires() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let server = ApiServer::start(&topology.router().netns, Family::V4.router());
    server.kubeconfig_of(NAMESPACE, "vl3-lb");
    Pods::new(&server).create(0..1);
    let (first, second) = (&topology.balancer, &topology.servers[0]);
    let a = start(&server, first, "lb-a");
    let mut b = start(&server, second, "lb-b");
    let addresses = [first, second].map(|node| node.address(Family::V4));
    let client = &topology.clients[0];
    expect_answers(client, first, Family::V4, &sorted(addresses.to_vec()));
    b.kill();
    expect_answers(client, first, Family::V4, &addresses[..1]);
    let codes = a.cli_json(&["events"]);
    let codes: Vec<_> = codes["items"].as_array().into_iter().flatten().collect();
    let has_event = |code: &str| codes.iter().any(|event| event["code"] == code);
    assert!(
        has_event("balancer_joined") && has_event("balancer_left"),
        "{codes:?}"
    );
}

#[test]
fn a_service_without_backends_is_an_event_of_the_balancers_pod() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let server = ApiServer::start(&topology.router().netns, Family::V4.router());
    server.kubeconfig_of(NAMESPACE, "vl3-lb");
    let pods = Pods::new(&server);
    pods.create(0..1);
    let balancer = start(&server, &topology.balancer, "lb-a");
    expect_backends(&balancer, 1, 0);
    pods.delete(0..1);
    expect_event(&server, "ServiceWithoutBackends", "Pod/lb-a");
    pods.create(1..2);
    expect_event(&server, "ServiceRecovered", "Pod/lb-a");
}

#[test]
fn a_service_of_our_class_gets_an_address_or_an_event() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let server = ApiServer::start(&topology.router().netns, Family::V4.router());
    let mut balancer = start(&server, &topology.balancer, "lb-a");
    for (name, port) in [("front", 9000), ("taken", 8080)] {
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "type": "LoadBalancer",
                "loadBalancerClass": "vl3-lb.io/vl3-lb",
                "selector": {"app": "finance"},
                "ports": [{"port": port}],
            },
        });
        let apply = ["apply", "--namespace", NAMESPACE, "--filename", "-"];
        server.must_kubectl(&apply, &service.to_string());
    }
    expect_event(&server, "ServiceRefused", "Service/taken");
    let addresses = Family::BOTH.map(|family| topology.balancer.address(family).to_string());
    expect_status(&server, "front", &addresses.join(" "));

    // The Service is disabled while no balancer runs.
    balancer.kill();
    drop(balancer);
    let annotate = ["annotate", "service", "front", "--namespace", NAMESPACE];
    server.must_kubectl(&[&annotate[..], &["vl3-lb.io/enabled=false"]].concat(), "");
    let _next = start(&server, &topology.balancer, "lb-b");
    expect_status(&server, "front", "");
}

#[test]
fn services_that_collide_get_an_address_of_a_pool_each() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let second = Family::V4.address(104);
    let command = format!("address add {second}/24 dev {INTERFACE}");
    topology.balancer.netns.ip(&command).or_panic();
    let server = ApiServer::start(&topology.router().netns, Family::V4.router());
    let pools = json!([{"name": "public", "addresses": [Family::V4.network().to_string()]}]);
    let kubernetes = json!({"services": true, "pools": pools});
    let balancer = start_with(&server, &topology.balancer, "lb-a", &kubernetes);
    let first = topology.balancer.address(Family::V4);
    for (name, address) in [("back", first), ("front", second)] {
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "annotations": {"vl3-lb.io/pool": "public"}},
            "spec": {
                "type": "LoadBalancer",
                "loadBalancerClass": "vl3-lb.io/vl3-lb",
                "selector": {"app": "finance"},
                "ports": [{"port": 9000}],
            },
        });
        let apply = ["apply", "--namespace", NAMESPACE, "--filename", "-"];
        server.must_kubectl(&apply, &service.to_string());
        expect_status(&server, name, &address.to_string());
        let listed = balancer.cli_json(&["services"]);
        let items = listed["items"].as_array().expect("a list");
        let item = items
            .iter()
            .find(|item| item["name"] == name)
            .expect("it is listed");
        assert_eq!(item["addresses"], json!([address.to_string()]), "{name}");
        let answer = dig(
            &topology.clients[0].netns,
            first,
            &[&format!("{name}.vl3-lb"), "A"],
        );
        let records: Vec<&str> = answer.records.iter().map(|(_, data)| data.as_str()).collect();
        assert_eq!(records, [address.to_string()], "{name}");
    }
}

/// Waits until the status of a Service has these addresses.
fn expect_status(server: &ApiServer, service: &str, expected: &str) {
    wait::until("the status of the service", CONVERGENCE, || {
        let get = ["get", "service", service, "--namespace", NAMESPACE, "-o"];
        let column = "jsonpath={.status.loadBalancer.ingress[*].ip}";
        let found = server.must_kubectl(&[&get[..], &[column]].concat(), "");
        (found == expected).then_some(()).ok_or(found)
    });
}

/// Starts a balancer as pod `name`, with the permissions of the manifests.
fn start(server: &ApiServer, node: &Node, name: &str) -> Balancer {
    start_with(server, node, name, &json!({"services": true}))
}

fn start_with(server: &ApiServer, node: &Node, name: &str, kubernetes: &Value) -> Balancer {
    let kubeconfig = server.kubeconfig_of(NAMESPACE, "vl3-lb");
    server.must_kubectl(&["apply", "--namespace", NAMESPACE, "--filename", ROLE], "");
    let role = shipped_role().to_string();
    server.must_kubectl(&["apply", "--namespace", NAMESPACE, "--filename", "-"], &role);
    let config = Config::new("auto")
        .with("discovery", "kubernetes".into())
        .with("kubernetes", kubernetes.clone())
        .service(
            json!({"name": "finance", "port": 8080, "targetPort": 8081, "selector": {"app": "finance"}}),
        );
    let variables = [
        format!("KUBECONFIG={}", kubeconfig.display()),
        format!("POD_NAME={name}"),
        format!("POD_NAMESPACE={NAMESPACE}"),
        "VL3LB_GROUP=finance".to_owned(),
    ];
    let mut program = vec!["env"];
    program.extend(variables.iter().map(String::as_str));
    let mut balancer = Balancer::launch_through(node, &config, &program);
    balancer.wait_ready_answer();
    balancer
}

/// Waits until the name server at `queried` answers with these addresses, in any order.
fn expect_answers(client: &Node, queried: &Node, family: Family, expected: &[IpAddr]) {
    let kind = match family {
        Family::V4 => "A",
        Family::V6 => "AAAA",
    };
    let server = queried.address(Family::V4);
    let what = format!("{server} to answer with {expected:?}");
    wait::until(&what, CONVERGENCE, || {
        let answer = dig(&client.netns, server, &["finance.vl3-lb", kind]);
        let records = answer.records.iter();
        let found = records.map(|(_, data)| data.parse().expect("an address"));
        let found = sorted(found.collect());
        (found == expected)
            .then_some(())
            .ok_or_else(|| format!("{found:?}"))
    });
}

/// Waits until the EndpointSlice of the family has these addresses, in any order.
fn expect_published(server: &ApiServer, family: Family, expected: &[IpAddr]) {
    let kind = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let what = format!("the EndpointSlice of {kind} to have {expected:?}");
    wait::until(&what, CONVERGENCE, || {
        let selector = "kubernetes.io/service-name=finance";
        let get = [
            "get",
            "endpointslices",
            "--namespace",
            NAMESPACE,
            "-l",
            selector,
            "-o",
            "json",
        ];
        let slices: Value = serde_json::from_str(&server.must_kubectl(&get, "")).expect("kubectl's JSON");
        let found = slices["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|slice| slice["addressType"] == kind)
            .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten())
            .map(|endpoint| endpoint["addresses"][0].as_str().expect("an address"))
            .map(|address| address.parse().expect("an address"));
        let found = sorted(found.collect());
        (found == expected)
            .then_some(())
            .ok_or_else(|| format!("{found:?}"))
    });
}

/// Waits until there is an Event of this reason about this object.
fn expect_event(server: &ApiServer, reason: &str, regarding: &str) {
    wait::until(&format!("an event {reason} of {regarding}"), CONVERGENCE, || {
        let columns = "custom-columns=REASON:.reason,KIND:.regarding.kind,NAME:.regarding.name";
        let get = [
            "get",
            "events.v1.events.k8s.io",
            "--namespace",
            NAMESPACE,
            "--no-headers",
            "-o",
            columns,
        ];
        let found = server.must_kubectl(&get, "");
        let mut events = found
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let is_there = events.any(|event| match event[..] {
            [word, kind, name] => word == reason && format!("{kind}/{name}") == regarding,
            _ => false,
        });
        is_there.then_some(()).ok_or(found)
    });
}

fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses
}
