//! What the kernel says about the vL3 interface.

use std::collections::HashMap;
use std::net::IpAddr;

use vl3lb_common::next_hop::{Link, NextHops};

/// The vL3 interface as the kernel has it: addresses, MTU, routes and neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkView {
    /// Index of the interface; `None` while there is none of that name.
    pub index: Option<u32>,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// The longest IP packet that may be sent.
    pub mtu: u16,
    /// The balancer's addresses: those configured, or the interface's own global ones that are
    /// ready for use, IPv4 first.
    pub addresses: Vec<IpAddr>,
    pub next_hops: NextHops,
}

impl NetworkView {
    /// No interface.
    pub fn absent() -> Self {
        Self {
            index: None,
            up: false,
            mtu: 0,
            addresses: Vec::new(),
            next_hops: NextHops::new(Link::RawIp, 0, Vec::new(), HashMap::new()),
        }
    }

    /// Whether there is anything to balance on.
    pub fn usable(&self) -> bool {
        self.index.is_some() && !self.addresses.is_empty()
    }
}
