//! 60,000 flows at a time from one own address to one backend.

use std::net::SocketAddr;

use serde_json::json;
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client::text;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::perf::{self, EchoServer};
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance::{PORT, TARGET_PORT};

const FLOWS: u32 = 60_000;
/// The kernel's ephemeral ports, as the manifests in deploy/ set them.
const LOCAL_PORT_RANGE: &str = "63488 65535";
/// Ports from 1024 on without these and the service's.
const NAT_PORTS: u32 = 62_463;
/// Runs in which the flows are opened: a busy machine loses packets.
const RUNS: u32 = 20;

#[test]
fn one_backend_has_60_000_flows_from_one_own_address() {
    let topology = Topology::build(&Shape {
        // The last sixteenth of the ports is kept for clients with less than half of them.
        clients: 2,
        servers: 1,
        ..Shape::of(&Attachment::VETH_AUTO)
    });
    let own = &topology.balancer;
    own.netns
        .sysctl("net/ipv4/ip_local_port_range", LOCAL_PORT_RANGE)
        .expect("set the ephemeral ports");
    let server = &topology.servers[0];
    let _server = EchoServer::serve(&server.netns, TARGET_PORT);
    let backend = server.address(Family::V4);
    let config = Config::new("auto").with("flows", json!(100_000)).service(service(
        "udp",
        "UDP",
        PORT,
        TARGET_PORT,
        &[backend],
    ));
    let balancer = Balancer::start(own, &config);

    let path = balancer.config_path();
    let check = balancer.cli(&["check", "--config", path.to_str().expect("a path of ASCII")]);
    let check = text(&check);
    assert!(
        check.contains(&format!("{NAT_PORTS} flows at a time to each backend")),
        "{check}"
    );
    let ports = || balancer.cli_json(&["backends"])["items"][0]["natPorts"].clone();
    assert_eq!(ports()["capacity"], NAT_PORTS);

    let target = SocketAddr::new(Family::V4.balancer(), PORT).to_string();
    let flows = (FLOWS / 2).to_string();
    for (clients, client) in (1..).zip(&topology.clients) {
        for run in 1..=RUNS {
            let seed = run.to_string();
            let words = [
                "load", &target, "--flows", &flows, "--engine", "xdp", "-R", "40000", "-d", "3s", "-O", "0s",
                "--seed", &seed,
            ];
            let output = perf::run(&client.netns, &words);
            let used = ports()["used"].clone();
            if used == clients * FLOWS / 2 {
                break;
            }
            assert!(run < RUNS, "{used} flows: {}", text(&output));
        }
    }
    let metrics = balancer.metrics();
    assert_eq!(metrics.sum("vl3lb_service_flows", &[]), f64::from(FLOWS));
    for reason in ["nat_ports_exhausted", "flow_table_full", "client_limit"] {
        assert_eq!(metrics.drops(reason), 0.0, "{reason}");
    }
}
