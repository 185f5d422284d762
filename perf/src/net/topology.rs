//! The network that every peer is measured in.
//!
//! ```text
//!   client 172.16.1.10      backends 172.16.1.20 ... .27, 172.20.0.0/16
//!        \                     /
//!         router 172.16.1.1 (the network)
//!              | wire
//!              | nsm-1
//!         balancer 172.16.1.103
//! ```
//!
//! Each box is a network namespace, each line a veth pair, and every node has the router as its only neighbour, as in
//! a vL3 network. The balancer is one-armed. The packet tester sits on the router's end of the wire and plays clients
//! and backends; programs with sockets run in client and backends, and the router's kernel forwards their packets.
//!
//! The wire may be two TUN devices instead: raw IP, as a forwarder with NSM's kernel mechanism gives it to a pod.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};

use vl3lb_common::MacAddr;
use vl3lb_testbed::addresses::{self, INTERFACE, ipv4};
use vl3lb_testbed::node::{Layout, Node};
use vl3lb_testbed::router::Router;
use vl3lb_testbed::switch::{Switch, SwitchPort};
use vl3lb_testbed::tun::{self, TunKind};
use vl3lb_testbed::veth::{self, VethEnd};
use vl3lb_testbed::{Netns, TestbedError};

use crate::failure::Failure;

use super::process::limit_open_files;

/// The router's end of the balancer's link.
pub(crate) const NETWORK_PORT: &str = "wire";
pub(crate) const BALANCER_ADDRESS: Ipv4Addr = ipv4(addresses::BALANCER);
pub(crate) const BALANCER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x1b]);
/// MAC address of the router's end of the wire, which the peers send everything to.
pub(crate) const WIRE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const CLIENT_ADDRESS: Ipv4Addr = ipv4(addresses::FIRST_CLIENT);
/// Backends that have addresses of the vL3 network.
pub(crate) const BACKENDS: u8 = 8;
/// Addresses of further backends.
const MORE_BACKENDS: &str = "172.20.0.0/16";
const MTU: u16 = 1500;

/// The address of backend `index`.
pub(crate) fn backend_address(index: u16) -> Ipv4Addr {
    match u8::try_from(index) {
        Ok(index) if index < BACKENDS => ipv4(addresses::FIRST_SERVER + index),
        _ => Ipv4Addr::from_bits(Ipv4Addr::new(172, 20, 0, 0).to_bits() + u32::from(index)),
    }
}

/// What joins the balancer to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Wire {
    /// A veth pair: Ethernet
    Veth,
    /// TUN devices: raw IP
    Tun,
}

impl Wire {
    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Tun => "tun",
        }
    }
}

/// Client, backends and the router that joins them.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) client: Netns,
    pub(crate) backends: Netns,
    /// The router's interface that leads to them.
    pub(super) backends_port: String,
    pub(crate) router: Router,
}

/// The node of a peer: new for each start, so that none finds anything of another.
#[derive(Debug)]
pub(crate) struct PeerNode<'a> {
    node: Node,
    router: &'a Router,
    /// The descriptors of the balancer's interface and of the router's end, if they are TUN devices.
    devices: Option<[File; 2]>,
}

impl Network {
    /// Builds it; all of it is up when this returns.
    pub(crate) fn build() -> Result<Self, Failure> {
        limit_open_files();
        let router = Router::new(Layout::Routed, MTU)?;
        let client = Node::new("client", [CLIENT_ADDRESS.into()])?;
        let own: Vec<IpAddr> = (0..BACKENDS)
            .map(|index| backend_address(index.into()).into())
            .collect();
        let backends = Node::new("backends", own)?;
        for node in [&client, &backends] {
            router.join(node, MTU, 1)?;
            widen_ports(&node.netns)?;
        }
        let port = &backends.router_port;
        router
            .netns
            .ip(&format!("route add {MORE_BACKENDS} dev {port}"))?;
        backends
            .netns
            .ip(&format!("route add local {MORE_BACKENDS} dev lo"))?;
        Ok(Self {
            client: client.netns,
            backends: backends.netns,
            backends_port: backends.router_port,
            router,
        })
    }

    /// A fresh node for a peer, linked to the network.
    pub(crate) fn peer_node(&self, wire: Wire) -> Result<PeerNode<'_>, Failure> {
        let mut node = Node::new("balancer", [BALANCER_ADDRESS.into()])?;
        NETWORK_PORT.clone_into(&mut node.router_port);
        let router = &self.router;
        let devices = match wire {
            Wire::Veth => {
                let near = VethEnd::new(NETWORK_PORT, 1).mac(WIRE_MAC);
                let far = VethEnd::new(INTERFACE, 1).mac(BALANCER_MAC);
                veth::create((&router.netns, &near), (&node.netns, &far), MTU)?;
                None
            }
            Wire::Tun => {
                let open = |netns, name| tun::open(netns, name, TunKind::Offloads);
                Some([open(&node.netns, INTERFACE)?, open(&router.netns, NETWORK_PORT)?])
            }
        };
        // From here on its end deletes the link.
        let peer = PeerNode {
            node,
            router,
            devices,
        };
        router.connect(&peer.node)?;
        peer.node.configure(Layout::Routed)?;
        Ok(peer)
    }
}

impl PeerNode<'_> {
    /// Its namespace.
    pub(crate) fn netns(&self) -> &Netns {
        &self.node.netns
    }

    /// The other end of the balancer's interface, if that is a TUN device: for a tester that plays the network. Not
    /// while a switch forwards for it.
    pub(crate) fn device(&self) -> Result<Option<File>, Failure> {
        let device = self.devices.as_ref().map(|[device, _]| device.try_clone());
        let device = device.transpose();
        Ok(device.map_err(TestbedError::system(format!("use TUN device {INTERFACE}")))?)
    }

    /// Joins the balancer to the network while the switch lives. A veth pair needs none.
    pub(crate) fn switch(&self) -> Result<Option<Switch>, Failure> {
        let Some([near, far]) = &self.devices else {
            return Ok(None);
        };
        let port = |device: &File, prefix: &str| -> Result<SwitchPort, TestbedError> {
            Ok(SwitchPort {
                device: device
                    .try_clone()
                    .map_err(TestbedError::system("start a switch"))?,
                prefixes: vec![prefix.parse().expect("a constant prefix")],
            })
        };
        let ports = vec![
            port(near, &format!("{BALANCER_ADDRESS}/32"))?,
            port(far, "0.0.0.0/0")?,
        ];
        Ok(Some(Switch::start(ports, TunKind::Offloads)?))
    }

    /// Gives the namespace's own connections many ports. Not for vl3-lb, whose NAT ports are among them.
    pub(crate) fn widen_ports(&self) -> Result<(), Failure> {
        Ok(widen_ports(self.netns())?)
    }
}

impl Drop for PeerNode<'_> {
    fn drop(&mut self) {
        // Now, and not when the kernel removes the namespace: the next node has a link of the same name.
        if let Err(error) = self.router.remove_link(&self.node) {
            eprintln!("{error}");
        }
    }
}

/// Enough ports for many short connections, for clients and for proxies alike.
fn widen_ports(netns: &Netns) -> Result<(), TestbedError> {
    netns.sysctl("net/ipv4/ip_local_port_range", "10240 65000")?;
    netns.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    netns.sysctl("net/ipv4/tcp_max_syn_backlog", "65536")?;
    netns.sysctl("net/core/somaxconn", "65535")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_have_addresses_of_their_own() {
        assert_eq!(backend_address(0), Ipv4Addr::new(172, 16, 1, 20));
        assert_eq!(backend_address(7), Ipv4Addr::new(172, 16, 1, 27));
        assert_eq!(backend_address(8), Ipv4Addr::new(172, 20, 0, 8));
        assert_eq!(backend_address(1000), Ipv4Addr::new(172, 20, 3, 232));
    }
}
