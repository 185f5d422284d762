//! iperf3 runs through the balancer: TCP and UDP, IPv4 and IPv6.

use std::net::IpAddr;

use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client::{Iperf3Server, iperf3};
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::topology::{Shape, Topology};

const PORT: u16 = 5201;

on_attachments!(iperf3_runs_over_tcp_and_udp: every_veth_mode,
    veth_auto = Attachment::VETH_AUTO,
    tun_auto = Attachment::TUN_AUTO,
    tun_offload_auto = Attachment::TUN_OFFLOAD_AUTO,
);

fn iperf3_runs_over_tcp_and_udp(attachment: &Attachment) {
    let topology = Topology::build(&Shape {
        servers: 1,
        ..Shape::of(attachment)
    });
    // UDP tests have a control connection over TCP at the same port.
    let server = &topology.servers[0];
    let backends: [IpAddr; 2] = Family::BOTH.map(|family| server.address(family));
    let config = Config::new(attachment.mode)
        .service(service("iperf-tcp", "TCP", PORT, PORT, &backends))
        .service(service("iperf-udp", "UDP", PORT, PORT, &backends));
    let _balancer = Balancer::start(&topology.balancer, &config);
    let client = &topology.clients[0].netns;
    for family in Family::BOTH {
        let address = family.balancer();
        for direction in [&[] as &[&str], &["--reverse"]] {
            let _server = Iperf3Server::start(&server.netns, PORT);
            let report = iperf3(client, address, PORT, &[&["-n", "20M"], direction].concat());
            let received = &report["end"]["sum_received"]["bytes"];
            // The client ends the receiver's count, with some of the data still on the way.
            assert!(
                received.as_f64() > Some(10e6),
                "{family:?} {direction:?}: {received} bytes"
            );
        }
        let _server = Iperf3Server::start(&server.netns, PORT);
        let report = iperf3(
            client,
            address,
            PORT,
            &["-u", "-b", "20M", "-l", "1000", "-t", "1"],
        );
        let sum = &report["end"]["sum"];
        let (packets, lost) = (sum["packets"].as_f64(), sum["lost_percent"].as_f64());
        assert!(packets > Some(1000.0), "{family:?}: {sum}");
        // Other tests run at the same time on the same cores.
        assert!(lost < Some(5.0), "{family:?}: {sum}");
    }
}
