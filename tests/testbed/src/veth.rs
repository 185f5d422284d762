//! veth pairs: veth(4).

use std::fmt::Write;

use crate::{Netns, TestbedError};

/// One end of a veth pair.
#[derive(Debug, Clone)]
pub struct VethEnd<'a> {
    pub netns: &'a Netns,
    pub name: &'a str,
    /// MAC address, as in `ip link`; a random one if empty.
    pub mac: String,
    pub receive_queues: u32,
    pub transmit_queues: u32,
}

impl<'a> VethEnd<'a> {
    /// An end with one queue in each direction and a random MAC address.
    pub const fn new(netns: &'a Netns, name: &'a str) -> Self {
        Self {
            netns,
            name,
            mac: String::new(),
            receive_queues: 1,
            transmit_queues: 1,
        }
    }

    /// The same with `queues` in each direction.
    #[must_use]
    pub fn queues(self, queues: u32) -> Self {
        Self {
            receive_queues: queues,
            transmit_queues: queues,
            ..self
        }
    }

    /// The same with this MAC address.
    #[must_use]
    pub fn mac(self, mac: impl ToString) -> Self {
        Self {
            mac: mac.to_string(),
            ..self
        }
    }

    fn options(&self, mtu: u16) -> String {
        let mut options = format!(
            "mtu {mtu} numrxqueues {} numtxqueues {}",
            self.receive_queues, self.transmit_queues
        );
        if !self.mac.is_empty() {
            write!(options, " address {}", self.mac).expect("writing to a string");
        }
        options
    }
}

/// Makes a pair. Both ends are down.
pub fn create(one: &VethEnd<'_>, other: &VethEnd<'_>, mtu: u16) -> Result<(), TestbedError> {
    one.netns.ip(&format!(
        "link add name {} {} type veth peer name {} {} netns {}",
        one.name,
        one.options(mtu),
        other.name,
        other.options(mtu),
        other.netns.path().display()
    ))
}
