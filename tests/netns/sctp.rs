//! SCTP associations through the balancer, with peers in user space.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use serde_json::json;
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::{OrPanic, process};
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::sctp::{Association, Capture, SctpServer, kinds};
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

/// Diameter: its servers and clients use SCTP.
const PORT: u16 = 3868;
const TARGET_PORT: u16 = 3869;
const ASSOCIATIONS: u16 = 4;

fn config(topology: &Topology, mode: &str) -> Config {
    let servers = &topology.servers;
    let backends: Vec<IpAddr> = servers
        .iter()
        .flat_map(|server| Family::BOTH.map(|family| server.address(family)))
        .collect();
    let mut diameter = service("diameter", "SCTP", PORT, TARGET_PORT, &backends);
    diameter["healthCheck"] = json!({"ping": {}, "interval": "200ms", "timeout": "200ms", "fall": 2});
    Config::new(mode).service(diameter)
}

fn servers(topology: &Topology, capture: &Capture) -> Vec<SctpServer> {
    let servers = topology.servers.iter().enumerate();
    servers
        .map(|(number, node)| SctpServer::echo(node, &format!("server-{number}"), TARGET_PORT, capture))
        .collect()
}

/// tshark's opinion about the checksum of each packet: 1 is good, 0 bad.
fn checksums(capture: &Capture) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("sctp.pcap");
    capture.write(&file).expect("write the capture");
    let output = process::run(
        Command::new("tshark")
            .args(["-n", "-o", "sctp.checksum:CRC-32C"])
            .args(["-T", "fields", "-e", "sctp.checksum.status", "-r"])
            .arg(&file),
    );
    output.or_panic().lines().map(str::to_owned).collect()
}

on_attachments!(associations_open_carry_messages_and_close: every_mode);

fn associations_open_carry_messages_and_close(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let capture = Capture::default();
    let servers = servers(&topology, &capture);
    let balancer = Balancer::start(&topology.balancer, &config(&topology, attachment.mode));
    let client = &topology.clients[0];
    let associate = |family: Family, number: u16| {
        let to = SocketAddr::new(family.balancer(), PORT);
        Association::open(client, 40_000 + number, to, &capture)
    };
    for family in Family::BOTH {
        let mut open: Vec<_> = (0..ASSOCIATIONS)
            .map(|number| associate(family, number))
            .collect();
        for association in &mut open {
            // Blind: it changes nothing.
            association.send_forged_abort();
            for message in ["a", "message of an odd length", &"long ".repeat(250)] {
                let answer = String::from_utf8(association.ask(message.as_bytes())).expect("text");
                let (server, echoed) = answer.split_once(':').expect("a name");
                assert!(server.starts_with("server-"), "{answer}");
                assert_eq!(echoed, message);
            }
        }
        let flows = balancer.cli_json(&["flows", "--proto", "sctp", "--state", "established"]);
        let flows = flows["items"].as_array().expect("a list");
        assert_eq!(flows.len(), usize::from(ASSOCIATIONS), "{flows:?}");
        assert_eq!(flows[0]["protocol"], "SCTP");
        open.into_iter().for_each(Association::shut_down);
        let closed = || {
            let labels = [("service", "diameter"), ("cause", "fin")];
            balancer
                .metrics()
                .sum("vl3lb_service_flows_closed_total", &labels)
        };
        let round = if family == Family::V4 { 1 } else { 2 };
        wait::until("the associations to be closed", wait::STEP, || {
            let closed = closed();
            (closed == f64::from(round * ASSOCIATIONS))
                .then_some(())
                .ok_or(closed)
        });
    }
    // No server knows an address of the client: both listed ones became padding.
    let inits: Vec<_> = servers
        .iter()
        .flat_map(|server| server.received(kinds::INIT))
        .collect();
    assert!(!inits.is_empty());
    for init in &inits {
        assert_eq!(init.value[16..20], [0x80, 5, 0, 8], "{init:?}");
        assert_eq!(init.value[24..28], [0x80, 5, 0, 8], "{init:?}");
    }
    assert!(
        servers
            .iter()
            .all(|server| server.received(kinds::ABORT).is_empty())
    );
    let metrics = balancer.metrics();
    let forged = metrics.drops("verification_tag");
    assert!((1.0..=f64::from(2 * ASSOCIATIONS)).contains(&forged), "{forged}");
    for reason in ["internal", "bad_checksum", "malformed", "not_init"] {
        assert_eq!(metrics.drops(reason), 0.0, "{reason}");
    }
    let checksums = checksums(&capture);
    assert_eq!(checksums.len(), capture.len());
    assert!(checksums.len() > 60, "{} packets", checksums.len());
    assert!(checksums.iter().all(|status| status == "1"), "{checksums:?}");
}

/// A message at the time of the failure is not needed: nobody sends.
#[test]
fn clients_of_a_dead_server_get_an_abort_and_associate_with_another_one() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let capture = Capture::default();
    let _servers = servers(&topology, &capture);
    let balancer = Balancer::start(&topology.balancer, &config(&topology, "auto"));
    let to = SocketAddr::new(Family::V4.balancer(), PORT);
    let client = &topology.clients[0];
    let (association, dead) = (0..64)
        .find_map(|number| {
            let mut association = Association::open(client, 40_000 + number, to, &capture);
            let answer = association.ask(b"?");
            (answer == b"server-0:?").then_some((association, &topology.servers[0].router_port))
        })
        .expect("one of the associations is with each server");
    let router = &topology.router().netns;
    router.ip(&format!("link set {dead} down")).or_panic();
    association.wait_abort();
    for number in 0..8 {
        let answer = Association::open(client, 41_000 + number, to, &capture).ask(b"?");
        assert_ne!(answer, b"server-0:?");
    }
    let closed = balancer.metrics().sum(
        "vl3lb_service_flows_closed_total",
        &[("service", "diameter"), ("cause", "backend_down")],
    );
    assert!(closed >= 1.0);
}
