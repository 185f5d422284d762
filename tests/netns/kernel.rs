//! Traffic that does not belong to a service reaches the kernel.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::json;
use vl3lb_testbed::addresses::{Family, INTERFACE};
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::server::greeting;
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance;

macro_rules! on_every_link {
    ($test:ident) => {
        on_attachments!($test:
            veth_auto = Attachment::VETH_AUTO,
            veth_native = Attachment::VETH_NATIVE,
            veth_native_two_queues = Attachment::VETH_NATIVE.two_queues(),
            veth_generic = Attachment::VETH_GENERIC,
            veth_companion = Attachment::VETH_COMPANION,
            tun_auto = Attachment::TUN_AUTO,
            tun_generic = Attachment::TUN_GENERIC,
        );
    };
}

on_every_link!(ping_is_answered);

fn ping_is_answered(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    for family in Family::BOTH {
        client::ping(&topology.clients[0].netns, family.balancer());
        client::ping(&topology.balancer.netns, topology.servers[0].address(family));
    }
}

on_attachments!(flushed_neighbours_are_resolved_again:
    native = Attachment::VETH_NATIVE,
    generic = Attachment::VETH_GENERIC,
    companion = Attachment::VETH_COMPANION,
);

fn flushed_neighbours_are_resolved_again(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = finance::http_servers(&topology);
    let _balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    let client = &topology.clients[0].netns;
    for _ in 0..3 {
        for node in topology
            .servers
            .iter()
            .chain([&topology.clients[0], &topology.balancer])
        {
            let mut flush = node.netns.command("ip");
            // It fails if an entry is back before it ends, which is fine.
            flush
                .args(["neigh", "flush", "dev", INTERFACE])
                .output()
                .expect("run ip");
        }
        for family in Family::BOTH {
            client::ping(client, family.balancer());
            let url = format!("http://{}/", SocketAddr::new(family.balancer(), finance::PORT));
            assert_eq!(client::curl_many(client, family, &url, 12).len(), 12);
        }
    }
}

on_every_link!(listeners_beside_the_balancer_are_reached);

fn listeners_beside_the_balancer_are_reached(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let config = finance::config(&topology, attachment.mode).with("admin", json!({"listen": "[::]:9090"}));
    let balancer = Balancer::start(&topology.balancer, &config);
    let client = &topology.clients[0].netns;
    let (status, _) = balancer
        .http("/api/v1/flows")
        .expect("the balancer answers on loopback");
    assert_eq!(status, 200);
    for family in Family::BOTH {
        let metrics = client::curl(client, &client::url(family.balancer(), 9090, "/metrics"));
        assert!(metrics.contains("vl3lb_build_info"), "{metrics}");
        // Who has which connection is for operators.
        let flows = client::curl(client, &client::url(family.balancer(), 9090, "/api/v1/flows"));
        assert!(
            flows.contains("nothing at /api/v1/flows of this address"),
            "{flows}"
        );
        for transport in ["+notcp", "+tcp"] {
            let answer = client::dig(client, family.balancer(), &["finance.vl3-lb", "A", transport]);
            assert_eq!(answer.status, "NOERROR");
        }
    }
}

on_every_link!(connections_from_the_balancers_own_node_reach_backends);

/// Replies to these come from the same address and port as replies to balanced flows.
fn connections_from_the_balancers_own_node_reach_backends(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = finance::echo_servers(&topology);
    let _balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    for family in Family::BOTH {
        let server = SocketAddr::new(topology.servers[0].address(family), finance::TARGET_PORT);
        // Many, to sample the ports that the kernel chooses.
        let connect = |_| client::tcp(&topology.balancer, server);
        let mut streams: Vec<TcpStream> = (0..100).map(connect).collect();
        for stream in &mut streams {
            assert_eq!(greeting(stream).unwrap(), finance::server_name(0));
            stream.write_all(b"ping").unwrap();
            let mut echo = [0; 4];
            stream.read_exact(&mut echo).unwrap();
            assert_eq!(&echo, b"ping");
        }
    }
}
