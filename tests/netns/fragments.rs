//! Datagrams that are longer than a packet may be, and routes with an MTU of their own.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use vl3lb_testbed::addresses::{Family, INTERFACE};
use vl3lb_testbed::node::Node;
use vl3lb_testbed::{OrPanic, process};
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client::{self, Iperf3Server, iperf3};
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::UdpServer;
use vl3lb_tests::socket::receive;
use vl3lb_tests::topology::{Shape, Topology};

const PORT: u16 = 5000;

fn one_server(attachment: &Attachment) -> Topology {
    Topology::build(&Shape {
        servers: 1,
        ..Shape::of(attachment)
    })
}

fn config(topology: &Topology, attachment: &Attachment) -> Config {
    let backends = Family::BOTH.map(|family| topology.servers[0].address(family));
    Config::new(attachment.mode)
        .service(service("udp", "UDP", PORT, PORT, &backends))
        .service(service("tcp", "TCP", PORT, PORT, &backends))
}

/// Sends a datagram of `length` bytes and checks its echo.
fn echo(socket: &UdpSocket, length: usize) {
    let payload: Vec<u8> = (0..=250).cycle().take(length).collect();
    // The first one is refused while the kernel does not know the path's MTU.
    for attempt in 0..3 {
        if socket.send(&payload).is_err() {
            continue;
        }
        let mut answer = vec![0; 65_536];
        if let Ok(received) = receive(socket, &mut answer) {
            assert!(
                answer[..received] == *[b"server:", &payload[..]].concat(),
                "{length} bytes"
            );
            return;
        }
        assert!(attempt < 2, "no echo of {length} bytes");
    }
}

on_attachments!(datagrams_in_fragments_reach_the_backend_and_come_back:
    veth_auto = Attachment::VETH_AUTO,
    veth_native_two_queues = Attachment::VETH_NATIVE.two_queues(),
    veth_generic = Attachment::VETH_GENERIC,
    veth_companion = Attachment::VETH_COMPANION,
    tun_auto = Attachment::TUN_AUTO,
);

fn datagrams_in_fragments_reach_the_backend_and_come_back(attachment: &Attachment) {
    let topology = one_server(attachment);
    let _server = UdpServer::echo(&topology.servers[0].netns, "server", PORT);
    let balancer = Balancer::start(&topology.balancer, &config(&topology, attachment));
    for family in Family::BOTH {
        // Pings in fragments are the kernel's.
        let ping = ["-n", "-c", "3", "-i", "0.1", "-W", "3", "-s", "4000"];
        let mut command = topology.clients[0].netns.command("ping");
        let output = process::run(command.args(ping).arg(family.balancer().to_string())).or_panic();
        assert!(output.contains(" 0% packet loss"), "{output}");
        let to = SocketAddr::new(family.balancer(), PORT);
        for length in [2_000, 8_000, 40_000] {
            // The first fragments open the flow.
            let socket = client::udp(&topology.clients[0], 0, to);
            for _ in 0..3 {
                echo(&socket, length);
            }
        }
    }
    assert_eq!(balancer.metrics().drops("internal"), 0.0);
}

on_attachments!(iperf3_sends_datagrams_in_fragments:
    veth_auto = Attachment::VETH_AUTO,
    veth_generic = Attachment::VETH_GENERIC,
    tun_auto = Attachment::TUN_AUTO,
);

fn iperf3_sends_datagrams_in_fragments(attachment: &Attachment) {
    let topology = one_server(attachment);
    let _balancer = Balancer::start(&topology.balancer, &config(&topology, attachment));
    let client = &topology.clients[0].netns;
    for family in Family::BOTH {
        for direction in [&[] as &[&str], &["--reverse"]] {
            let _server = Iperf3Server::start(&topology.servers[0].netns, PORT);
            let load = ["-u", "-b", "20M", "-l", "8000", "-t", "1"];
            let report = iperf3(client, family.balancer(), PORT, &[&load, direction].concat());
            let sum = &report["end"]["sum"];
            assert!(sum["packets"].as_f64() > Some(100.0), "{family:?}: {sum}");
            // Other tests run at the same time on the same cores.
            assert!(
                sum["lost_percent"].as_f64() < Some(5.0),
                "{family:?} {direction:?}: {sum}"
            );
        }
    }
}

on_attachments!(a_routes_mtu_is_told_to_senders_in_both_directions:
    veth_auto = Attachment::VETH_AUTO,
    veth_generic = Attachment::VETH_GENERIC,
    veth_companion = Attachment::VETH_COMPANION,
);

fn a_routes_mtu_is_told_to_senders_in_both_directions(attachment: &Attachment) {
    let topology = one_server(attachment);
    let (client, server) = (&topology.clients[0], &topology.servers[0]);
    let _server = UdpServer::echo(&server.netns, "server", PORT);
    for family in Family::BOTH {
        for (node, mtu) in [(server, 1400), (client, 1300)] {
            let (address, bits) = (node.address(family), if family == Family::V4 { 32 } else { 128 });
            let route = format!("route add {address}/{bits} dev {INTERFACE} mtu {mtu}");
            topology.balancer.netns.ip(&route).or_panic();
        }
    }
    let balancer = Balancer::start(&topology.balancer, &config(&topology, attachment));
    for family in Family::BOTH {
        let socket = client::udp(client, 0, SocketAddr::new(family.balancer(), PORT));
        echo(&socket, 1_420);
        assert_eq!(
            path_mtu(client, family.balancer()),
            Some(1400),
            "{family:?}, client"
        );
        assert_eq!(
            path_mtu(server, family.balancer()),
            Some(1300),
            "{family:?}, server"
        );
    }
    assert!(balancer.metrics().drops("mtu_exceeded") >= 4.0);
}

on_attachments!(tracepath_finds_the_mtu_of_the_path:
    veth_auto = Attachment::VETH_AUTO,
    veth_generic = Attachment::VETH_GENERIC,
    veth_companion = Attachment::VETH_COMPANION,
);

/// It sends a datagram to the next port each time, first one that ends at the balancer.
fn tracepath_finds_the_mtu_of_the_path(attachment: &Attachment) {
    const FIRST: u16 = 6000;
    let topology = one_server(attachment);
    let (client, server) = (&topology.clients[0], &topology.servers[0]);
    let mut config = Config::new(attachment.mode);
    for family in Family::BOTH {
        let (address, bits) = (
            server.address(family),
            if family == Family::V4 { 32 } else { 128 },
        );
        let route = format!("route add {address}/{bits} dev {INTERFACE} mtu 1400");
        topology.balancer.netns.ip(&route).or_panic();
    }
    let backends = Family::BOTH.map(|family| server.address(family));
    for port in FIRST..FIRST + 40 {
        // Nothing listens there, which is how tracepath knows that it has arrived.
        config = config.service(service(&format!("s{port}"), "UDP", port, PORT, &backends));
    }
    let _balancer = Balancer::start(&topology.balancer, &config);
    for family in Family::BOTH {
        let mut tracepath = client.netns.command("tracepath");
        tracepath.args([
            "-n",
            "-m",
            "4",
            "-p",
            &FIRST.to_string(),
            &family.balancer().to_string(),
        ]);
        let output = process::run(&mut tracepath).or_panic();
        assert!(output.contains("pmtu 1400"), "{output}");
        assert!(output.contains("Resume: pmtu 1400 hops 2"), "{output}");
        assert!(output.contains("reached"), "{output}");
    }
}

/// What `node` has learned about the path to `to`.
fn path_mtu(node: &Node, to: IpAddr) -> Option<u16> {
    let route = process::run(node.netns.command("ip").args(["route", "get", &to.to_string()])).or_panic();
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu");
    words.nth(1)?.parse().ok()
}
