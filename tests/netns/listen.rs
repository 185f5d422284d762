//! Services of one port at different addresses of the balancer.

use serde_json::json;
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

on_attachments!(services_of_one_port_are_reached_at_their_own_addresses:
    veth = Attachment::VETH_AUTO,
    veth_native = Attachment::VETH_NATIVE,
);

fn services_of_one_port_are_reached_at_their_own_addresses(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = http_servers(&topology);
    for (family, length) in [(Family::V4, 24), (Family::V6, 64)] {
        let option = if family == Family::V6 { " nodad" } else { "" };
        let second = family.address(SECOND);
        let command = format!("address add {second}/{length} dev {INTERFACE}{option}");
        topology.balancer.netns.ip(&command).or_panic();
    }
    let at = |name: &str, server: usize, host: u8| {
        let backends = Family::BOTH.map(|family| topology.servers[server].address(family));
        let mut service = service(name, "TCP", PORT, TARGET_PORT, &backends);
        service["addresses"] = json!(Family::BOTH.map(|family| family.address(host).to_string()));
        service
    };
    let hosts = [
        ("front", 0, vl3lb_testbed::addresses::BALANCER),
        ("back", 1, SECOND),
    ];
    let config = hosts
        .iter()
        .fold(Config::new(attachment.mode), |config, &(name, server, host)| {
            config.service(at(name, server, host))
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
