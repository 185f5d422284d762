//! UDP super-packets (UDP_SEGMENT, as QUIC stacks send them) arrive as the datagrams that they consist of.

use std::net::{SocketAddr, UdpSocket};

use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::UdpServer;
use vl3lb_tests::socket::{receive, set_udp_segment};
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

const PORT: u16 = 4433;
const SEGMENT: u16 = 1400;
const SEGMENTS: usize = 30;
const SENDS: usize = 3;

on_attachments!(each_segment_arrives_as_one_datagram:
    veth_auto = Attachment::VETH_AUTO,
    veth_native = Attachment::VETH_NATIVE,
    veth_companion = Attachment::VETH_COMPANION,
    tun_auto = Attachment::TUN_AUTO,
    tun_generic = Attachment::TUN_GENERIC,
    tun_companion = Attachment::TUN_COMPANION,
    tun_offload_auto = Attachment::TUN_OFFLOAD_AUTO,
    tun_offload_companion = Attachment::TUN_OFFLOAD_COMPANION,
);

fn each_segment_arrives_as_one_datagram(attachment: &Attachment) {
    let (topology, server) = one_server(attachment);
    let _balancer = Balancer::start(&topology.balancer, &config(&topology, attachment));
    let mut expected = Vec::new();
    for family in Family::BOTH {
        let socket = connected(&topology, family);
        for _ in 0..SENDS {
            set_udp_segment(&socket, SEGMENT).expect("the kernel knows UDP_SEGMENT");
            send_super_packet(&socket);
            expected.extend([usize::from(SEGMENT); SEGMENTS]);
            // One at a time, so that no queue overflows.
            wait::until("all segments to arrive", wait::STEP, || {
                let sizes = server.sizes();
                (sizes == expected)
                    .then_some(())
                    .ok_or_else(|| format!("{} datagrams: {sizes:?}", sizes.len()))
            });
        }
    }
}

on_attachments!(generic_mode_drops_and_counts_udp_super_packets:
    veth = Attachment::VETH_GENERIC,
    tun_offload = Attachment::TUN_OFFLOAD_GENERIC,
);

fn generic_mode_drops_and_counts_udp_super_packets(attachment: &Attachment) {
    let (topology, server) = one_server(attachment);
    let balancer = Balancer::start(&topology.balancer, &config(&topology, attachment));
    for family in Family::BOTH {
        let before = balancer.metrics().drops("udp_super_packet");
        let socket = connected(&topology, family);
        set_udp_segment(&socket, SEGMENT).expect("the kernel knows UDP_SEGMENT");
        for _ in 0..SENDS {
            send_super_packet(&socket);
        }
        wait::until("the super-packets to be counted", wait::STEP, || {
            let metrics = balancer.metrics();
            (metrics.drops("udp_super_packet") >= before + SENDS as f64)
                .then_some(())
                .ok_or_else(|| format!("{:?}", metrics.all_drops()))
        });
        // A plain datagram after them passes, and no super-packet arrives as one datagram.
        set_udp_segment(&socket, 0).expect("UDP_SEGMENT can be switched off");
        socket.send(b"plain").unwrap();
        let mut answer = [0; 100];
        let length = receive(&socket, &mut answer).expect("an answer to a plain datagram");
        assert_eq!(&answer[..length], b"server:plain");
    }
    let sizes = server.sizes();
    assert!(
        sizes.iter().all(|size| *size <= usize::from(SEGMENT)),
        "{sizes:?}"
    );
    let log = balancer.log();
    assert!(
        log.to_ascii_lowercase().contains("udp"),
        "the log does not say what this mode drops: {log}"
    );
}

fn one_server(attachment: &Attachment) -> (Topology, UdpServer) {
    let topology = Topology::build(&Shape {
        servers: 1,
        ..Shape::of(attachment)
    });
    let server = UdpServer::echo(&topology.servers[0].netns, "server", PORT);
    (topology, server)
}

fn config(topology: &Topology, attachment: &Attachment) -> Config {
    let backends = Family::BOTH.map(|family| topology.servers[0].address(family));
    Config::new(attachment.mode).service(service("quic", "UDP", PORT, PORT, &backends))
}

fn connected(topology: &Topology, family: Family) -> UdpSocket {
    client::udp(&topology.clients[0], 0, SocketAddr::new(family.balancer(), PORT))
}

fn send_super_packet(socket: &UdpSocket) {
    let payload = [7; SEGMENT as usize * SEGMENTS];
    assert_eq!(socket.send(&payload).expect("send a super-packet"), payload.len());
}
