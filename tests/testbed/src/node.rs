//! Nodes: namespaces with one interface of the vL3 network, as pods have it.

use std::fmt::Write;
use std::net::IpAddr;

use crate::addresses::{Family, INTERFACE};
use crate::{Netns, TestbedError};

/// How the nodes of a network reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// All on one Ethernet segment, a bridge: the next hop is the peer itself.
    Bridged,
    /// Each behind a router port of its own with host routes, as from an NSM vL3 NSE: the next hop is the router.
    Routed,
    /// Raw IP without a next hop: all of the network is at the other end of the interface.
    Switched,
}

/// A namespace with the interface [`INTERFACE`].
#[derive(Debug, Clone)]
pub struct Node {
    pub netns: Netns,
    pub addresses: Vec<IpAddr>,
    /// The router's interface that leads here, if there is a router.
    pub router_port: String,
}

impl Node {
    /// A namespace without the interface yet. `label` has at most 12 bytes.
    pub fn new(label: &str, addresses: impl Into<Vec<IpAddr>>) -> Result<Self, TestbedError> {
        Ok(Self {
            netns: Netns::new(label)?,
            addresses: addresses.into(),
            router_port: format!("to-{label}"),
        })
    }

    /// The same namespace with other addresses, in force with the next [`configure`](Self::configure).
    #[must_use]
    pub fn with_addresses(&self, addresses: impl Into<Vec<IpAddr>>) -> Self {
        Self {
            addresses: addresses.into(),
            ..self.clone()
        }
    }

    /// Its first address of `family`; panics if it has none.
    pub fn address(&self, family: Family) -> IpAddr {
        let mut addresses = self.addresses.iter().copied();
        addresses
            .find(|address| Family::of(*address) == family)
            .unwrap_or_else(|| panic!("{} has no {family:?} address", self.netns.label()))
    }

    /// Brings the interface up with addresses and routes.
    pub fn configure(&self, layout: Layout) -> Result<(), TestbedError> {
        let mut lines = format!("link set {INTERFACE} up\n");
        for &address in &self.addresses {
            let family = Family::of(address);
            let length = match layout {
                Layout::Bridged => family.network_length(),
                Layout::Routed | Layout::Switched => host_length(address),
            };
            add_address(&mut lines, address, length, INTERFACE);
        }
        for family in Family::BOTH {
            if !self
                .addresses
                .iter()
                .any(|address| Family::of(*address) == family)
            {
                continue;
            }
            let added = match layout {
                Layout::Bridged => Ok(()),
                Layout::Routed => {
                    let router = family.router();
                    writeln!(
                        lines,
                        "route add {router} dev {INTERFACE}\nroute add default via {router} dev {INTERFACE}"
                    )
                }
                Layout::Switched => writeln!(lines, "route add {} dev {INTERFACE}", family.network()),
            };
            added.expect("writing to a string");
        }
        self.netns.ip(&lines)
    }
}

/// Length of the prefix that is `address` alone, in bits.
pub(crate) const fn host_length(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Appends the command that adds an address to `interface`.
pub(crate) fn add_address(lines: &mut String, address: IpAddr, length: u8, interface: &str) {
    let nodad = if address.is_ipv6() { " nodad" } else { "" };
    writeln!(lines, "addr add {address}/{length} dev {interface}{nodad}").expect("writing to a string");
}
