//! The example of the documentation: clients of `finance.vl3-lb:8080`, and servers `finance-server-N` on port
//! 8081.

use std::net::IpAddr;

use vl3lb_testbed::addresses::Family;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::TcpServer;
use vl3lb_tests::topology::{Shape, Topology};

pub(crate) const PORT: u16 = 8080;
pub(crate) const TARGET_PORT: u16 = 8081;

/// A network with servers and a balancer for them.
pub(crate) struct Testbed {
    // In the order in which they end.
    pub(crate) balancer: Balancer,
    pub(crate) servers: Vec<TcpServer>,
    pub(crate) topology: Topology,
}

impl Testbed {
    /// HTTP servers; the balancer is ready.
    pub(crate) fn http(shape: &Shape, mode: &str) -> Self {
        Self::start(shape, mode, http_servers)
    }

    /// Echo servers; the balancer is ready.
    pub(crate) fn echo(shape: &Shape, mode: &str) -> Self {
        Self::start(shape, mode, echo_servers)
    }

    fn start(shape: &Shape, mode: &str, servers: fn(&Topology) -> Vec<TcpServer>) -> Self {
        let topology = Topology::build(shape);
        let servers = servers(&topology);
        let balancer = Balancer::start(&topology.balancer, &config(&topology, mode));
        Self {
            balancer,
            servers,
            topology,
        }
    }
}

/// The name of the server with this index.
pub(crate) fn server_name(index: usize) -> String {
    format!("finance-server-{}", index + 1)
}

/// An HTTP server in each server pod.
pub(crate) fn http_servers(topology: &Topology) -> Vec<TcpServer> {
    let servers = topology.servers.iter().enumerate();
    servers
        .map(|(index, node)| TcpServer::http(&node.netns, &server_name(index), TARGET_PORT))
        .collect()
}

/// An echo server in each server pod.
pub(crate) fn echo_servers(topology: &Topology) -> Vec<TcpServer> {
    let servers = topology.servers.iter().enumerate();
    servers
        .map(|(index, node)| TcpServer::echo(&node.netns, &server_name(index), TARGET_PORT))
        .collect()
}

/// The addresses of all servers, both families.
pub(crate) fn backends(topology: &Topology) -> Vec<IpAddr> {
    let servers = topology.servers.iter();
    servers
        .flat_map(|node| Family::BOTH.map(|family| node.address(family)))
        .collect()
}

/// The service `finance` over all servers, both families.
pub(crate) fn config(topology: &Topology, mode: &str) -> Config {
    Config::new(mode).service(service("finance", "TCP", PORT, TARGET_PORT, &backends(topology)))
}
