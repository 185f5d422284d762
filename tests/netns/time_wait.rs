//! NAT ports come back while the backend, which closes first, has their last connection in TIME-WAIT.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::json;
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::netns::Netns;
use vl3lb_testbed::node::Node;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::socket::connect_tcp;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

const PORT: u16 = 7000;
/// Hosts, whose timestamps and sequence numbers have nothing to do with each other.
const CLIENTS: u8 = 4;
/// Of each client, one after the other: a NAT port comes back after 2.5 s, and most are used four times.
const CONNECTIONS: u32 = 250;
const INTERVAL: Duration = Duration::from_millis(40);
const NAT_PORTS: &str = "10240-10495";

on_attachments!(the_backend_accepts_connections_from_ports_in_time_wait:
    veth_native = Attachment::VETH_NATIVE,
    tun_auto = Attachment::TUN_AUTO,
);

fn the_backend_accepts_connections_from_ports_in_time_wait(attachment: &Attachment) {
    let topology = Topology::build(&Shape {
        clients: CLIENTS,
        servers: 1,
        ..Shape::of(attachment)
    });
    let server = &topology.servers[0];
    let listener = server
        .netns
        .run(|| TcpListener::bind(SocketAddr::new(server.address(Family::V4), PORT)))
        .unwrap();
    let serving = std::thread::spawn(move || serve(&listener, u32::from(CLIENTS) * CONNECTIONS));
    let config = Config::new(attachment.mode)
        .with("natPorts", json!(NAT_PORTS))
        .service(service("web", "TCP", PORT, PORT, &[server.address(Family::V4)]));
    let _balancer = Balancer::start(&topology.balancer, &config);

    std::thread::scope(|scope| {
        for node in &topology.clients {
            scope.spawn(|| node.netns.run(|| connect_often(node)));
        }
    });
    serving.join().unwrap();
    let repeated: u32 = topology
        .clients
        .iter()
        .map(|node| repeated_syns(&node.netns))
        .sum();
    // On a busy machine a SYN may be repeated because its answer is late. Half of 744 were before.
    assert!(repeated < 100, "{repeated} SYNs were sent again");
}

/// Answers each connection and closes it first.
fn serve(listener: &TcpListener, connections: u32) {
    for _ in 0..connections {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"x").unwrap();
    }
}

fn connect_often(node: &Node) {
    let from = SocketAddr::new(node.address(Family::V4), 0);
    let to = SocketAddr::new(Family::V4.balancer(), PORT);
    for nth in 0..CONNECTIONS {
        std::thread::sleep(INTERVAL);
        let mut stream: TcpStream =
            connect_tcp(from, to, wait::STEP).unwrap_or_else(|error| panic!("connection {nth}: {error}"));
        stream.write_all(b"x").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"x");
    }
}

/// SYNs that a node's kernel has sent again.
fn repeated_syns(netns: &Netns) -> u32 {
    let mut command = netns.command("nstat");
    let output = command.args(["-asz", "TcpExtTCPSynRetrans"]).output().unwrap();
    let text = client::text(&output);
    let count = text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "TcpExtTCPSynRetrans").then(|| words.next()?.parse().ok())?
    });
    count.unwrap_or_else(|| panic!("nstat shows no repeated SYNs: {text}"))
}
