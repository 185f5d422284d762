//! The companion pair: a veth pair of the balancer's own, between the tc program on the vL3 interface and the
//! AF_XDP sockets.
//!
//! The kernel segments super-packets on their way into the pair, because native XDP on the far end disables
//! segmentation offload on the near one. The pair has one queue per worker, however many the vL3 interface
//! has. It has no addresses and carries no other traffic.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo as Info, LinkMessage, LinkXdp, XdpAttached,
};

use crate::error::SetupError;
use crate::link::LinkInfo;
use crate::link::netlink::Netlink;

/// The interface group of our pairs ("vl3l" in ASCII), which no other interface has.
const GROUP: u32 = 0x766c_336c;

/// What a pair is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Packets of the vL3 interface.
    Interface,
    /// Packets of clients in this network namespace.
    LocalClients,
}

impl Purpose {
    /// What the names of the near and the far end begin with.
    const fn prefixes(self) -> [&'static str; 2] {
        match self {
            Self::Interface => ["lbn-", "lbf-"],
            Self::LocalClients => ["lbl-", "lbm-"],
        }
    }
}

/// A companion pair. Deleted on drop.
#[derive(Debug)]
pub(super) struct Companion {
    /// Stays in the network namespace that the pair was made in.
    netlink: Netlink,
    near_index: u32,
    far: String,
    far_index: u32,
    mtu: u16,
}

impl Companion {
    /// Makes the pair for `link` with `queues` queues at both ends and the MTU of `link`, and brings it up.
    /// Removes a pair that a killed process left behind.
    pub(super) fn create(link: &LinkInfo, queues: u32, purpose: Purpose) -> Result<Self, SetupError> {
        let [near, far] = names(&link.name, purpose);
        let failed = |action: &'static str, companion: &str| {
            let companion = companion.to_owned();
            move |cause| SetupError::Companion {
                action,
                interface: link.name.clone(),
                companion,
                cause,
            }
        };
        let mut netlink = Netlink::open().map_err(failed("make", &near))?;
        remove_leftover(&mut netlink, link, &near, &far)?;
        netlink
            .change(
                RouteNetlinkMessage::NewLink(pair(&near, &far, u32::from(link.mtu), queues)),
                NLM_F_CREATE | NLM_F_EXCL,
            )
            .map_err(failed("make", &near))?;
        let near_index = index_of(&mut netlink, &near).map_err(failed("find", &near))?;
        // From here on dropping it removes the pair.
        let mut pair = Self {
            netlink,
            near_index,
            far: far.clone(),
            far_index: 0,
            mtu: link.mtu,
        };
        pair.far_index = index_of(&mut pair.netlink, &far).map_err(failed("find", &far))?;
        for (index, name) in [(pair.near_index, &near), (pair.far_index, &far)] {
            silence_ipv6(&mut pair.netlink, index).map_err(failed("take IPv6 off", name))?;
            bring_up(&mut pair.netlink, index).map_err(failed("bring up", name))?;
        }
        Ok(pair)
    }

    /// Makes both ends take packets of `mtu` bytes, the MTU of `interface`.
    pub(super) fn set_mtu(&mut self, interface: &str, mtu: u16) -> Result<(), SetupError> {
        if self.mtu == mtu {
            return Ok(());
        }
        for index in [self.near_index, self.far_index] {
            let mut message = LinkMessage::default();
            message.header.index = index;
            message.attributes = vec![LinkAttribute::Mtu(u32::from(mtu))];
            self.netlink
                .change(RouteNetlinkMessage::SetLink(message), 0)
                .map_err(|cause| SetupError::Companion {
                    action: "set the MTU of",
                    interface: interface.to_owned(),
                    companion: self.far.clone(),
                    cause,
                })?;
        }
        self.mtu = mtu;
        Ok(())
    }

    /// Index of the end that the tc program sends to.
    pub(super) fn near_index(&self) -> u32 {
        self.near_index
    }

    /// Name of the end that the sockets are bound to.
    pub(super) fn far(&self) -> &str {
        &self.far
    }

    /// Index of the end that the sockets are bound to.
    pub(super) fn far_index(&self) -> u32 {
        self.far_index
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        if let Err(error) = delete(&mut self.netlink, self.near_index) {
            // ENODEV: it was deleted, or went with its network namespace.
            if error.raw_os_error() != Some(libc::ENODEV) {
                tracing::warn!(interface = self.far, %error, "delete companion pair");
            }
        }
    }
}

/// Names of the near and the far end for `interface`: derived from it, so that a leftover is found again,
/// and at most 15 bytes. A long name is truncated and made unique by a hash.
pub(super) fn names(interface: &str, purpose: Purpose) -> [String; 2] {
    const ROOM: usize = libc::IFNAMSIZ - 1 - "lbn-".len();
    let stem = if interface.len() <= ROOM {
        interface.to_owned()
    } else {
        // FNV-1a, 24 bits of it.
        let hash = interface.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let mut stem = String::new();
        for character in interface.chars() {
            if stem.len() + character.len_utf8() > ROOM - 6 {
                break;
            }
            stem.push(character);
        }
        format!("{stem}{:06x}", hash >> 8)
    };
    purpose.prefixes().map(|prefix| format!("{prefix}{stem}"))
}

/// A killed process leaves its pair behind, but not the program on the far end: a link goes with its process.
fn remove_leftover(netlink: &mut Netlink, link: &LinkInfo, near: &str, far: &str) -> Result<(), SetupError> {
    let interface = &link.name;
    let failed = |companion: &str| {
        let companion = companion.to_owned();
        move |cause| SetupError::Companion {
            action: "remove old",
            interface: interface.clone(),
            companion,
            cause,
        }
    };
    for name in [near, far] {
        let Some(old) = netlink.link(name).map_err(failed(name))? else {
            continue;
        };
        if !is_ours(&old) {
            return Err(SetupError::CompanionNameTaken {
                interface: interface.clone(),
                companion: name.to_owned(),
            });
        }
        let other = netlink.link(far).map_err(failed(far))?;
        if other.as_ref().is_some_and(has_program) {
            return Err(SetupError::AlreadyServed {
                interface: interface.clone(),
                companion: far.to_owned(),
            });
        }
        delete(netlink, old.header.index).map_err(failed(name))?;
    }
    Ok(())
}

fn is_ours(link: &LinkMessage) -> bool {
    link.attributes.contains(&LinkAttribute::Group(GROUP))
}

pub(super) fn has_program(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => xdp
            .iter()
            .any(|value| matches!(value, LinkXdp::Attached(mode) if *mode != XdpAttached::None)),
        _ => false,
    })
}

fn pair(near: &str, far: &str, mtu: u32, queues: u32) -> LinkMessage {
    let peer = Info::Data(InfoData::Veth(InfoVeth::Peer(end(far, mtu, queues))));
    let mut message = end(near, mtu, queues);
    message
        .attributes
        .push(LinkAttribute::LinkInfo(vec![Info::Kind(InfoKind::Veth), peer]));
    message
}

fn end(name: &str, mtu: u32, queues: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::NumTxQueues(queues),
        LinkAttribute::NumRxQueues(queues),
        LinkAttribute::Group(GROUP),
    ];
    message
}

/// No link-local address: no duplicate address detection, no router solicitations.
pub(super) fn silence_ipv6(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
        AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
    ])])];
    match netlink.change(RouteNetlinkMessage::SetLink(message), 0) {
        // No IPv6 on this interface at all: the kernel has none, or the MTU is below 1,280.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
        answer => answer,
    }
}

pub(super) fn bring_up(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    netlink.change(RouteNetlinkMessage::SetLink(message), 0)
}

/// Deleting one end deletes both.
fn delete(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    netlink.change(RouteNetlinkMessage::DelLink(message), 0)
}

fn index_of(netlink: &mut Netlink, name: &str) -> io::Result<u32> {
    netlink
        .link(name)?
        .map(|link| link.header.index)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_ends_fit_and_differ() {
        assert_eq!(names("nsm-1", Purpose::Interface), ["lbn-nsm-1", "lbf-nsm-1"]);
        let [near, far] = names("eth0.4000-long1", Purpose::Interface);
        let [other, _] = names("eth0.4000-long2", Purpose::Interface);
        assert!(
            near.len() < libc::IFNAMSIZ && far.len() < libc::IFNAMSIZ,
            "{near} {far}"
        );
        assert!(near != far && near != other, "{near} {far} {other}");
        let local = names("nsm-1", Purpose::LocalClients);
        assert_eq!(local, ["lbl-nsm-1", "lbm-nsm-1"]);
        let [near, _] = names("ääääääää", Purpose::Interface);
        assert!(near.len() < libc::IFNAMSIZ, "{near}");
    }
}
