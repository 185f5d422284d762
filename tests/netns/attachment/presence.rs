//! The interface is missing at the start, or is removed and comes back.

use serde_json::Value;
use vl3lb_testbed::OrPanic;
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::server::greeting;
use vl3lb_tests::topology::Topology;

use super::{
    add, assert_no_defects, download, echo, get, http, interface, interface_lost, remove, status,
    two_servers, wait_interface_lost, wait_not_ready,
};
use crate::finance::{self, PORT};

on_attachments!(it_starts_without_its_interface_and_serves_when_it_appears: every_veth_mode,
    veth_auto = Attachment::VETH_AUTO,
);

fn it_starts_without_its_interface_and_serves_when_it_appears(attachment: &Attachment) {
    let topology = Topology::build(&two_servers(attachment));
    let _servers = finance::http_servers(&topology);
    remove(&topology);
    let mut balancer = Balancer::launch(&topology.balancer, &finance::config(&topology, attachment.mode));
    wait_not_ready(&balancer, "does not exist: waiting for it");
    assert_eq!(balancer.http("/healthz").expect("GET /healthz").0, 200);
    assert_eq!(balancer.metrics().sum("vl3lb_ready", &[]), 0.0);
    let status = status(&balancer);
    let reason = status["notReadyReason"].as_str().unwrap_or_default();
    assert!(reason.contains("waiting for it"), "{status}");
    assert_eq!(
        (&status["mode"], &status["interface"]["index"]),
        (&Value::Null, &Value::Null)
    );
    let text = balancer.cli(&["status"]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(
        text.contains("nsm-1 ABSENT") && text.contains("not attached"),
        "{text}"
    );

    add(&topology, 1500, 1);
    balancer.wait_ready();
    get(&topology);
    let events = balancer.cli_json(&["events"]);
    let codes: Vec<_> = events["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|event| &event["code"])
        .collect();
    assert!(codes.iter().any(|code| **code == "attached"), "{codes:?}");
    assert_eq!(balancer.terminate().code(), Some(0), "{}", balancer.log());
}

on_attachments!(a_download_survives_the_replacement_of_the_interface: every_veth_mode);

fn a_download_survives_the_replacement_of_the_interface(attachment: &Attachment) {
    let mut testbed = http(attachment);
    let (topology, balancer) = (&testbed.topology, &mut testbed.balancer);
    let old = interface(balancer);
    for family in Family::BOTH {
        download(topology, family, || {
            remove(topology);
            wait_not_ready(balancer, "does not exist");
            add(topology, 1500, 1);
        });
    }
    balancer.wait_ready();
    assert_ne!(interface(balancer)["index"], old["index"]);
    assert_eq!(interface_lost(balancer), 0.0);
    assert_no_defects(balancer);
    get(topology);
    assert_eq!(balancer.terminate().code(), Some(0), "{}", balancer.log());
}

#[test]
fn flows_end_as_interface_lost_when_it_returns_with_another_address() {
    let mut testbed = echo(&Attachment::VETH_AUTO);
    let (topology, balancer) = (&testbed.topology, &mut testbed.balancer);
    let client = &topology.clients[0];
    let connect = |address| {
        let mut stream = client::tcp(client, (address, PORT).into());
        greeting(&mut stream).expect("a server greets");
        stream
    };
    let _ended = Family::BOTH.map(|family| connect(family.balancer()));
    remove(topology);
    wait_not_ready(balancer, "does not exist");
    let new = Family::BOTH.map(|family| family.address(104));
    let node = topology.balancer.with_addresses(new);
    topology.router().join(&node, 1500, 1).or_panic();
    balancer.wait_ready();
    wait_interface_lost(balancer, 2.0);
    assert_eq!(balancer.metrics().sum("vl3lb_service_flows", &[]), 0.0);
    connect(Family::V4.address(104));
    assert_no_defects(balancer);
}

#[test]
fn downloads_survive_new_interfaces_with_other_mtus_and_queues() {
    let mut testbed = http(&Attachment::VETH_AUTO);
    let (topology, balancer) = (&testbed.topology, &mut testbed.balancer);
    for (mtu, queues) in [(1500, 2), (9000, 1), (4000, 4), (1500, 1)] {
        download(topology, Family::V4, || {
            remove(topology);
            add(topology, mtu, queues);
        });
        balancer.wait_ready();
        assert_eq!(interface(balancer)["mtu"], mtu, "{queues} queues");
        get(topology);
    }
    assert_no_defects(balancer);
}
