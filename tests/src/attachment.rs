//! The ways to attach the balancer: link, MTU and mode.

/// The kind of link that each pod has to the vL3 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// A veth pair, Ethernet. Both ends of the balancer's pair have `queues` in each direction.
    Veth { queues: u32 },
    /// A TUN device, raw IP. With `offloads` the forwarder takes super-packets.
    Tun { offloads: bool },
}

/// A link, its MTU, and the balancer's `mode` on it.
#[derive(Debug, Clone, Copy)]
pub struct Attachment {
    pub link: Link,
    pub mtu: u16,
    pub mode: &'static str,
}

impl Attachment {
    pub const VETH_AUTO: Self = Self::new(Link::Veth { queues: 1 }, "auto");
    pub const VETH_NATIVE: Self = Self::new(Link::Veth { queues: 1 }, "native");
    pub const VETH_GENERIC: Self = Self::new(Link::Veth { queues: 1 }, "generic");
    pub const VETH_COMPANION: Self = Self::new(Link::Veth { queues: 1 }, "companion");
    pub const TUN_AUTO: Self = Self::new(Link::Tun { offloads: false }, "auto");
    pub const TUN_GENERIC: Self = Self::new(Link::Tun { offloads: false }, "generic");
    pub const TUN_COMPANION: Self = Self::new(Link::Tun { offloads: false }, "companion");
    pub const TUN_OFFLOAD_AUTO: Self = Self::new(Link::Tun { offloads: true }, "auto");
    pub const TUN_OFFLOAD_GENERIC: Self = Self::new(Link::Tun { offloads: true }, "generic");
    pub const TUN_OFFLOAD_COMPANION: Self = Self::new(Link::Tun { offloads: true }, "companion");

    const fn new(link: Link, mode: &'static str) -> Self {
        Self {
            link,
            mtu: 1500,
            mode,
        }
    }

    /// The same with another MTU, on every link of the network.
    pub const fn mtu(self, mtu: u16) -> Self {
        Self { mtu, ..self }
    }

    /// The same with two queues in each direction on both ends of the balancer's veth pair.
    pub const fn two_queues(self) -> Self {
        self.queues(2)
    }

    /// The same with so many queues in each direction on both ends of the balancer's veth pair.
    pub const fn queues(self, queues: u32) -> Self {
        Self {
            link: Link::Veth { queues },
            ..self
        }
    }
}
