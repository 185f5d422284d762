//! Flows that cannot be served are rejected at once, by a TCP reset or an ICMP error.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::node::Node;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::{TcpServer, greeting};
use vl3lb_tests::socket::{connect_tcp, receive};
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance;

const NO_SERVICE: u16 = 9999;
/// Distinguishes a reject from a time-out: a SYN without an answer is repeated after one second.
const AT_ONCE: Duration = Duration::from_secs(10);

on_attachments!(a_service_without_backends_rejects_new_flows: every_mode);

fn a_service_without_backends_rejects_new_flows(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let config = Config::new(attachment.mode)
        .service(service(
            "empty-tcp",
            "TCP",
            finance::PORT,
            finance::TARGET_PORT,
            &[],
        ))
        .service(service(
            "empty-udp",
            "UDP",
            finance::PORT,
            finance::TARGET_PORT,
            &[],
        ));
    let balancer = Balancer::start(&topology.balancer, &config);
    for family in Family::BOTH {
        rejects_both(
            &topology.clients[0],
            SocketAddr::new(family.balancer(), finance::PORT),
        );
    }
    let metrics = balancer.metrics();
    for name in ["empty-tcp", "empty-udp"] {
        let dropped = metrics.sum(
            "vl3lb_drop_packets_total",
            &[("reason", "no_backend"), ("service", name)],
        );
        assert!(dropped >= 2.0, "{name}: {dropped} counted as no_backend");
    }
}

#[test]
fn a_service_rejects_the_family_without_backends() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = finance::http_servers(&topology);
    let v4: Vec<IpAddr> = topology
        .servers
        .iter()
        .map(|server| server.address(Family::V4))
        .collect();
    let config = Config::new("auto").service(service(
        "finance",
        "TCP",
        finance::PORT,
        finance::TARGET_PORT,
        &v4,
    ));
    let _balancer = Balancer::start(&topology.balancer, &config);
    let node = &topology.clients[0];
    let answer = client::curl(
        &node.netns,
        &client::url(Family::V4.balancer(), finance::PORT, "/"),
    );
    assert!(answer.starts_with("Hello!"), "{answer}");
    rejects_tcp(node, SocketAddr::new(Family::V6.balancer(), finance::PORT));
}

on_attachments!(ports_without_a_service_belong_to_the_kernel: every_mode);

fn ports_without_a_service_belong_to_the_kernel(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    let node = &topology.clients[0];
    for family in Family::BOTH {
        let to = SocketAddr::new(family.balancer(), NO_SERVICE);
        rejects_both(node, to);
        // The port of a TCP service is not a service over UDP.
        rejects_udp(node, SocketAddr::new(family.balancer(), finance::PORT));
    }
    let _listener = TcpServer::echo(&topology.balancer.netns, "kernel", NO_SERVICE);
    for family in Family::BOTH {
        let to = SocketAddr::new(family.balancer(), NO_SERVICE);
        let from = SocketAddr::new(node.address(family), 0);
        // It is a NAT port until the balancer notices the listener.
        let mut stream = wait::until("the listener to be reached", wait::STEP, || {
            node.netns.run(|| connect_tcp(from, to, AT_ONCE))
        });
        assert_eq!(greeting(&mut stream).unwrap(), "kernel");
    }
}

fn rejects_both(node: &Node, to: SocketAddr) {
    rejects_tcp(node, to);
    rejects_udp(node, to);
}

fn rejects_tcp(node: &Node, to: SocketAddr) {
    let from = SocketAddr::new(node.address(Family::of(to.ip())), 0);
    let start = Instant::now();
    let result = node.netns.run(|| connect_tcp(from, to, AT_ONCE));
    let error = result.expect_err("a rejected connection");
    assert_eq!(
        error.kind(),
        ErrorKind::ConnectionRefused,
        "TCP {to} after {:?}: {error}",
        start.elapsed()
    );
}

fn rejects_udp(node: &Node, to: SocketAddr) {
    let socket = client::udp(node, 0, to);
    socket.send(b"request").expect("send");
    let error = receive(&socket, &mut [0; 10]).expect_err("an ICMP error");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "UDP {to}: {error}");
}
