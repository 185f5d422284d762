//! Clients with the same source port and backend have separate flows.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::{TcpServer, UdpServer, greeting};
use vl3lb_tests::socket::{connect_tcp, receive};
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

const PORT: u16 = 7000;
const SOURCE_PORT: u16 = 40_000;
const ROUNDS: u32 = 200;
const CLIENTS: u8 = 2;

on_attachments!(clients_with_equal_source_ports_have_separate_flows: every_mode,
    veth_native_two_queues = Attachment::VETH_NATIVE.two_queues(),
    veth_companion_two_queues = Attachment::VETH_COMPANION.two_queues(),
);

fn clients_with_equal_source_ports_have_separate_flows(attachment: &Attachment) {
    let topology = Topology::build(&Shape {
        clients: CLIENTS,
        servers: 1,
        ..Shape::of(attachment)
    });
    let _tcp = TcpServer::echo(&topology.servers[0].netns, "server", PORT);
    let _udp = UdpServer::echo(&topology.servers[0].netns, "server", PORT);
    let backends = Family::BOTH.map(|family| topology.servers[0].address(family));
    let config = Config::new(attachment.mode)
        .service(service("tcp", "TCP", PORT, PORT, &backends))
        .service(service("udp", "UDP", PORT, PORT, &backends));
    let balancer = Balancer::start(&topology.balancer, &config);
    for family in Family::BOTH {
        let to = SocketAddr::new(family.balancer(), PORT);
        tcp(&topology, &balancer, family, to);
        udp(&topology, to);
    }
}

/// In each round, all clients write before any of them reads.
fn tcp(topology: &Topology, balancer: &Balancer, family: Family, to: SocketAddr) {
    let mut streams: Vec<TcpStream> = topology
        .clients
        .iter()
        .map(|node| {
            let from = SocketAddr::new(node.address(family), SOURCE_PORT);
            let mut stream = node
                .netns
                .run(|| connect_tcp(from, to, wait::STEP))
                .unwrap_or_else(|error| panic!("connect from {from} to {to}: {error}"));
            assert_eq!(greeting(&mut stream).unwrap(), "server");
            stream
        })
        .collect();
    let flows = balancer.cli_json(&["flows", "--service", "tcp", "--state", "established"]);
    let flows = flows["items"].as_array().expect("a list of flows");
    let server = topology.servers[0].address(family).to_string();
    let nat_ports: BTreeSet<u64> = flows
        .iter()
        .filter(|flow| flow["clientPort"] == SOURCE_PORT && flow["backend"] == server.as_str())
        .filter_map(|flow| flow["natPort"].as_u64())
        .collect();
    assert_eq!(nat_ports.len(), streams.len(), "one NAT port each: {flows:?}");
    for round in 0..ROUNDS {
        for (client, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&message(client, round)).unwrap();
        }
        for (client, stream) in streams.iter_mut().enumerate() {
            let mut echo = [0; 64];
            stream
                .read_exact(&mut echo)
                .unwrap_or_else(|error| panic!("client {client} round {round}: {error}"));
            assert_eq!(echo, message(client, round), "client {client} round {round}");
        }
    }
}

fn udp(topology: &Topology, to: SocketAddr) {
    let sockets: Vec<_> = topology
        .clients
        .iter()
        .map(|node| client::udp(node, SOURCE_PORT, to))
        .collect();
    for round in 0..ROUNDS {
        for (client, socket) in sockets.iter().enumerate() {
            socket.send(&message(client, round)).unwrap();
        }
        for (client, socket) in sockets.iter().enumerate() {
            let mut echo = [0; 100];
            let length = receive(socket, &mut echo)
                .unwrap_or_else(|error| panic!("client {client} round {round}: {error}"));
            let expected = [b"server:", &message(client, round)[..]].concat();
            assert_eq!(&echo[..length], expected, "client {client} round {round}");
        }
    }
}

fn message(client: usize, round: u32) -> [u8; 64] {
    let mut bytes = [u8::try_from(client).expect("few clients"); 64];
    bytes[..4].copy_from_slice(&round.to_be_bytes());
    bytes
}
