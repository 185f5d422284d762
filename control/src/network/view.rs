//! The vL3 interface as the kernel has it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use vl3lb_common::next_hop::{Link, NextHops};

/// Whether the interface can carry packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// There is no interface of the configured name.
    Absent,
    /// It is administratively down.
    Down,
    /// It is up, and its other end is not.
    NoCarrier,
    Up,
}

impl LinkState {
    /// The state in words, as in events and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Down => "down",
            Self::NoCarrier => "no carrier",
            Self::Up => "up",
        }
    }
}

/// The vL3 interface: state, addresses, MTU, routes and neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkView {
    /// Index of the interface; `None` while there is none of that name.
    pub index: Option<u32>,
    pub state: LinkState,
    /// The longest IP packet that may be sent, in bytes.
    pub mtu: u16,
    /// The balancer's addresses: those configured, or the interface's own global ones that are
    /// ready for use, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Broadcast addresses of its subnets, ascending.
    pub broadcasts: Vec<Ipv4Addr>,
    pub next_hops: NextHops,
    /// Where the kernel's routing is not expressed by `next_hops`: rules that no table of prefixes can express, and
    /// destinations where the kernel's own answer differs. Sentences, ascending.
    pub routing_problems: Vec<String>,
}

impl NetworkView {
    /// No interface.
    pub fn absent() -> Self {
        Self {
            index: None,
            state: LinkState::Absent,
            mtu: 0,
            addresses: Vec::new(),
            broadcasts: Vec::new(),
            next_hops: NextHops::new(Link::RawIp, 0, Vec::new(), HashMap::new()),
            routing_problems: Vec::new(),
        }
    }

    /// Whether there is an interface with an address to balance on, up or down.
    pub fn usable(&self) -> bool {
        self.index.is_some() && !self.addresses.is_empty()
    }

    /// Whether packets can be sent and received now.
    pub fn is_up(&self) -> bool {
        self.state == LinkState::Up
    }
}
