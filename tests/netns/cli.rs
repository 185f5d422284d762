//! The command line shows the state, rejects invalid configurations, and reports failures by its exit status.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::{Balancer, binary};
use vl3lb_tests::client::{self, text};
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::greeting;
use vl3lb_tests::socket::connect_tcp;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance;

#[test]
fn every_view_shows_the_running_state() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = finance::echo_servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &finance::config(&topology, "auto"));
    let node = &topology.clients[0];
    let from = SocketAddr::new(node.address(Family::V4), 40_000);
    let to = SocketAddr::new(Family::V4.balancer(), finance::PORT);
    let mut stream = node.netns.run(|| connect_tcp(from, to, wait::STEP)).unwrap();
    let greeted = greeting(&mut stream).unwrap();

    let status = envelope(&balancer, &["status"]);
    let status = &status["items"][0];
    assert_eq!(status["ready"], true, "{status}");
    assert_eq!(status["interface"]["name"], "nsm-1", "{status}");
    assert_eq!(status["interface"]["mtu"], 1500, "{status}");

    let services = envelope(&balancer, &["services"]);
    let finance = &services["items"][0];
    assert_eq!(finance["name"], "finance", "{services}");
    assert_eq!(finance["protocol"], "TCP", "{services}");
    assert_eq!(finance["port"], finance::PORT, "{services}");
    assert_eq!(finance["state"], "ok", "{services}");
    assert_eq!(finance["flows"], 1, "{services}");
    assert_eq!(finance["backends"]["up"], 6, "{services}");

    let backends = envelope(&balancer, &["backends", "--service", "finance"]);
    let items = backends["items"].as_array().expect("backends");
    assert_eq!(items.len(), 6, "{backends}");
    let serving = items
        .iter()
        .find(|item| item["flows"] == 1)
        .expect("one with a flow");
    let index = (0..3)
        .find(|index| finance::server_name(*index) == greeted)
        .unwrap();
    let address = topology.servers[index].address(Family::V4).to_string();
    assert_eq!(serving["address"], address.as_str(), "{backends}");

    let flows = envelope(&balancer, &["flows"]);
    let items = flows["items"].as_array().expect("flows");
    assert_eq!(items.len(), 1, "{flows}");
    assert_eq!(items[0]["state"], "established", "{flows}");
    assert_eq!(items[0]["clientPort"], 40_000, "{flows}");
    assert_eq!(items[0]["backend"], address.as_str(), "{flows}");
    let count = balancer.cli(&["flows", "--count"]);
    assert_eq!(String::from_utf8_lossy(&count.stdout).trim(), "1");

    for (view, columns) in [
        ("services", ["NAME", "finance"]),
        ("backends", ["BACKEND", &format!("{address}:8081")]),
        ("flows", ["CLIENT", "172.16.1.10:40000"]),
        ("status", ["READY", "nsm-1"]),
    ] {
        let output = balancer.cli(&[view]);
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{view}: {}", text(&output));
        assert!(
            columns.iter().all(|column| table.contains(column)),
            "{view}: {table}"
        );
    }
}

fn envelope(balancer: &Balancer, arguments: &[&str]) -> Value {
    let answer = balancer.cli_json(arguments);
    assert_eq!(answer["apiVersion"], "v1", "{answer}");
    assert!(
        answer["time"].is_string() && answer["generation"].is_u64(),
        "{answer}"
    );
    assert!(answer["warnings"].is_array(), "{answer}");
    answer
}

#[test]
fn exit_codes_distinguish_failures() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let mut balancer = Balancer::start(&topology.balancer, &finance::config(&topology, "auto"));
    let code = |balancer: &Balancer, arguments: &[&str], expected: i32, says: &str| {
        let output = balancer.cli(arguments);
        let all = text(&output);
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {all}");
        assert!(all.contains(says), "{arguments:?} does not say {says:?}: {all}");
    };
    code(&balancer, &["status", "--check"], 0, "");
    code(&balancer, &["services", "finanse"], 1, "finanse");
    code(&balancer, &["services", "--nonsense"], 2, "--nonsense");

    let degraded = finance::config(&topology, "auto").service(service("ledger", "TCP", 9000, 9000, &[]));
    balancer.replace_config(&degraded);
    wait::until("the new service to be live", wait::STEP, || {
        let services = balancer.cli_json(&["services"]);
        let count = services["items"].as_array().map_or(0, Vec::len);
        (count == 2).then_some(()).ok_or_else(|| services.to_string())
    });
    code(&balancer, &["status", "--check"], 4, "ledger");

    balancer.terminate();
    code(&balancer, &["status"], 3, "admin.sock");
    code(&balancer, &["status", "--check"], 3, "admin.sock");
}

#[test]
fn an_invalid_configuration_is_rejected_with_field_and_value() {
    let good = || service("finance", "TCP", 8080, 8081, &["172.16.1.20".parse().unwrap()]);
    let with = |key: &str, value: Value| {
        let mut service = good();
        service[key] = value;
        Config::new("auto").service(service)
    };
    let cases = [
        (
            Config::new("auto").with("interfaces", json!("x")),
            vec!["interfaces"],
        ),
        (with("port", json!(0)), vec!["port", "0"]),
        (with("port", json!(70_000)), vec!["port", "70000"]),
        (with("protocol", json!("DCCP")), vec!["protocol", "DCCP"]),
        (with("shceduler", json!("maglev")), vec!["shceduler"]),
        (
            with("backends", json!([{"address": "172.16.1.300"}])),
            vec!["172.16.1.300"],
        ),
        (Config::new("fast"), vec!["mode", "fast"]),
        (
            Config::new("auto").service(good()).service(good()),
            vec!["finance"],
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    for (config, says) in cases {
        std::fs::write(&path, config.text()).unwrap();
        for command in ["check", "run"] {
            let output = Command::new(binary())
                .args([command, "--config"])
                .arg(&path)
                .output()
                .unwrap();
            let message = text(&output);
            assert_eq!(
                output.status.code(),
                Some(2),
                "{command} {}: {message}",
                config.text()
            );
            for word in &says {
                assert!(
                    message.contains(word),
                    "{command} does not say {word:?}: {message}"
                );
            }
        }
    }
    std::fs::write(&path, Config::new("auto").service(good()).text()).unwrap();
    let output = Command::new(binary())
        .args(["check", "--config"])
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("finance"), "{}", text(&output));
}

/// A missing interface is not an error: `attachment/presence.rs`.
#[test]
fn an_unsupported_mode_is_rejected_at_start() {
    let topology = Topology::build(&Shape::of(&Attachment::TUN_AUTO));
    // The driver of TUN devices runs native XDP only for frames with an Ethernet header.
    let mut balancer = Balancer::launch(&topology.balancer, &finance::config(&topology, "native"));
    let status = balancer.wait_end();
    let log = balancer.log();
    assert_eq!(status.code(), Some(2), "{log}");
    for word in ["native", "nsm-1"] {
        assert!(log.contains(word), "does not say {word:?}: {log}");
    }
}

#[test]
fn an_invalid_edit_keeps_the_running_configuration() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = finance::http_servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &finance::config(&topology, "auto"));
    let reloads = |expected: f64| {
        wait::until("the verdict on the file", wait::STEP, || {
            let value = balancer
                .metrics()
                .find("vl3lb_config_last_reload_successful", &[]);
            (value == Some(expected))
                .then_some(())
                .ok_or_else(|| format!("vl3lb_config_last_reload_successful {value:?}"))
        });
    };
    reloads(1.0);
    for bad in [
        "services: [",
        "services: [{name: finance, protocol: TCP, port: 0, backends: []}]\n",
    ] {
        balancer.replace_config_text(bad);
        reloads(0.0);
        let url = client::url(Family::V4.balancer(), finance::PORT, "/");
        assert!(client::curl(&topology.clients[0].netns, &url).starts_with("Hello!"));
        let status = balancer.cli_json(&["status"]);
        assert_eq!(status["items"][0]["config"]["ok"], false, "{status}");
        let check = balancer.cli(&["status", "--check"]);
        assert_eq!(check.status.code(), Some(4), "{}", text(&check));
        balancer.replace_config(&finance::config(&topology, "auto"));
        reloads(1.0);
    }
}
