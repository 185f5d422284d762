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
//! Each box is a network namespace, each line a veth pair, and every host has the router as its only neighbour, as in
//! a vL3 network. The balancer is one-armed. The packet tester sits on the router's end of the wire and plays clients
//! and backends; programs with sockets run in client and backends, and the router's kernel forwards their packets.
//!
//! The wire may be two TUN devices instead: raw IP, as a forwarder with NSM's kernel mechanism gives it to a pod.

use std::fmt::Write as _;
use std::fs::File;
use std::net::Ipv4Addr;

use vl3lb_common::MacAddr;

use crate::failure::Failure;

use super::Netns;
use super::tun::{self, Forwarder};

/// The balancer's interface.
pub(crate) const INTERFACE: &str = "nsm-1";
/// The router's end of the balancer's link.
pub(crate) const NETWORK_PORT: &str = "wire";
pub(crate) const BALANCER_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 103);
pub(crate) const BALANCER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x1b]);
/// MAC address of the router's end of the wire, which the peers send everything to.
pub(crate) const WIRE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 10);
/// Backends that have addresses of the vL3 network.
pub(crate) const BACKENDS: u8 = 8;
const ROUTER_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 1);
/// Where further backends are.
const MORE_BACKENDS: &str = "172.20.0.0/16";

/// The address of backend `index`.
pub(crate) fn backend_address(index: u16) -> Ipv4Addr {
    match u8::try_from(index) {
        Ok(index) if index < BACKENDS => Ipv4Addr::new(172, 16, 1, 20 + index),
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

/// Client, backends and what joins them.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) client: Netns,
    pub(crate) backends: Netns,
    pub(crate) router: Netns,
}

/// Where a peer runs: a new namespace for each start, so that none finds anything of another.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub(crate) netns: Netns,
    network: &'a Network,
    /// The descriptors of the balancer's interface and of the router's end, if they are TUN devices.
    devices: Option<[File; 2]>,
}

impl Network {
    /// Builds it; all of it is up when this returns.
    pub(crate) fn build() -> Result<Self, Failure> {
        let network = Self {
            client: Netns::new()?,
            backends: Netns::new()?,
            router: Netns::new()?,
        };
        let [client, backends] =
            [&network.client, &network.backends].map(|netns| netns.path().display().to_string());
        network.router.sysctl("net/ipv4/ip_forward", "1")?;
        let mut router = format!(
            "link add client type veth peer name {INTERFACE} netns {client}
             link add backends type veth peer name {INTERFACE} netns {backends}
             addr add {ROUTER_ADDRESS}/32 dev lo
             link set client up
             link set backends up
             route add {CLIENT_ADDRESS} dev client
             route add {MORE_BACKENDS} dev backends
            "
        );
        let mut backends = format!("link set {INTERFACE} up\nroute add local {MORE_BACKENDS} dev lo\n");
        for address in (0..BACKENDS).map(|index| backend_address(index.into())) {
            writeln!(router, "route add {address} dev backends").expect("a string takes all text");
            writeln!(backends, "addr add {address}/32 dev {INTERFACE}").expect("a string takes all text");
        }
        backends.push_str(&routes());
        network.router.ip(&router)?;
        network.client.ip(&format!(
            "link set {INTERFACE} up\naddr add {CLIENT_ADDRESS}/32 dev {INTERFACE}\n{}",
            routes()
        ))?;
        network.backends.ip(&backends)?;
        for netns in [&network.client, &network.backends] {
            widen_ports(netns)?;
        }
        Ok(network)
    }

    /// A fresh place for a peer, linked to the network.
    pub(crate) fn site(&self, wire: Wire) -> Result<Site<'_>, Failure> {
        let mut site = Site {
            netns: Netns::new()?,
            network: self,
            devices: None,
        };
        match wire {
            Wire::Veth => self.router.ip(&format!(
                "link add {NETWORK_PORT} address {WIRE_MAC} type veth peer name {INTERFACE} address {BALANCER_MAC} \
                 netns {}",
                site.netns.path().display()
            ))?,
            Wire::Tun => {
                site.devices = Some([
                    tun::create(&site.netns, INTERFACE)?,
                    tun::create(&self.router, NETWORK_PORT)?,
                ]);
            }
        }
        self.router.ip(&format!(
            "link set {NETWORK_PORT} up\nroute add {BALANCER_ADDRESS} dev {NETWORK_PORT}"
        ))?;
        site.netns.ip(&format!(
            "link set {INTERFACE} up\naddr add {BALANCER_ADDRESS}/32 dev {INTERFACE}\n{}",
            routes()
        ))?;
        Ok(site)
    }
}

impl Site<'_> {
    /// The other end of the balancer's interface, if that is a TUN device: for whoever plays the network. Not while a
    /// forwarder has it.
    pub(crate) fn device(&self) -> Result<Option<File>, Failure> {
        let device = self.devices.as_ref().map(|[device, _]| device.try_clone());
        device
            .transpose()
            .map_err(|error| Failure::new(format!("use the TUN device {INTERFACE}: {error}")))
    }

    /// Joins the balancer to the network as long as what is returned lives. Veth pairs need nobody for that.
    pub(crate) fn forwarder(&self) -> Result<Option<Forwarder>, Failure> {
        self.devices.as_ref().map(Forwarder::start).transpose()
    }

    /// Gives the namespace's own connections many ports. Not for vl3-lb, whose NAT ports are among them.
    pub(crate) fn widen_ports(&self) -> Result<(), Failure> {
        widen_ports(&self.netns)
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        // Now, and not when the kernel gets round to the namespace: the next site has an end of this name.
        if let Err(failure) = self.network.router.ip(&format!("link del {NETWORK_PORT}")) {
            eprintln!("{failure}");
        }
    }
}

/// The routes of every host: all by way of the router.
fn routes() -> String {
    format!(
        "route add {ROUTER_ADDRESS} dev {INTERFACE}\nroute add default via {ROUTER_ADDRESS} dev {INTERFACE}\n"
    )
}

/// Enough ports for many short connections, for clients and for proxies alike.
fn widen_ports(netns: &Netns) -> Result<(), Failure> {
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
