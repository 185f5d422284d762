//! `vl3-lb events --follow` shows changes of state as they happen.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::follower::Follower;
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance::{PORT, TARGET_PORT};

#[test]
fn backend_changes_are_events() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let address = |server: usize| topology.servers[server].address(Family::V4);
    let config = |servers: &[usize]| {
        let backends: Vec<IpAddr> = servers.iter().copied().map(address).collect();
        Config::new("auto").service(service("finance", "TCP", PORT, TARGET_PORT, &backends))
    };
    let balancer = Balancer::start(&topology.balancer, &config(&[0]));
    let mut follower = Follower::start(&balancer, &["events"]);
    follower.wait_for("the earlier events first", |event| event["code"] == "started");
    let changed = |server: usize, from: &'static str, to: &'static str| {
        let backend = SocketAddr::new(address(server), TARGET_PORT).to_string();
        move |event: &Value| {
            event["code"] == "backend_state"
                && event["service"] == "finance"
                && event["backend"] == backend.as_str()
                && event["from"] == from
                && event["to"] == to
        }
    };
    follower.wait_for("the first backend", changed(0, "new", "up"));

    balancer.replace_config(&config(&[0, 1]));
    follower.wait_for("a second backend", changed(1, "new", "up"));
    balancer.replace_config(&config(&[1]));
    follower.wait_for("the drain of the first", changed(0, "up", "draining"));
    follower.wait_for("its end", changed(0, "draining", "removed"));
    balancer.replace_config_text("{services: [{name: finance, port: 70000}]}");
    follower.wait_for("the rejected configuration", |event| {
        event["code"] == "config_rejected"
    });
    balancer.replace_config(&config(&[]));
    let alarm = follower.wait_for("the service to be down", |event| event["to"] == "down");
    assert_eq!(alarm["severity"], "error", "{alarm}");

    let numbers: Vec<u64> = follower
        .events()
        .iter()
        .map(|event| event["sequence"].as_u64().unwrap())
        .collect();
    let consecutive: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, consecutive);
    assert_eq!(follower.interrupt(), Some(130));

    let events = balancer.cli_json(&["events", "--service", "finance"]);
    let last = events["items"].as_array().and_then(|items| items.last().cloned());
    assert_eq!(last.as_ref(), Some(&alarm), "{events}");
    let details = balancer.cli(&["services", "finance"]);
    let details = String::from_utf8_lossy(&details.stdout).into_owned();
    let text = alarm["text"].as_str().expect("a text");
    assert!(
        details.lines().last().is_some_and(|line| line.ends_with(text)),
        "{details}"
    );
}
