//! What joins the nodes of a network: a bridge, or a router with a port for each node.

use std::fmt::Write;

use crate::addresses::{Family, INTERFACE};
use crate::node::{Layout, Node, add_address, host_length};
use crate::veth::{self, VethEnd};
use crate::{Netns, TestbedError};

const BRIDGE: &str = "bridge";

/// A namespace in which the links of the nodes end.
#[derive(Debug)]
pub struct Router {
    pub netns: Netns,
    layout: Layout,
}

impl Router {
    /// Makes it without ports. `mtu` is that of the bridge; a router has none of its own.
    pub fn new(layout: Layout, mtu: u16) -> Result<Self, TestbedError> {
        let netns = Netns::new("router")?;
        if layout == Layout::Bridged {
            let mut lines = format!(
                "link add {BRIDGE} mtu {mtu} type bridge stp_state 0 forward_delay 0\nlink set {BRIDGE} up\n"
            );
            for family in Family::BOTH {
                add_address(&mut lines, family.router(), family.network_length(), BRIDGE);
            }
            netns.ip(&lines)?;
        } else {
            netns.sysctl("net/ipv4/ip_forward", "1")?;
            netns.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        Ok(Self { netns, layout })
    }

    /// Joins a node by a veth pair with `queues` in each direction: link, the node's addresses and routes, and the
    /// router's.
    pub fn join(&self, node: &Node, mtu: u16, queues: u32) -> Result<(), TestbedError> {
        self.add_link(node, mtu, queues)?;
        node.configure(self.layout)?;
        self.connect(node)
    }

    /// Makes the veth pair of a node and brings the router's end up.
    pub fn add_link(&self, node: &Node, mtu: u16, queues: u32) -> Result<(), TestbedError> {
        let near = VethEnd::new(&node.router_port, queues);
        let far = VethEnd::new(INTERFACE, queues);
        veth::create((&self.netns, &near), (&node.netns, &far), mtu)?;
        self.netns.ip(&format!("link set {} up", node.router_port))
    }

    /// Takes the node's port into the bridge, or leads the node's addresses to it.
    pub fn connect(&self, node: &Node) -> Result<(), TestbedError> {
        let port = &node.router_port;
        let mut lines = format!("link set {port} up\n");
        if self.layout == Layout::Bridged {
            writeln!(lines, "link set {port} master {BRIDGE}").expect("writing to a string");
        } else {
            for family in Family::BOTH {
                if node
                    .addresses
                    .iter()
                    .any(|address| Family::of(*address) == family)
                {
                    let router = family.router();
                    add_address(&mut lines, router, host_length(router), port);
                }
            }
            for address in &node.addresses {
                writeln!(lines, "route add {address} dev {port}").expect("writing to a string");
            }
        }
        self.netns.ip(&lines)
    }

    /// Deletes the link to a node, and the node's interface with it if that is the other end of a veth pair.
    pub fn remove_link(&self, node: &Node) -> Result<(), TestbedError> {
        self.netns.ip(&format!("link del {}", node.router_port))
    }
}
