//! The vL3 network of a test: clients, servers and the balancer, each a node of its own.

use vl3lb_testbed::addresses::{BALANCER, FIRST_CLIENT, FIRST_SERVER, Family, INTERFACE};
use vl3lb_testbed::node::{Layout, Node};
use vl3lb_testbed::router::Router;
use vl3lb_testbed::switch::{Switch, SwitchPort};
use vl3lb_testbed::tun::{self, TunKind};
use vl3lb_testbed::{OrPanic, TestbedError};

use crate::attachment::{Attachment, Link};

/// The size and kind of a network.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub link: Link,
    /// Of veth links; TUN devices are always joined by a switch.
    pub layout: Layout,
    pub mtu: u16,
    pub clients: u8,
    pub servers: u8,
}

impl Shape {
    /// One client and three servers on one segment.
    pub const fn of(attachment: &Attachment) -> Self {
        Self {
            link: attachment.link,
            layout: Layout::Bridged,
            mtu: attachment.mtu,
            clients: 1,
            servers: 3,
        }
    }
}

/// A vL3 network. Dropping it removes everything.
#[derive(Debug)]
pub struct Topology {
    switch: Option<Switch>,
    router: Option<Router>,
    pub clients: Vec<Node>,
    pub servers: Vec<Node>,
    pub balancer: Node,
}

impl Topology {
    /// Builds the network; all of it is up when this returns.
    pub fn build(shape: &Shape) -> Self {
        let nodes = |label: &str, first: u8, count: u8| -> Vec<Node> {
            let numbers = 0..count;
            numbers
                .map(|index| node(&format!("{label}{index}"), first + index))
                .collect()
        };
        let mut topology = Self {
            switch: None,
            router: None,
            clients: nodes("client", FIRST_CLIENT, shape.clients),
            servers: nodes("server", FIRST_SERVER, shape.servers),
            balancer: node("balancer", BALANCER),
        };
        match shape.link {
            Link::Tun { offloads } => {
                topology.switch = Some(topology.switched(shape.mtu, offloads).or_panic());
            }
            Link::Veth { queues } => topology.router = Some(topology.routed(shape, queues).or_panic()),
        }
        topology
    }

    /// Where the veth pairs of the nodes end. Panics on TUN links.
    pub fn router(&self) -> &Router {
        self.router.as_ref().expect("a veth topology has a router")
    }

    /// Where the TUN devices of the nodes end. Panics on veth links.
    pub fn switch(&self) -> &Switch {
        self.switch.as_ref().expect("a TUN topology has a switch")
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.clients.iter().chain(&self.servers).chain([&self.balancer])
    }

    fn switched(&self, mtu: u16, offloads: bool) -> Result<Switch, TestbedError> {
        let kind = if offloads {
            TunKind::Offloads
        } else {
            TunKind::Plain
        };
        let ports: Result<Vec<SwitchPort>, TestbedError> = self
            .nodes()
            .map(|node| {
                let device = tun::open(&node.netns, INTERFACE, kind)?;
                node.netns.ip(&format!("link set {INTERFACE} mtu {mtu}"))?;
                node.configure(Layout::Switched)?;
                let prefixes = node.addresses.iter().map(|&address| address.into()).collect();
                Ok(SwitchPort { device, prefixes })
            })
            .collect();
        Switch::start(ports?, kind)
    }

    fn routed(&self, shape: &Shape, queues: u32) -> Result<Router, TestbedError> {
        let router = Router::new(shape.layout, shape.mtu)?;
        for node in self.clients.iter().chain(&self.servers) {
            // A second queue here would spoil the spread at the balancer: a packet from queue 1 counts as received
            // on queue 0 by the next device (skb_tx_hash in the kernel).
            router.join(node, shape.mtu, 1)?;
        }
        router.join(&self.balancer, shape.mtu, queues)?;
        Ok(router)
    }
}

fn node(label: &str, number: u8) -> Node {
    Node::new(label, Family::BOTH.map(|family| family.address(number))).or_panic()
}
