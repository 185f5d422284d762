//! The ground that the other tests stand on: clients and servers talk directly, without a balancer.

use std::net::SocketAddr;

use vl3lb_tests::attachment::{Attachment, Link};
use vl3lb_tests::client;
use vl3lb_tests::server::{TcpServer, UdpServer};
use vl3lb_tests::socket::{receive, set_udp_segment};
use vl3lb_tests::topology::{Family, Layout, Shape, Topology};
use vl3lb_tests::wait;

use crate::finance::{TARGET_PORT, http_servers};

on_attachments!(peers_reach_each_other_without_a_balancer:
    veth = Attachment::VETH_AUTO,
    veth_mtu_9000 = Attachment::VETH_AUTO.mtu(9000),
    veth_two_queues = Attachment::VETH_AUTO.two_queues(),
    tun = Attachment::TUN_AUTO,
    tun_offload = Attachment::TUN_OFFLOAD_AUTO,
    tun_offload_mtu_9000 = Attachment::TUN_OFFLOAD_AUTO.mtu(9000),
);

fn peers_reach_each_other_without_a_balancer(attachment: &Attachment) {
    talk(&Shape::of(attachment));
}

#[test]
fn peers_reach_each_other_through_a_router() {
    talk(&Shape {
        layout: Layout::Routed,
        ..Shape::of(&Attachment::VETH_AUTO)
    });
}

fn talk(shape: &Shape) {
    let topology = Topology::build(shape);
    let _servers = http_servers(&topology);
    let client = &topology.clients[0].netns;
    for family in Family::BOTH {
        let server = topology.servers[1].address(family);
        client::ping(client, server);
        client::ping(client, family.balancer());
        let answer = client::curl(client, &client::url(server, TARGET_PORT, "/"));
        assert_eq!(answer, "Hello! I'm finance-server-2\n");
        client::download(client, server, TARGET_PORT, 20_000_000);
        client::upload(client, server, TARGET_PORT, 20_000_000);
    }
}

#[test]
fn super_packets_are_seen_whole_only_where_the_link_says_so() {
    for (offloads, expected) in [(true, 42_000 + 28..=42_000 + 28), (false, 1400 + 28..=1500)] {
        let topology = Topology::build(&Shape {
            link: Link::Tun { offloads },
            ..Shape::of(&Attachment::TUN_AUTO)
        });
        let server = UdpServer::echo(&topology.servers[0].netns, "server", 5000);
        let to = SocketAddr::new(topology.servers[0].address(Family::V4), 5000);
        let socket = client::udp(&topology.clients[0], 0, to);
        set_udp_segment(&socket, 1400).unwrap();
        socket.send(&[7; 42_000]).unwrap();
        wait::until("30 datagrams to arrive", wait::STEP, || {
            let sizes = server.sizes();
            (sizes == [1400; 30])
                .then_some(())
                .ok_or_else(|| format!("{sizes:?}"))
        });
        let longest = topology.switch().longest_packet();
        assert!(expected.contains(&longest), "offloads: {offloads}: {longest}");
    }
}

#[test]
fn iperf3_runs_directly() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _server = client::Iperf3Server::start(&topology.servers[0].netns, 5201);
    let address = topology.servers[0].address(Family::V6);
    let report = client::iperf3(&topology.clients[0].netns, address, 5201, &["-n", "10M"]);
    let received = &report["end"]["sum_received"]["bytes"];
    // The server's count ends when the client says so, with some of the data still on the way.
    assert!(received.as_f64() > Some(5e6), "{received} bytes");
}

#[test]
fn the_echo_servers_say_who_they_are() {
    let topology = Topology::build(&Shape::of(&Attachment::TUN_AUTO));
    let _tcp = TcpServer::echo(&topology.servers[0].netns, "alice", 6000);
    let _udp = UdpServer::echo(&topology.servers[0].netns, "alice", 6000);
    let host = &topology.clients[0];
    let to = SocketAddr::new(topology.servers[0].address(Family::V6), 6000);
    let from = SocketAddr::new(host.address(Family::V6), 0);
    let mut stream = host
        .netns
        .run(|| vl3lb_tests::socket::connect_tcp(from, to, wait::STEP))
        .unwrap();
    assert_eq!(vl3lb_tests::server::greeting(&mut stream).unwrap(), "alice");
    let socket = client::udp(host, 0, to);
    socket.send(b"hi").unwrap();
    let mut answer = [0; 100];
    let length = receive(&socket, &mut answer).unwrap();
    assert_eq!(&answer[..length], b"alice:hi");
}
