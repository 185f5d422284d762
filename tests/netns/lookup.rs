//! `vl3-lb services NAME --lookup CLIENT[:PORT]` names the backend that the next flow of that client gets.

use std::net::SocketAddr;

use serde_json::{Value, json};
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client::text;
use vl3lb_tests::config::Config;
use vl3lb_tests::server::greeting;
use vl3lb_tests::socket::connect_tcp;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance;

/// The configuration of the example, its service with these keys, too.
fn config(topology: &Topology, keys: Value) -> Config {
    let backends: Vec<_> = topology
        .servers
        .iter()
        .flat_map(|node| Family::BOTH.map(|family| node.address(family)))
        .collect();
    let mut service =
        vl3lb_tests::config::service("finance", "TCP", finance::PORT, finance::TARGET_PORT, &backends);
    for (key, value) in keys.as_object().expect("keys of the service") {
        service[key] = value.clone();
    }
    Config::new("auto").service(service)
}

fn lookup(balancer: &Balancer, client: &str) -> Value {
    let answer = balancer.cli_json(&["services", "finance", "--lookup", client]);
    answer["items"][0].clone()
}

#[test]
fn the_next_flow_gets_the_backend_that_was_looked_up() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = finance::echo_servers(&topology);
    let node = &topology.clients[0];
    let balancer = Balancer::start(&topology.balancer, &config(&topology, json!({})));
    for keys in [
        json!({"scheduler": "maglev"}),
        json!({"scheduler": "round-robin"}),
        json!({"scheduler": "least-connections"}),
        json!({"scheduler": "round-robin", "affinity": {"clientIP": "1h"}}),
    ] {
        balancer.replace_config(&config(&topology, keys.clone()));
        let scheduler = keys["scheduler"].as_str().unwrap();
        wait::until("the new rule", wait::STEP, || {
            let services = balancer.cli_json(&["services", "finance"]);
            let service = &services["items"][0];
            let is_new = service["scheduler"] == scheduler
                && service["affinitySeconds"].is_null() == keys["affinity"].is_null();
            if is_new { Ok(()) } else { Err(services) }
        });
        let mut open = Vec::new();
        for family in Family::BOTH {
            for port in 40_000..40_006 {
                let client = SocketAddr::new(node.address(family), port);
                let found = lookup(&balancer, &client.to_string());
                let to = SocketAddr::new(family.balancer(), finance::PORT);
                let mut stream = node.netns.run(|| connect_tcp(client, to, wait::STEP)).unwrap();
                let greeted = greeting(&mut stream).unwrap();
                let index = (0..3)
                    .find(|index| finance::server_name(*index) == greeted)
                    .unwrap();
                let backend = SocketAddr::new(topology.servers[index].address(family), finance::TARGET_PORT);
                assert_eq!(found["backend"], backend.to_string(), "{keys}: {found}");
                open.push(stream);
            }
        }
    }
}

#[test]
fn a_lookup_says_why() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = finance::echo_servers(&topology);
    let keys = json!({"sourceRanges": ["172.16.1.0/24"], "maxFlowsPerBackend": 100});
    let balancer = Balancer::start(&topology.balancer, &config(&topology, keys));
    let screen = |arguments: &[&str]| {
        let output = balancer.cli(arguments);
        (output.status.code(), text(&output))
    };
    let (code, shown) = screen(&["services", "finance", "--lookup", "172.16.1.100:40000"]);
    assert_eq!(code, Some(0), "{shown}");
    for words in [
        "finance TCP: a new flow of 172.16.1.100:40000 goes to ",
        "172.16.1.0/24 contains the client",
        "by the hash of the client's address and port",
        "maxFlowsPerBackend 100: there is room",
        "this one",
        "33%",
    ] {
        assert!(shown.contains(words), "no {words:?}: {shown}");
    }
    let (code, shown) = screen(&["services", "finance", "--lookup", "10.0.0.1"]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("is refused: source_not_allowed"), "{shown}");
    let (_, shown) = screen(&["services", "finance", "--lookup", "172.16.1.100"]);
    assert!(shown.contains("a backend that depends on its port"), "{shown}");
    for (arguments, code, says) in [
        (["services", "finance", "--lookup", "nobody"], 2, "ADDRESS"),
        (
            ["services", "fin*", "--lookup", "10.0.0.1"],
            2,
            "needs the name of one service",
        ),
        (
            ["services", "finanse", "--lookup", "10.0.0.1"],
            1,
            "no service \"finanse\"",
        ),
    ] {
        let (found, shown) = screen(&arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {shown}");
        assert!(shown.contains(says), "{arguments:?}: {shown}");
    }
}
