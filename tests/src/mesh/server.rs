//! Real servers: pods in the vL3 network in which a server listens.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::Mesh;
use super::balancer::TARGET_PORT;
use super::client::{MeshClient, service_url};
use crate::server::TcpServer;

/// A pod labelled app=finance with a server on [`TARGET_PORT`] that says its name and echoes.
#[derive(Debug)]
pub struct MeshServer<'a> {
    // Ends before its namespace.
    server: Option<TcpServer>,
    pub client: MeshClient<'a>,
}

impl<'a> MeshServer<'a> {
    /// Starts `finance-server-NUMBER` on the first node.
    pub fn start(mesh: &'a Mesh, number: usize) -> Self {
        Self::start_with(
            mesh,
            number,
            0,
            json!({"networkServices": [service_url("app=finance")]}),
        )
    }

    /// Starts it on a node, with fields of the client's configuration.
    pub fn start_with(mesh: &'a Mesh, number: usize, node: usize, config: Value) -> Self {
        let name = format!("finance-server-{number}");
        let client = MeshClient::connect_with(mesh, &name, node, config);
        Self {
            server: Some(TcpServer::echo(&client.netns, &name, TARGET_PORT)),
            client,
        }
    }

    /// Starts `count` of them, numbered from 1.
    pub fn several(mesh: &'a Mesh, count: usize) -> Vec<Self> {
        (1..=count).map(|number| Self::start(mesh, number)).collect()
    }

    pub fn name(&self) -> &str {
        &self.client.name
    }

    pub fn address(&self) -> IpAddr {
        self.client.address()
    }

    /// Dies with its pod's processes: the server's connections are reset, and nobody closes the NSM connection.
    pub fn crash(&mut self) {
        self.client.kill();
        self.server = None;
    }
}

/// The addresses of servers.
pub fn addresses(servers: &[MeshServer<'_>]) -> Vec<IpAddr> {
    servers.iter().map(MeshServer::address).collect()
}
