//! Services of one port or one name at different addresses of the balancer.

use serde_json::{Value, json};
use vl3lb_testbed::OrPanic;
use vl3lb_testbed::addresses::{Family, INTERFACE};
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client::{curl, dig, url};
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance::{PORT, TARGET_PORT, http_servers, server_name};

/// The host number of the balancer's second address.
const SECOND: u8 = 104;

/// Gives the balancer its second address of each family.
fn add_second_addresses(topology: &Topology) {
    for (family, length) in [(Family::V4, 24), (Family::V6, 64)] {
        let option = if family == Family::V6 { " nodad" } else { "" };
        let second = family.address(SECOND);
        let command = format!("address add {second}/{length} dev {INTERFACE}{option}");
        topology.balancer.netns.ip(&command).or_panic();
    }
}

/// A service at the addresses `host`, with one backend of each family.
fn at(topology: &Topology, name: &str, server: usize, host: u8) -> Value {
    let backends = Family::BOTH.map(|family| topology.servers[server].address(family));
    let mut service = service(name, "TCP", PORT, TARGET_PORT, &backends);
    service["addresses"] = json!(Family::BOTH.map(|family| family.address(host).to_string()));
    service
}

#[test]
fn services_of_one_name_have_own_addresses_of_their_own_in_every_view() {
    let attachment = &Attachment::VETH_AUTO;
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = http_servers(&topology);
    add_second_addresses(&topology);
    let hosts = [(0, vl3lb_testbed::addresses::BALANCER), (1, SECOND)];
    let config = hosts
        .iter()
        .fold(Config::new(attachment.mode), |config, &(server, host)| {
            config.service(at(&topology, "web", server, host))
        });
    let balancer = Balancer::start(&topology.balancer, &config);
    let client = &topology.clients[0].netns;
    let names = hosts.map(|(_, host)| format!("web@{}", Family::V4.address(host)));
    for (server, host) in hosts {
        for family in Family::BOTH {
            let address = family.address(host);
            let answer = curl(client, &url(address, PORT, "/"));
            assert_eq!(
                answer,
                format!("Hello! I'm {}\n", server_name(server)),
                "{address}"
            );
        }
    }
    // One name of the DNS for both.
    let answer = dig(client, Family::V4.address(SECOND), &["web.vl3-lb", "A"]);
    let mut records: Vec<&str> = answer.records.iter().map(|(_, data)| data.as_str()).collect();
    records.sort_unstable();
    let addresses = hosts.map(|(_, host)| Family::V4.address(host).to_string());
    assert_eq!(records, addresses);

    let listed = |arguments: &[&str], field: &str| -> Vec<String> {
        let items = balancer.cli_json(arguments)["items"].clone();
        let items = items.as_array().expect("a list").iter();
        let fields = items.map(|item| item[field].as_str().expect("a text").to_owned());
        fields
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    for (field, command) in [
        ("name", &["services"][..]),
        ("name", &["services", "web"]),
        ("service", &["backends", "--service", "web"]),
        ("service", &["flows", "--service", "web"]),
        ("service", &["events", "--service", "web"]),
    ] {
        assert_eq!(listed(command, field), names, "{command:?}");
    }
    for (name, (server, _)) in names.iter().zip(hosts) {
        let arguments = ["flows", "--service", name];
        assert_eq!(listed(&arguments, "service"), std::slice::from_ref(name));
        let backends = Family::BOTH.map(|family| topology.servers[server].address(family).to_string());
        let found = listed(&["backends", "--service", name], "address");
        assert_eq!(found, backends, "{name}");
        let lookup = ["services", name, "--lookup", "172.16.1.100"];
        assert_eq!(listed(&lookup, "service"), std::slice::from_ref(name));
    }
    let unclear = balancer.cli(&["services", "web", "--lookup", "172.16.1.100"]);
    assert!(!unclear.status.success());
    let error = String::from_utf8_lossy(&unclear.stderr).into_owned();
    assert!(error.contains(&names.join(", ")), "{error}");
    let metrics = balancer.metrics();
    assert_eq!(metrics.repeated(), None::<String>);
    for name in &names {
        let opened = metrics.find("vl3lb_service_flows_opened_total", &[("service", name)]);
        assert_eq!(opened, Some(2.0), "{name}");
    }
}

on_attachments!(services_of_one_port_are_reached_at_their_own_addresses:
    veth = Attachment::VETH_AUTO,
    veth_native = Attachment::VETH_NATIVE,
);

fn services_of_one_port_are_reached_at_their_own_addresses(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = http_servers(&topology);
    add_second_addresses(&topology);
    let hosts = [
        ("front", 0, vl3lb_testbed::addresses::BALANCER),
        ("back", 1, SECOND),
    ];
    let config = hosts
        .iter()
        .fold(Config::new(attachment.mode), |config, &(name, server, host)| {
            config.service(at(&topology, name, server, host))
        });
    let balancer = Balancer::start(&topology.balancer, &config);
    let client = &topology.clients[0].netns;
    for (name, server, host) in hosts {
        for (family, kind) in [(Family::V4, "A"), (Family::V6, "AAAA")] {
            let address = family.address(host);
            for _ in 0..3 {
                let answer = curl(client, &url(address, PORT, "/"));
                assert_eq!(
                    answer,
                    format!("Hello! I'm {}\n", server_name(server)),
                    "{name} at {address}"
                );
            }
            let answer = dig(client, address, &[&format!("{name}.vl3-lb"), kind]);
            let records: Vec<&str> = answer.records.iter().map(|(_, data)| data.as_str()).collect();
            assert_eq!(records, [address.to_string()], "{name} {kind}");
        }
    }
    let listed = balancer.cli_json(&["services"]);
    for (name, _, host) in hosts {
        let items = listed["items"].as_array().expect("a list");
        let item = items
            .iter()
            .find(|item| item["name"] == name)
            .expect("it is listed");
        let expected = Family::BOTH.map(|family| family.address(host).to_string());
        assert_eq!(item["addresses"], json!(expected), "{name}");
    }
}
