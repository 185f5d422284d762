//! A backend calls its own service and reaches itself and the others.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;

use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::{TcpServer, UdpServer, greeting};
use vl3lb_tests::socket::receive;
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance::{backends, server_name};

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
