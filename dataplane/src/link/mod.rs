//! Inspection of the vL3 interface: link type, MTU, queues, driver.
//!
//! Uses netlink and the ethtool ioctl, which see the network namespace of the calling thread. /sys may show
//! another one, and may be read-only in a pod.

mod ethtool;
pub(crate) mod netlink;
mod path;

use netlink_packet_core::Nla;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoTun, LinkAttribute, LinkFlags, LinkInfo as Info, LinkLayerType, LinkMessage,
};
use vl3lb_common::MacAddr;

use crate::error::SetupError;
use ethtool::Channels;
use netlink::Netlink;
pub use path::Path;
pub use vl3lb_common::next_hop::Link;

/// The smallest MTU that can work: every IPv4 host must take datagrams of 576 bytes (RFC 791 section 3.2).
/// Below 1,280 Linux itself takes IPv6 off the interface (RFC 8200 section 5), so that only IPv4 is balanced.
pub(crate) const MIN_MTU: u32 = 576;

/// The largest MTU that can work: AF_XDP sends a packet of at most 17 descriptors (MAX_SKB_FRAGS), one stays
/// in reserve; a UMEM frame of 4 KiB holds 3,840 bytes behind the XDP headroom. Native XDP with several
/// buffers on veth would take more.
pub(crate) const MAX_MTU: u32 = 16 * 3840 - ETHERNET_HEADER;

const ETHERNET_HEADER: u32 = 14;

/// An interface that can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    pub name: String,
    pub index: u32,
    pub link: Link,
    /// The kind of a virtual device (`veth`, `tun`, ...), else the driver.
    pub driver: String,
    /// The longest IP packet, [`MIN_MTU`] to [`MAX_MTU`].
    pub mtu: u16,
    /// Receive queues in use, at least 1.
    pub receive_queues: u32,
    /// Transmit queues in use, at least 1.
    pub transmit_queues: u32,
    /// Whether super-packets can come in. All devices but TUN without a virtio_net_hdr.
    pub super_packets: bool,
}

impl LinkInfo {
    /// Inspects the interface `name`. Fails if it is missing, down, of a link type that cannot be served or has
    /// an MTU that cannot work. A few system calls.
    pub fn inspect(name: &str) -> Result<Self, SetupError> {
        let inspect = |cause| SetupError::Inspect {
            interface: name.to_owned(),
            cause,
        };
        let mut netlink = Netlink::open().map_err(inspect)?;
        let Some(message) = netlink.link(name).map_err(inspect)? else {
            let mut existing = netlink.link_names().map_err(inspect)?;
            existing.sort_unstable();
            return Err(SetupError::InterfaceMissing {
                interface: name.to_owned(),
                existing: existing.join(", "),
            });
        };
        // EOPNOTSUPP: not every driver reports them.
        let channels = ethtool::channels(name).ok();
        let driver = ethtool::driver(name).ok();
        Self::new(name, &message, channels, driver)
    }

    fn new(
        name: &str,
        message: &LinkMessage,
        channels: Option<Channels>,
        driver: Option<String>,
    ) -> Result<Self, SetupError> {
        let interface = || name.to_owned();
        let found = Attributes::new(message);
        let queues = found.queues(channels);
        let kind = found.kind.or(driver).unwrap_or_else(|| "unknown".to_owned());
        let link_type = message.header.link_layer_type;
        let link = match (link_type, found.mac) {
            (LinkLayerType::Ether, Some(mac)) => Link::Ethernet(mac),
            (LinkLayerType::None, _) if kind == "tun" => Link::RawIp,
            _ => {
                return Err(SetupError::LinkUnsupported {
                    interface: interface(),
                    kind,
                    link_type: link_type.to_string(),
                });
            }
        };
        if !message.header.flags.contains(LinkFlags::Up) {
            return Err(SetupError::InterfaceDown {
                interface: interface(),
            });
        }
        let mtu = u16::try_from(found.mtu)
            .ok()
            .filter(|_| (MIN_MTU..=MAX_MTU).contains(&found.mtu))
            .ok_or_else(|| SetupError::MtuUnusable {
                interface: interface(),
                mtu: found.mtu,
                min: MIN_MTU,
                max: MAX_MTU,
            })?;
        Ok(Self {
            name: interface(),
            index: message.header.index,
            link,
            driver: kind,
            mtu,
            receive_queues: queues.receive.max(1),
            transmit_queues: queues.transmit.max(1),
            super_packets: found.tun.is_none_or(|tun| tun.vnet_header),
        })
    }
}

/// The attributes of a link message that are used.
#[derive(Default)]
struct Attributes {
    kind: Option<String>,
    mac: Option<MacAddr>,
    mtu: u32,
    receive_queues: u32,
    transmit_queues: u32,
    tun: Option<Tun>,
}

#[derive(Clone, Copy, Default)]
struct Tun {
    vnet_header: bool,
    /// Queues in use, if there can be several.
    queues: Option<u32>,
}

impl Attributes {
    fn new(message: &LinkMessage) -> Self {
        let mut found = Self::default();
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Address(bytes) => {
                    found.mac = bytes.as_slice().try_into().ok().map(MacAddr);
                }
                LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
                LinkAttribute::NumRxQueues(queues) => found.receive_queues = *queues,
                LinkAttribute::NumTxQueues(queues) => found.transmit_queues = *queues,
                LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| found.info(info)),
                _ => {}
            }
        }
        found
    }

    fn info(&mut self, info: &Info) {
        match info {
            Info::Kind(kind) => {
                self.kind = Some(kind.to_string());
                if *kind == InfoKind::Tun {
                    self.tun = Some(Tun::default());
                }
            }
            Info::Data(InfoData::Tun(attributes)) => self.tun = Some(Tun::new(attributes)),
            _ => {}
        }
    }

    /// The counts in the link message are queues allocated; a veth or a TUN device may use fewer.
    fn queues(&self, channels: Option<Channels>) -> Channels {
        if let Some(queues) = self.tun.and_then(|tun| tun.queues) {
            return Channels {
                receive: queues,
                transmit: queues,
            };
        }
        channels.unwrap_or(Channels {
            receive: self.receive_queues,
            transmit: self.transmit_queues,
        })
    }
}

impl Tun {
    fn new(attributes: &[InfoTun]) -> Self {
        // include/uapi/linux/if_link.h
        const VNET_HEADER: u16 = 5;
        const MULTI_QUEUE: u16 = 7;
        const QUEUES: u16 = 8;
        let value = |kind| {
            let attribute = attributes.iter().find(|attribute| attribute.kind() == kind)?;
            let mut bytes = vec![0; attribute.value_len()];
            attribute.emit_value(&mut bytes);
            Some(bytes)
        };
        let flag = |kind| value(kind).is_some_and(|bytes| bytes.first() == Some(&1));
        let queues = || Some(u32::from_ne_bytes(value(QUEUES)?.try_into().ok()?));
        Self {
            vnet_header: flag(VNET_HEADER),
            queues: if flag(MULTI_QUEUE) { queues() } else { None },
        }
    }
}
