//! Health checks detect dead backends, whose flows end at once, and backends that are back.

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use serde_json::{Value, json};
use vl3lb_testbed::OrPanic;
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::{UdpServer, greeting};
use vl3lb_tests::socket::{connect_tcp, receive};
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance::{self, PORT, TARGET_PORT};

/// The UDP service's port; its backends answer TCP at [`TARGET_PORT`].
const ECHO: u16 = 5300;
const NEW_CONNECTIONS: usize = 40;

#[test]
fn a_disconnected_backend_loses_its_flows_and_returns() {
    let attachment = Attachment::VETH_AUTO;
    let topology = Topology::build(&Shape::of(&attachment));
    let _servers = finance::echo_servers(&topology);
    let _echo = udp_servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &config(&topology, attachment.mode));
    wait_states(&balancer, &topology, ["up", "up", "up"]);
    let mut connection = connection_to(&topology, 0);
    let socket = udp_flow_to(&topology, 0);

    let port = &topology.servers[0].router_port;
    let set_port = |state: &str| {
        topology
            .router()
            .netns
            .ip(&format!("link set {port} {state}"))
            .or_panic()
    };
    set_port("down");
    wait_states(&balancer, &topology, ["down", "up", "up"]);
    // The client sends nothing, and no packet of the dead server arrives: the reset comes from the balancer.
    let read = connection.read(&mut [0]);
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_ne!(request(&socket), "finance-server-1:?");
    let names = new_connections(&topology);
    assert!(!names.contains(&finance::server_name(0)), "{names:?}");
    let metrics = balancer.metrics();
    let closed = |service| {
        let labels = [("service", service), ("cause", "backend_down")];
        metrics.sum("vl3lb_service_flows_closed_total", &labels)
    };
    assert!(closed("finance") >= 1.0 && closed("echo") >= 1.0);
    let check = check_status(&balancer, &topology, 0);
    assert!(
        check["lastError"].is_string() && check["consecutive"].as_u64() >= Some(2),
        "{check}"
    );

    set_port("up");
    wait_states(&balancer, &topology, ["up", "up", "up"]);
    wait::until("new connections to reach the backend again", wait::STEP, || {
        let names = new_connections(&topology);
        names
            .contains(&finance::server_name(0))
            .then_some(())
            .ok_or_else(|| format!("{names:?}"))
    });
    assert_eq!(balancer.metrics().drops("internal"), 0.0);
}

on_attachments!(a_service_rejects_new_flows_while_all_backends_are_down:
    veth_auto = Attachment::VETH_AUTO,
    tun_auto = Attachment::TUN_AUTO,
);

fn a_service_rejects_new_flows_while_all_backends_are_down(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let mut servers = finance::echo_servers(&topology);
    let _echo = udp_servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &config(&topology, attachment.mode));
    wait_states(&balancer, &topology, ["up", "up", "up"]);

    servers.remove(0);
    wait_states(&balancer, &topology, ["down", "up", "up"]);
    let names = new_connections(&topology);
    assert!(!names.contains(&finance::server_name(0)), "{names:?}");
    let address = topology.servers[0].address(Family::V4);
    let line = format!("backend finance/{address}:{TARGET_PORT} up -> down: tcp connect refused (2 of 2)");
    assert_eq!(balancer.log().matches(&line).count(), 1, "{line}");

    servers.clear();
    wait_states(&balancer, &topology, ["down", "down", "down"]);
    assert_eq!(
        connect(&topology).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    let socket = udp_socket(&topology);
    socket.send(b"?").unwrap();
    let refused = receive(&socket, &mut [0; 100]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let line = "service finance degraded -> down: no backend up (0 of 3); new flows are refused";
    assert_eq!(balancer.log().matches(line).count(), 1);

    let _servers = finance::echo_servers(&topology);
    wait_states(&balancer, &topology, ["up", "up", "up"]);
    connect(&topology).unwrap();
}

on_attachments!(health_checks_bypass_the_workers:
    veth_auto = Attachment::VETH_AUTO,
    tun_auto = Attachment::TUN_AUTO,
);

fn health_checks_bypass_the_workers(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = finance::echo_servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &config(&topology, attachment.mode));
    wait_states(&balancer, &topology, ["up", "up", "up"]);
    let good = |balancer: &Balancer| {
        let labels = [("service", "finance"), ("result", "ok")];
        balancer.metrics().sum("vl3lb_health_checks_total", &labels)
    };
    let checks = good(&balancer);
    wait::until("ten more checks", wait::STEP, || {
        let more = good(&balancer) - checks;
        (more >= 10.0).then_some(()).ok_or_else(|| more.to_string())
    });
    let received = balancer.metrics().sum("vl3lb_worker_received_packets_total", &[]);
    assert_eq!(received, 0.0);
}

/// TCP and UDP over all servers, IPv4, with quick checks of the TCP port.
fn config(topology: &Topology, mode: &str) -> Config {
    let backends: Vec<_> = topology
        .servers
        .iter()
        .map(|node| node.address(Family::V4))
        .collect();
    let checked = |mut service: Value, tcp: Value| {
        service["scheduler"] = "round-robin".into();
        service["healthCheck"] =
            json!({"tcp": tcp, "interval": "500ms", "timeout": "500ms", "rise": 2, "fall": 2});
        service
    };
    let finance = service("finance", "TCP", PORT, TARGET_PORT, &backends);
    let echo = service("echo", "UDP", ECHO, ECHO, &backends);
    Config::new(mode)
        .service(checked(finance, json!({})))
        .service(checked(echo, json!({"port": TARGET_PORT})))
}

fn udp_servers(topology: &Topology) -> Vec<UdpServer> {
    let servers = topology.servers.iter().enumerate();
    servers
        .map(|(index, node)| UdpServer::echo(&node.netns, &finance::server_name(index), ECHO))
        .collect()
}

/// Waits until the backends of both services are in these states.
fn wait_states(balancer: &Balancer, topology: &Topology, states: [&str; 3]) {
    let servers = topology.servers.iter().zip(states);
    let expected: Vec<_> = servers
        .map(|(node, state)| (node.address(Family::V4).to_string(), state))
        .collect();
    for service in ["finance", "echo"] {
        balancer.wait_backends(service, &expected);
    }
}

/// The health check of a backend of `finance`, as the views show it.
fn check_status(balancer: &Balancer, topology: &Topology, server: usize) -> Value {
    let answer = balancer.cli_json(&["backends", "--service", "finance"]);
    let address = topology.servers[server].address(Family::V4).to_string();
    let items = answer["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["address"] == address.as_str());
    item.unwrap()["check"].clone()
}

fn connect(topology: &Topology) -> io::Result<TcpStream> {
    let node = &topology.clients[0];
    let from = SocketAddr::new(node.address(Family::V4), 0);
    let to = SocketAddr::new(Family::V4.balancer(), PORT);
    node.netns.run(|| connect_tcp(from, to, wait::STEP))
}

/// The names of the servers that new connections reach.
fn new_connections(topology: &Topology) -> Vec<String> {
    let server = |_| greeting(&mut connect(topology).expect("connect to the service")).expect("a greeting");
    (0..NEW_CONNECTIONS).map(server).collect()
}

/// A connection to this server.
fn connection_to(topology: &Topology, server: usize) -> TcpStream {
    let name = finance::server_name(server);
    let mut connections = (0..NEW_CONNECTIONS).map(|_| connect(topology).expect("connect to the service"));
    let found = connections.find_map(|mut stream| (greeting(&mut stream).ok()? == name).then_some(stream));
    found.expect("round-robin reaches every server")
}

fn udp_socket(topology: &Topology) -> UdpSocket {
    let to = SocketAddr::new(Family::V4.balancer(), ECHO);
    client::udp(&topology.clients[0], 0, to)
}

/// A UDP socket whose flow has this server.
fn udp_flow_to(topology: &Topology, server: usize) -> UdpSocket {
    let answer = format!("{}:?", finance::server_name(server));
    let mut sockets = (0..NEW_CONNECTIONS).map(|_| udp_socket(topology));
    sockets
        .find(|socket| request(socket) == answer)
        .expect("round-robin reaches every server")
}

fn request(socket: &UdpSocket) -> String {
    socket.send(b"?").expect("send a question");
    let mut answer = [0; 100];
    let length = receive(socket, &mut answer).expect("an answer");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}
