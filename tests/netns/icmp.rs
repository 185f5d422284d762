//! ICMP errors are matched to their flow and translated, in both directions.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_ip_ttl, set_ipv6_unicast_hops, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketType, ipproto, recvfrom};
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::node::{Layout, Node};
use vl3lb_testbed::{OrPanic, process};
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::socket::receive;
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance;

const UDP_PORT: u16 = 5000;

on_attachments!(a_smaller_mtu_on_the_path_is_discovered_in_both_directions: every_veth_mode,
    veth_auto = Attachment::VETH_AUTO,
);

fn a_smaller_mtu_on_the_path_is_discovered_in_both_directions(attachment: &Attachment) {
    const LENGTH: u64 = 3_000_000;
    let topology = Topology::build(&Shape {
        layout: Layout::Routed,
        servers: 1,
        ..Shape::of(attachment)
    });
    let _servers = finance::http_servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    let (client, server) = (&topology.clients[0], &topology.servers[0]);
    for family in Family::BOTH {
        let narrow = |node: &Node, mtu: u16| {
            let prefix = if family == Family::V4 { 32 } else { 128 };
            let (address, port) = (node.address(family), &node.router_port);
            topology
                .router()
                .netns
                .ip(&format!("route replace {address}/{prefix} dev {port} mtu {mtu}"))
                .or_panic();
        };
        // The ends do not know it: the MTU of their own interfaces is 1500.
        narrow(server, 1400);
        client::upload(&client.netns, family.balancer(), finance::PORT, LENGTH);
        assert_eq!(
            path_mtu(client, family.balancer()),
            Some(1400),
            "{family:?}, client"
        );
        narrow(client, 1300);
        client::download(&client.netns, family.balancer(), finance::PORT, LENGTH);
        assert_eq!(
            path_mtu(server, family.balancer()),
            Some(1300),
            "{family:?}, server"
        );
    }
    assert_eq!(balancer.metrics().drops("internal"), 0.0);
}

/// The path MTU to `to` that `node` has learned.
fn path_mtu(node: &Node, to: IpAddr) -> Option<u16> {
    let route = process::run(node.netns.command("ip").args(["route", "get", &to.to_string()])).or_panic();
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu");
    words.nth(1)?.parse().ok()
}

on_attachments!(port_unreachable_from_a_backend_reaches_the_client: every_mode);

fn port_unreachable_from_a_backend_reaches_the_client(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _balancer = Balancer::start(&topology.balancer, &udp_config(&topology, attachment));
    for family in Family::BOTH {
        let to = SocketAddr::new(family.balancer(), UDP_PORT);
        let socket = client::udp(&topology.clients[0], 0, to);
        socket.send(b"request").expect("send");
        let error = receive(&socket, &mut [0; 10]).expect_err("an ICMP error");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family:?}: {error}");
    }
}

on_attachments!(a_packet_with_expired_ttl_gets_time_exceeded: every_mode);

fn a_packet_with_expired_ttl_gets_time_exceeded(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let balancer = Balancer::start(&topology.balancer, &udp_config(&topology, attachment));
    let node = &topology.clients[0];
    for family in Family::BOTH {
        let errors = icmp_listener(node, family);
        let socket = client::udp(node, 0, SocketAddr::new(family.balancer(), UDP_PORT));
        let source_port = socket.local_addr().expect("a bound socket").port();
        match family {
            Family::V4 => set_ip_ttl(&socket, 1),
            Family::V6 => set_ipv6_unicast_hops(&socket, Some(1)),
        }
        .expect("set the time to live");
        socket.send(b"traceroute").expect("send");
        let (from, error) = next_error(&errors, family);
        assert_eq!(from, family.balancer());
        assert_eq!(error[1], 0, "code: exceeded in transit");
        // The original: its header, then its source and destination port as the client sent them.
        let inner = &error[8..];
        let transport = if family == Family::V4 { 20 } else { 40 };
        let port = |at: usize| u16::from_be_bytes([inner[at], inner[at + 1]]);
        assert_eq!(
            (port(transport), port(transport + 2)),
            (source_port, UDP_PORT),
            "{family:?}: {error:x?}"
        );
    }
    assert!(balancer.metrics().drops("ttl_expired") >= 2.0);
}

fn udp_config(topology: &Topology, attachment: &Attachment) -> Config {
    Config::new(attachment.mode).service(service(
        "udp",
        "UDP",
        UDP_PORT,
        UDP_PORT,
        &finance::backends(topology),
    ))
}

fn icmp_listener(node: &Node, family: Family) -> OwnedFd {
    let (domain, protocol) = match family {
        Family::V4 => (AddressFamily::INET, ipproto::ICMP),
        Family::V6 => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let socket = node
        .netns
        .run(|| rustix::net::socket(domain, SocketType::RAW, Some(protocol)))
        .expect("open a raw ICMP socket");
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(10))).expect("set a time-out");
    socket
}

/// Sender and ICMP message, from its header on, of the next Time Exceeded.
fn next_error(socket: &OwnedFd, family: Family) -> (IpAddr, Vec<u8>) {
    let time_exceeded = if family == Family::V4 { 11 } else { 3 };
    let mut buffer = vec![0; 2000];
    // Among neighbour discovery and pings.
    for _ in 0..100 {
        let (length, _, from) =
            recvfrom(socket, &mut buffer, RecvFlags::empty()).expect("a Time Exceeded message");
        // Raw IPv4 sockets receive the IP header.
        let start = if family == Family::V4 {
            usize::from(buffer[0] & 15) * 4
        } else {
            0
        };
        if buffer[start] == time_exceeded {
            let from = from.expect("a sender").try_into().expect("an internet address");
            let from: SocketAddr = from;
            return (from.ip(), buffer[start..length].to_vec());
        }
    }
    panic!("no Time Exceeded among 100 ICMP messages");
}
