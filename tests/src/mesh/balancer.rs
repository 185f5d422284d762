//! The balancer as a client of the vL3 network, started with the predecessor's environment and no file.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut};

use serde_json::Value;

use vl3lb_testbed::OrPanic;
use vl3lb_testbed::node::Node;

use super::{Mesh, SERVICE};
use crate::balancer::Balancer;
use crate::wait;

/// Its name in the vL3 network, and that of its service.
pub const NAME: &str = "finance";
/// The port of its service.
pub const PORT: u16 = 8080;
/// The port of its backends.
pub const TARGET_PORT: u16 = 80;

/// A balancer in a pod of its own. Dropping it ends it at once.
#[derive(Debug)]
pub struct MeshBalancer {
    balancer: Balancer,
    node: Node,
}

impl MeshBalancer {
    /// Starts it on the first node, and waits until it is connected and ready.
    pub fn join(mesh: &Mesh) -> Self {
        Self::join_with(mesh, &[])
    }

    /// The same with variables that differ; an empty one counts as unset.
    pub fn join_with(mesh: &Mesh, variables: &[(&str, &str)]) -> Self {
        let mut balancer = Self::launch(mesh, variables);
        balancer.wait_connected();
        balancer.wait_ready();
        balancer
    }

    /// Starts it without waiting.
    pub fn launch(mesh: &Mesh, variables: &[(&str, &str)]) -> Self {
        let node = Node::new(NAME, []).or_panic();
        mesh.attach_pod(&node.netns);
        let mut environment: BTreeMap<String, String> = [
            ("NSM_NAME", NAME),
            ("POD_NAME", NAME),
            ("NODE_NAME", "node-0"),
            ("NSM_CONNECT_TO", &mesh.connect_to(0)),
            ("NSM_NETWORK_SERVICES", &format!("kernel://{SERVICE}/nsm-1")),
            ("NSM_SELECTOR", "app:finance"),
            ("NSM_PORT", &PORT.to_string()),
            ("NSM_TARGET_PORT", &TARGET_PORT.to_string()),
            ("NSM_PROTOCOL", "tcp"),
            ("SPIFFE_ENDPOINT_SOCKET", &mesh.identity(NAME)),
        ]
        .into_iter()
        .chain(variables.iter().copied())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        environment.retain(|_, value| !value.is_empty());
        let environment: Vec<(String, String)> = environment.into_iter().collect();
        Self {
            balancer: Balancer::launch_with_environment(&node, &environment),
            node,
        }
    }

    /// Its pod.
    pub fn pod(&self) -> &Node {
        &self.node
    }

    /// Waits until it has a connection that needs nothing.
    pub fn wait_connected(&self) {
        wait::until("the connection to the vL3 network", 2 * wait::STEP, || {
            let state = self.try_nsm().map(|nsm| nsm["state"].clone())?;
            (state == "connected")
                .then_some(())
                .ok_or_else(|| state.to_string())
        });
    }

    /// Its connection, as `vl3-lb status` shows it.
    pub fn nsm(&self) -> Value {
        self.try_nsm().unwrap_or_else(|error| panic!("status: {error}"))
    }

    /// Its addresses in the vL3 network.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let nsm = self.nsm();
        let list = nsm["addresses"].as_array().into_iter().flatten();
        list.map(|text| text.as_str().unwrap_or_default().parse().expect("an IP address"))
            .collect()
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.addresses()[0]
    }

    /// How many calls of this kind ended in this way.
    pub fn calls(&self, call: &str, result: &str) -> u64 {
        let nsm = self.nsm();
        let counts = nsm["calls"].as_array().into_iter().flatten();
        counts
            .filter(|count| count["call"] == call && count["result"] == result)
            .map(|count| count["callsTotal"].as_u64().expect("a number"))
            .sum()
    }

    /// Waits until exactly these servers are up; others may drain or be down.
    pub fn wait_up(&self, servers: &[IpAddr]) {
        let mut expected: Vec<SocketAddr> = servers
            .iter()
            .map(|address| SocketAddr::new(*address, TARGET_PORT))
            .collect();
        expected.sort();
        wait::until(
            &format!("the backends that are up to be {expected:?}"),
            2 * wait::STEP,
            || {
                let found = self.up();
                (found == expected)
                    .then_some(())
                    .ok_or_else(|| format!("{found:?}"))
            },
        );
    }

    /// The backends that are up, sorted.
    pub fn up(&self) -> Vec<SocketAddr> {
        let answer = self.cli_json(&["backends"]);
        let items = answer["items"].as_array().into_iter().flatten();
        let mut found: Vec<SocketAddr> = items
            .filter(|item| item["state"] == "up")
            .map(|item| {
                let address = item["address"].as_str().unwrap_or_default();
                let port = item["port"].as_u64().expect("a number");
                SocketAddr::new(
                    address.parse().expect("an IP address"),
                    port.try_into().expect("a port"),
                )
            })
            .collect();
        found.sort();
        found
    }

    /// Codes of the events so far, oldest first.
    pub fn event_codes(&self) -> Vec<String> {
        let answer = self.cli_json(&["events"]);
        let items = answer["items"].as_array().into_iter().flatten();
        items
            .filter_map(|item| Some(item["code"].as_str()?.to_owned()))
            .collect()
    }

    /// The events of a kind so far.
    pub fn events(&self, code: &str) -> Vec<Value> {
        let answer = self.cli_json(&["events"]);
        let items = answer["items"].as_array().into_iter().flatten();
        items.filter(|event| event["code"] == code).cloned().collect()
    }

    /// Panics if a backend left or was down since the start.
    pub fn assert_no_backend_lost(&self) {
        let is_loss = |event: &Value| {
            ["draining", "gone", "down"]
                .iter()
                .any(|state| event["to"] == *state)
        };
        let lost: Vec<Value> = self.events("backend_state").into_iter().filter(is_loss).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }

    /// Discovery of clients, as `vl3-lb status` shows it.
    pub fn discovery(&self) -> Value {
        self.cli_json(&["status"])["items"][0]["discovery"][0].clone()
    }

    fn try_nsm(&self) -> Result<Value, String> {
        let output = self.cli(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(status["items"][0]["nsm"].clone())
    }
}

impl Deref for MeshBalancer {
    type Target = Balancer;

    fn deref(&self) -> &Balancer {
        &self.balancer
    }
}

impl DerefMut for MeshBalancer {
    fn deref_mut(&mut self) -> &mut Balancer {
        &mut self.balancer
    }
}
