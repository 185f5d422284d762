//! The example of the documentation: clients of `finance.vl3-lb:8080`, and servers `finance-server-N` on port
//! 8081.

use std::net::IpAddr;

use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::TcpServer;
use vl3lb_tests::topology::{Family, Topology};

pub(crate) const PORT: u16 = 8080;
pub(crate) const TARGET_PORT: u16 = 8081;

/// The name of the server with this index.
pub(crate) fn server_name(index: usize) -> String {
    format!("finance-server-{}", index + 1)
}

/// An HTTP server in each server pod.
pub(crate) fn http_servers(topology: &Topology) -> Vec<TcpServer> {
    let servers = topology.servers.iter().enumerate();
    servers
        .map(|(index, host)| TcpServer::http(&host.netns, &server_name(index), TARGET_PORT))
        .collect()
}

/// An echo server in each server pod.
pub(crate) fn echo_servers(topology: &Topology) -> Vec<TcpServer> {
    let servers = topology.servers.iter().enumerate();
    servers
        .map(|(index, host)| TcpServer::echo(&host.netns, &server_name(index), TARGET_PORT))
        .collect()
}

/// The addresses of all servers, both families.
pub(crate) fn backends(topology: &Topology) -> Vec<IpAddr> {
    let servers = topology.servers.iter();
    servers
        .flat_map(|host| Family::BOTH.map(|family| host.address(family)))
        .collect()
}

/// The service `finance` over all servers, both families.
pub(crate) fn config(topology: &Topology, mode: &str) -> Config {
    Config::new(mode).service(service("finance", "TCP", PORT, TARGET_PORT, &backends(topology)))
}
