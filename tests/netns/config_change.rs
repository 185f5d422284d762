//! The configuration changes while 200 connections are open, and none of them is disturbed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::json;
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::Config;
use vl3lb_tests::server::greeting;
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance;

const CONNECTIONS: usize = 200;
const REPLACEMENTS: u32 = 100;

on_attachments!(long_connections_survive_configuration_changes:
    veth_auto = Attachment::VETH_AUTO,
    veth_native_two_queues = Attachment::VETH_NATIVE.two_queues(),
    tun_auto = Attachment::TUN_AUTO,
);

fn long_connections_survive_configuration_changes(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = finance::echo_servers(&topology);
    let address = |server: usize| topology.servers[server].address(Family::V4).to_string();
    let up = |server: usize| (address(server), "up");
    // Backends as pairs of server and weight.
    let config = |backends: &[(usize, u32)]| {
        let backends: Vec<_> = backends
            .iter()
            .map(|(server, weight)| json!({"address": address(*server), "weight": weight}))
            .collect();
        Config::new(attachment.mode).service(json!({
            "name": "finance",
            "protocol": "TCP",
            "port": finance::PORT,
            "targetPort": finance::TARGET_PORT,
            "drain": "300s",
            "backends": backends,
        }))
    };

    let mut balancer = Balancer::start(&topology.balancer, &config(&[(0, 1), (1, 1)]));
    balancer.wait_backends("finance", &[up(0), up(1)]);
    let mut connections = Connections::open(&topology, CONNECTIONS);
    connections.exchange("before any change");
    assert_eq!(connections.backends(), ["finance-server-1", "finance-server-2"]);

    balancer.replace_config(&config(&[(0, 1), (1, 1), (2, 1)]));
    balancer.wait_backends("finance", &[up(0), up(1), up(2)]);
    connections.exchange("after a backend was added");
    let new = Connections::open(&topology, 40);
    assert_eq!(
        new.backends(),
        ["finance-server-1", "finance-server-2", "finance-server-3"]
    );

    balancer.replace_config(&config(&[(1, 1), (2, 1)]));
    balancer.wait_backends("finance", &[(address(0), "draining"), up(1), up(2)]);
    connections.exchange("while their backend drains");
    let new = Connections::open(&topology, 40);
    assert_eq!(new.backends(), ["finance-server-2", "finance-server-3"]);

    for replacement in 0..REPLACEMENTS {
        let config = config(&[(1, 1 + replacement % 3), (2, 1)]);
        if replacement % 2 == 0 {
            balancer.replace_config(&config);
        } else {
            balancer.swap_config(&config);
        }
        connections.exchange("while the file is replaced");
    }
    // The file is still watched after all replacements, and its last version is in force.
    balancer.swap_config(&config(&[(2, 1)]));
    balancer.wait_backends(
        "finance",
        &[(address(0), "draining"), (address(1), "draining"), up(2)],
    );
    connections.exchange("after the file was replaced 100 times");
    assert_eq!(Connections::open(&topology, 10).backends(), ["finance-server-3"]);
    assert_eq!(balancer.metrics().drops("internal"), 0.0);
}

/// Open connections, each with the name of the backend that greeted it.
struct Connections(Vec<(TcpStream, String)>);

impl Connections {
    fn open(topology: &Topology, count: usize) -> Self {
        let node = &topology.clients[0];
        let to = SocketAddr::new(Family::V4.balancer(), finance::PORT);
        let open = || {
            let mut stream = client::tcp(node, to);
            let name = greeting(&mut stream).expect("the backend greets");
            (stream, name)
        };
        Self((0..count).map(|_| open()).collect())
    }

    /// The backends that serve these connections.
    fn backends(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.iter().map(|(_, name)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Sends data over each connection and reads its echo.
    fn exchange(&mut self, when: &str) {
        for (number, (stream, name)) in self.0.iter_mut().enumerate() {
            let message = [u8::try_from(number % 251).expect("below 251"); 100];
            let mut echo = [0; 100];
            stream
                .write_all(&message)
                .and_then(|()| stream.read_exact(&mut echo))
                .unwrap_or_else(|error| panic!("connection {number} to {name} {when}: {error}"));
            assert_eq!(echo, message, "connection {number} to {name} {when}");
        }
    }
}
