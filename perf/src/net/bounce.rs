//! A way through the balancer's node on which no address changes.

use vl3lb_testbed::{Netns, TestbedError};

use super::topology::{BALANCER_ADDRESS, CLIENT_ADDRESS, NETWORK_PORT, Network};
use crate::failure::Failure;

/// Tables of the router's routes, and preferences of its rules.
const TO_BACKENDS: u32 = 100;
const TO_CLIENT: u32 = 101;

/// The backends have the balancer's address too, and the router sends what comes from the balancer's node for that address
/// to them, and their answers to the node: for a node that only sends back what it gets. Undone on drop.
#[derive(Debug)]
pub(crate) struct Bounce {
    router: Netns,
    backends: Netns,
}

impl Network {
    /// Makes the way, while the balancer's node is linked to the network.
    pub(crate) fn bounce(&self) -> Result<Bounce, Failure> {
        let bounce = Bounce {
            router: self.router.netns.clone(),
            backends: self.backends.clone(),
        };
        bounce
            .backends
            .ip(&format!("address add {BALANCER_ADDRESS}/32 dev lo"))?;
        let backends_port = &self.backends_port;
        bounce.router.ip(&format!(
            "route add {BALANCER_ADDRESS} dev {backends_port} table {TO_BACKENDS}\n\
             rule add pref {TO_BACKENDS} iif {NETWORK_PORT} table {TO_BACKENDS}\n\
             route add {CLIENT_ADDRESS} via {BALANCER_ADDRESS} dev {NETWORK_PORT} onlink table {TO_CLIENT}\n\
             rule add pref {TO_CLIENT} iif {backends_port} to {CLIENT_ADDRESS} table {TO_CLIENT}\n"
        ))?;
        Ok(bounce)
    }

    fn undo(bounce: &Bounce) -> Result<(), TestbedError> {
        bounce
            .backends
            .ip(&format!("address del {BALANCER_ADDRESS}/32 dev lo"))?;
        bounce.router.ip(&format!(
            "rule del pref {TO_BACKENDS}\nrule del pref {TO_CLIENT}\n\
             route flush table {TO_BACKENDS}\nroute flush table {TO_CLIENT}\n"
        ))
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        if let Err(error) = Network::undo(self) {
            eprintln!("{error}");
        }
    }
}
