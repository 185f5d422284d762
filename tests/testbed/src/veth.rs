//! veth pairs: veth(4).

use std::fmt::Write;

use crate::{Netns, TestbedError};

/// One end of a veth pair.
#[derive(Debug, Clone)]
pub struct VethEnd<'a> {
    pub name: &'a str,
    /// MAC address, as in `ip link`; a random one if empty.
    pub mac: String,
    pub receive_queues: u32,
    pub transmit_queues: u32,
}

impl<'a> VethEnd<'a> {
    /// An end with `queues` in each direction and a random MAC address.
    pub const fn new(name: &'a str, queues: u32) -> Self {
        Self {
            name,
            mac: String::new(),
            receive_queues: queues,
            transmit_queues: queues,
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
            "name {} mtu {mtu} numrxqueues {} numtxqueues {}",
            self.name, self.receive_queues, self.transmit_queues
        );
        if !self.mac.is_empty() {
            write!(options, " address {}", self.mac).expect("writing to a string");
        }
        options
    }
}

/// Makes a pair of `one` in a namespace and `other` in the same or another one. Both ends are down.
pub fn create(
    one: (&Netns, &VethEnd<'_>),
    other: (&Netns, &VethEnd<'_>),
    mtu: u16,
) -> Result<(), TestbedError> {
    one.0.ip(&format!(
        "link add {} type veth peer {} netns {}",
        one.1.options(mtu),
        other.1.options(mtu),
        other.0.path().display()
    ))
}
