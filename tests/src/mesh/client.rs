//! A pod with the SDK's own client, as the sidecar of a real server has it.

use std::net::IpAddr;

use serde_json::{Value, json};

use vl3lb_testbed::{Netns, OrPanic};

use super::{DNS, Mesh, SERVICE};
use crate::wait;

/// A pod that is connected to the vL3 network. Dropping it ends the namespace's life, not the client's: call
/// [`leave`](Self::leave) or [`kill`](Self::kill) for that.
#[derive(Debug)]
pub struct MeshClient<'a> {
    mesh: &'a Mesh,
    pub name: String,
    pub netns: Netns,
}

impl<'a> MeshClient<'a> {
    /// Connects a client without labels of its own, on the first node.
    pub fn connect(mesh: &'a Mesh, name: &str) -> Self {
        Self::connect_with(mesh, name, 0, json!({}))
    }

    /// Connects a client with a label, on the first node.
    pub fn labelled(mesh: &'a Mesh, name: &str, label: &str) -> Self {
        Self::connect_with(mesh, name, 0, json!({"networkServices": [service_url(label)]}))
    }

    /// Connects a client of a node with fields of its configuration.
    pub fn connect_with(mesh: &'a Mesh, name: &str, node: usize, config: Value) -> Self {
        let netns = Netns::new(name).or_panic();
        let client = Self {
            mesh,
            name: name.to_owned(),
            netns,
        };
        let spec = json!({
            "kind": "client", "name": name, "node": node, "netns": client.netns.path(), "config": config,
        });
        mesh.post("/parts", &spec);
        client.netns.resolve_with(DNS.parse().expect("an IP address"));
        client
    }

    /// Its first connection, as the SDK's client sees it.
    pub fn connection(&self) -> Value {
        self.state()["connections"][format!("{}-0", self.name)].clone()
    }

    /// Its addresses in the vL3 network.
    pub fn addresses(&self) -> Vec<IpAddr> {
        addresses(&self.connection())
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.addresses()[0]
    }

    /// Requests that were answered so far: the first, refreshes and healing.
    pub fn requests(&self) -> u64 {
        self.state()["requests"].as_u64().expect("a number")
    }

    /// Those of them that gave up the connection for a new one.
    pub fn reselects(&self) -> u64 {
        self.state()["reselects"].as_u64().expect("a number")
    }

    /// Waits until it has had another answer than the first `requests`.
    pub fn wait_requests(&self, requests: u64) {
        wait::until(
            &format!("another request of {}", self.name),
            2 * wait::STEP,
            || {
                let now = self.requests();
                (now > requests)
                    .then_some(())
                    .ok_or_else(|| format!("{now} requests"))
            },
        );
    }

    /// Requests again with these labels alone.
    pub fn relabel(&self, labels: &Value) {
        self.mesh.post(&format!("/parts/{}/labels", self.name), labels);
    }

    /// Closes its connections and ends.
    pub fn leave(&self) {
        self.mesh
            .request("DELETE", &format!("/parts/{}", self.name), &Value::Null);
    }

    /// Ends without closing its connections.
    pub fn kill(&self) {
        self.mesh.kill(&self.name);
    }

    fn state(&self) -> Value {
        self.mesh.part(&self.name)["state"].clone()
    }
}

/// The URL of the network service with a label such as `app=finance`.
pub fn service_url(label: &str) -> String {
    format!("kernel://{SERVICE}/nsm-1?{label}")
}

/// The client's addresses in a connection.
pub fn addresses(connection: &Value) -> Vec<IpAddr> {
    let list = connection["context"]["ip_context"]["src_ip_addrs"].as_array();
    list.into_iter()
        .flatten()
        .filter_map(|text| text.as_str()?.split('/').next()?.parse().ok())
        .collect()
}
