//! A backend calls its own service and reaches itself and the others.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;

use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::process;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::{TcpServer, UdpServer, greeting};
use vl3lb_tests::socket::{connect_tcp, receive};
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance::{self, backends, server_name};

const PORT: u16 = 7000;
const TARGET_PORT: u16 = 7001;

on_attachments!(a_backend_reaches_itself_and_others_by_its_own_service: every_mode,
    veth_native_two_queues = Attachment::VETH_NATIVE.two_queues(),
    veth_companion_two_queues = Attachment::VETH_COMPANION.two_queues(),
);

fn a_backend_reaches_itself_and_others_by_its_own_service(attachment: &Attachment) {
    let topology = Topology::build(&Shape {
        servers: 2,
        ..Shape::of(attachment)
    });
    let servers = topology.servers.iter().enumerate();
    let _servers: Vec<_> = servers
        .map(|(index, node)| {
            let name = server_name(index);
            (
                TcpServer::echo(&node.netns, &name, TARGET_PORT),
                UdpServer::echo(&node.netns, &name, TARGET_PORT),
            )
        })
        .collect();
    let backends = backends(&topology);
    let config = Config::new(attachment.mode)
        .service(service("tcp", "TCP", PORT, TARGET_PORT, &backends))
        .service(service("udp", "UDP", PORT, TARGET_PORT, &backends));
    let balancer = Balancer::start(&topology.balancer, &config);
    let all: BTreeSet<String> = (0..topology.servers.len()).map(server_name).collect();
    let node = &topology.servers[0];
    for family in Family::BOTH {
        let to = SocketAddr::new(family.balancer(), PORT);
        let mut reached = [BTreeSet::new(), BTreeSet::new()];
        for _ in 0..32 {
            let mut stream = client::tcp(node, to);
            reached[0].insert(greeting(&mut stream).expect("the name of the server"));
            let mut echo = [0; 5];
            stream.write_all(b"hello").expect("send");
            stream.read_exact(&mut echo).expect("the echo");
            assert_eq!(&echo, b"hello");

            let socket = client::udp(node, 0, to);
            socket.send(b"hello").expect("send");
            let mut answer = [0; 64];
            let length = receive(&socket, &mut answer).expect("an answer");
            let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
            let name = answer.strip_suffix(":hello").expect("the datagram, with a name");
            reached[1].insert(name.to_owned());
        }
        assert_eq!(reached, [all.clone(), all.clone()], "{family:?}");
    }
    for reason in ["backend_loop", "martian", "unknown_reply", "internal"] {
        assert_eq!(balancer.metrics().drops(reason), 0.0, "{reason}");
    }
}

/// The kernel delivers packets to its own addresses over `lo`, so they never come to the interface. Backends' addresses
/// work, as everywhere, and so does the rule in the README by which the kernel chooses one.
#[test]
fn packets_from_the_balancers_own_namespace_stay_in_the_kernel() {
    let topology = Topology::build(&Shape {
        servers: 2,
        ..Shape::of(&Attachment::VETH_AUTO)
    });
    let _servers = finance::echo_servers(&topology);
    let own = &topology.balancer;
    let balancer = Balancer::start(own, &finance::config(&topology, "auto"));
    let connect = |family: Family, to| {
        let from = SocketAddr::new(own.address(family), 0);
        own.netns.run(|| connect_tcp(from, to, wait::STEP))
    };
    for family in Family::BOTH {
        let address = own.address(family);
        let mut route = own.netns.command("ip");
        let route =
            process::run(route.args(["route", "get", &address.to_string()])).expect("ask for the route");
        assert!(route.starts_with("local") && route.contains("dev lo"), "{route}");
        let refused = connect(family, SocketAddr::new(address, finance::PORT));
        let refused = refused.map_err(|error| error.kind()).err();
        assert_eq!(refused, Some(std::io::ErrorKind::ConnectionRefused));
        let backend = SocketAddr::new(topology.servers[0].address(family), finance::TARGET_PORT);
        let mut stream = connect(family, backend).expect("connect to a backend");
        greeting(&mut stream).expect("its name");
    }
    let opened = || balancer.metrics().sum("vl3lb_service_flows_opened_total", &[]);
    assert_eq!(opened(), 0.0);

    let address = own.address(Family::V4);
    let [first, second] = [0, 1].map(|server: usize| topology.servers[server].address(Family::V4));
    let (port, target_port) = (finance::PORT, finance::TARGET_PORT);
    let rules = format!(
        "table ip local-clients {{ chain output {{ type nat hook output priority -100; ip daddr {address} tcp dport {port} dnat \
         to numgen inc mod 2 map {{ 0 : {first}, 1 : {second} }} : {target_port}; }}; }}"
    );
    process::run(own.netns.command("nft").arg(rules)).expect("have the kernel choose a backend");
    let mut reached = BTreeSet::new();
    for _ in 0..4 {
        let mut stream = connect(Family::V4, SocketAddr::new(address, port)).expect("connect by the rule");
        reached.insert(greeting(&mut stream).expect("the name of a server"));
    }
    assert_eq!(reached, BTreeSet::from([0, 1].map(server_name)));
    assert_eq!(opened(), 0.0);
}
