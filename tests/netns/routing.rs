//! Packets take the way that the kernel's rules and routes give them.

use std::net::SocketAddr;

use serde_json::Value;
use vl3lb_testbed::OrPanic;
use vl3lb_testbed::addresses::{Family, INTERFACE};
use vl3lb_testbed::process;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::UdpServer;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance::{self, PORT, TARGET_PORT, http_servers};

/// The texts of the warnings with this code.
pub(crate) fn warnings(balancer: &Balancer, code: &str) -> Vec<String> {
    let status = balancer.cli_json(&["status"]);
    let warnings = status["items"][0]["warnings"].as_array();
    let warnings = warnings.expect("a list of warnings");
    let of_code = warnings.iter().filter(|warning| warning["code"] == code);
    of_code
        .map(|warning| warning["text"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn a_source_rule_routes_the_balancers_packets() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = http_servers(&topology);
    let own = Family::V4.balancer();
    let rules = format!(
        "rule add from {own}/32 table 100\n\
         route add 172.16.1.0/24 dev {INTERFACE} table 100\n\
         route add default via 172.16.1.1 table 100\n\
         route del 172.16.1.0/24 dev {INTERFACE}"
    );
    let fetch = |balancer: &Balancer, when: &str| {
        let answer = client::curl(&topology.clients[0].netns, &client::url(own, PORT, "/"));
        assert!(
            answer.starts_with("Hello! I'm finance-server-"),
            "{when}: {answer}"
        );
        assert_eq!(balancer.metrics().drops("neighbor_unresolved"), 0.0, "{when}");
        for code in ["no_route", "routing_inexact"] {
            assert_eq!(warnings(balancer, code), [""; 0], "{when}");
        }
    };
    let mut balancer = Balancer::start(&topology.balancer, &finance::config(&topology, "auto"));
    fetch(&balancer, "without a rule");
    topology.balancer.netns.ip(&rules).or_panic();
    fetch(&balancer, "the rule is new");
    balancer.terminate();
    balancer.restart();
    fetch(&balancer, "started with the rule");

    // Without a route in its table nothing is sent, and that is shown.
    topology.balancer.netns.ip("route flush table 100").or_panic();
    wait::until("the warning about backends without a route", wait::STEP, || {
        let shown = warnings(&balancer, "no_route");
        let names_all = shown.len() == 1
            && topology
                .servers
                .iter()
                .all(|server| shown[0].contains(&server.address(Family::V4).to_string()));
        names_all.then_some(()).ok_or_else(|| format!("{shown:?}"))
    });
}

#[test]
fn a_backend_behind_an_unreachable_route_gets_no_flows() {
    const BEHIND: &str = "10.9.0.5";
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = http_servers(&topology);
    let gateway = topology.servers[1].address(Family::V4);
    topology
        .balancer
        .netns
        .ip(&format!(
            "route add default via {gateway}\nroute add unreachable 10.9.0.0/24"
        ))
        .or_panic();
    let good = topology.servers[0].address(Family::V4);
    let behind = BEHIND.parse().expect("an address");
    let config = Config::new("auto")
        .service(service("finance", "TCP", PORT, TARGET_PORT, &[good, behind]))
        .service(service("echo", "UDP", 5000, 5000, &[behind]));
    let balancer = Balancer::start(&topology.balancer, &config);
    let client = &topology.clients[0];
    let url = client::url(Family::V4.balancer(), PORT, "/");
    let answers = client::curl_many(&client.netns, Family::V4, &url, 20);
    assert_eq!(answers, ["Hello! I'm finance-server-1"; 20]);

    let backends = balancer.cli_json(&["backends", "--service", "finance"]);
    let backends = backends["items"].as_array().expect("a list of backends");
    let state = |address: &str| -> Value {
        let backend = backends.iter().find(|backend| backend["address"] == address);
        backend.expect("the backend")["nextHop"]["state"].clone()
    };
    assert_eq!(state(BEHIND), "unreachable");
    assert_eq!(state(&good.to_string()), "resolved");
    let shown = warnings(&balancer, "no_route");
    assert!(
        matches!(&shown[..], [text] if text.contains("10.9.0.5 (unreachable)")),
        "{shown:?}"
    );

    let socket = client::udp(client, 0, SocketAddr::new(Family::V4.balancer(), 5000));
    socket.send(b"request").expect("send");
    wait::until("the datagram to be dropped", wait::STEP, || {
        let drops = balancer.metrics().drops("no_route");
        (drops == 1.0).then_some(()).ok_or_else(|| format!("{drops}"))
    });
    // The route goes, and packets take the default route.
    topology
        .balancer
        .netns
        .ip("route del unreachable 10.9.0.0/24")
        .or_panic();
    wait::until("no warning", wait::STEP, || {
        match warnings(&balancer, "no_route") {
            shown if shown.is_empty() => Ok(()),
            shown => Err(format!("{shown:?}")),
        }
    });
}

#[test]
fn the_mtu_of_a_route_is_that_of_its_packets() {
    for lock in ["", "lock "] {
        let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
        let behind = "10.9.0.5".parse().expect("an address");
        let server = UdpServer::echo(&topology.servers[0].netns, "server", 5000);
        let gateway = topology.servers[0].address(Family::V4);
        topology.servers[0]
            .netns
            .ip(&format!("addr add {behind}/32 dev {INTERFACE}"))
            .or_panic();
        topology
            .balancer
            .netns
            .ip(&format!("route add 10.9.0.0/24 via {gateway} mtu {lock}1400"))
            .or_panic();
        let config = Config::new("auto").service(service("echo", "UDP", 5000, 5000, &[behind]));
        let balancer = Balancer::start(&topology.balancer, &config);
        let client = &topology.clients[0];
        let to = SocketAddr::new(Family::V4.balancer(), 5000);
        let socket = client::udp(client, 0, to);
        // With DF, as Linux sends datagrams first.
        socket.send(&[7; 1472]).expect("send");
        wait::until("the client to learn the MTU", wait::STEP, || {
            let shown = process::run(
                client
                    .netns
                    .command("ip")
                    .args(["route", "get", &to.ip().to_string()]),
            )
            .or_panic();
            shown.contains("mtu 1400").then_some(()).ok_or(shown)
        });
        assert_eq!(balancer.metrics().drops("mtu_exceeded"), 1.0);
        assert_eq!(server.sizes(), [0; 0]);
        // The socket reports the ICMP error once.
        let error = socket.send(&[7; 1372]).expect_err("the ICMP error");
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        socket.send(&[7; 1372]).expect("send");
        wait::until("what fits to arrive", wait::STEP, || match server.sizes() {
            sizes if sizes == [1372] => Ok(()),
            sizes => Err(format!("{sizes:?}")),
        });
    }
}
