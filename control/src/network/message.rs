//! Netlink messages about one interface, parsed.

use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHopFlags,
    RouteType, RouteVia,
};
use vl3lb_common::MacAddr;
use vl3lb_common::next_hop::{Link, Route};

use super::view::LinkState;

/// The interface itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkAttributes {
    pub(super) index: u32,
    pub(super) link: Link,
    pub(super) mtu: u16,
    pub(super) state: LinkState,
}

impl LinkAttributes {
    pub(super) fn is_up(self) -> bool {
        self.state == LinkState::Up
    }
}

/// State of a neighbour in the kernel, reduced to what resolution needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// It answered recently, or need not.
    Confirmed,
    /// It answered once, some time ago.
    Unconfirmed,
    /// The kernel removed its entry, as it does not see our traffic.
    Collected,
    /// No answer.
    Unknown,
}

/// The name of the interface that `message` is about.
pub(super) fn link_name(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// The interface's attributes.
pub(super) fn link_attributes(message: &LinkMessage) -> LinkAttributes {
    let header = &message.header;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => mac(bytes),
        _ => None,
    });
    let mtu = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    let link = match (header.link_layer_type, mac) {
        // Loopback frames have an Ethernet header too.
        (LinkLayerType::Ether | LinkLayerType::Loopback, Some(mac)) => Link::Ethernet(mac),
        _ => Link::RawIp,
    };
    let has = |flag| header.flags.contains(flag);
    LinkAttributes {
        index: header.index,
        link,
        // An IPv4 packet cannot be longer, whatever the interface takes (65,536 on loopback).
        mtu: u16::try_from(mtu.unwrap_or(0)).unwrap_or(u16::MAX),
        state: match (has(LinkFlags::Up), has(LinkFlags::LowerUp)) {
            (false, _) => LinkState::Down,
            (true, false) => LinkState::NoCarrier,
            (true, true) => LinkState::Up,
        },
    }
}

/// An address of interface `index` that can be used: global, and past duplicate detection.
pub(super) fn usable_address(message: &AddressMessage, index: u32) -> Option<IpAddr> {
    let header = &message.header;
    if header.index != index || header.scope != AddressScope::Universe {
        return None;
    }
    let (mut local, mut address) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point interface the other one is the peer's.
            AddressAttribute::Local(own) => local = Some(*own),
            AddressAttribute::Address(own) => address = Some(*own),
            AddressAttribute::Flags(all) => flags |= *all,
            _ => {}
        }
    }
    let address = local.or(address)?;
    // IFA_F_SECONDARY means temporary (RFC 8981) for IPv6: not an address to publish.
    let temporary = address.is_ipv6() && flags.contains(AddressFlags::Secondary);
    let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed;
    (!flags.intersects(unusable) && !temporary).then_some(address)
}

/// A unicast route of the main table out of interface `index`.
pub(super) fn route(message: &RouteMessage, index: u32) -> Option<Route> {
    let header = &message.header;
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let dead = RouteFlags::Dead | RouteFlags::Linkdown | RouteFlags::Cloned;
    if header.kind != RouteType::Unicast || header.flags.intersects(dead) {
        return None;
    }
    let mut table = u32::from(header.table);
    let mut interface = None;
    let mut found = Route {
        destination: unspecified,
        prefix_length: header.destination_prefix_length,
        gateway: gateway(&message.attributes),
        metric: 0,
        mtu: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(destination) => found.destination = address(destination)?,
            RouteAttribute::Priority(metric) => found.metric = *metric,
            RouteAttribute::Metrics(metrics) => found.mtu = route_mtu(metrics),
            RouteAttribute::Oif(oif) => interface = Some(*oif),
            RouteAttribute::Table(id) => table = *id,
            // Of several paths the first one that is ours.
            RouteAttribute::MultiPath(hops) => {
                let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
                let hop = hops
                    .iter()
                    .find(|hop| hop.interface_index == index && !hop.flags.intersects(dead))?;
                interface = Some(index);
                found.gateway = gateway(&hop.attributes);
            }
            _ => {}
        }
    }
    (interface == Some(index) && table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(found)
}

/// The MTU of a route; 0 is none.
fn route_mtu(metrics: &[RouteMetric]) -> Option<u16> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => u16::try_from(*mtu).ok().filter(|&mtu| mtu > 0),
        _ => None,
    })
}

/// A broadcast address of interface `index`: the kernel's local table has those of each subnet.
pub(super) fn broadcast(message: &RouteMessage, index: u32) -> Option<Ipv4Addr> {
    if message.header.kind != RouteType::Broadcast {
        return None;
    }
    let (mut destination, mut interface) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = Some(*address),
            RouteAttribute::Oif(oif) => interface = Some(*oif),
            _ => {}
        }
    }
    destination.filter(|_| interface == Some(index))
}

/// A gateway may be of the other family (RFC 5549).
fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => address(gateway),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    })
}

const fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// A neighbour on interface `index`: address, state, and MAC address if known.
pub(super) fn neighbor(message: &NeighbourMessage, index: u32) -> Option<(IpAddr, Reach, Option<MacAddr>)> {
    if message.header.ifindex != index {
        return None;
    }
    let mut destination = None;
    let mut link_address = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => destination = Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => destination = Some((*v6).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => link_address = mac(bytes),
            _ => {}
        }
    }
    let reach = match message.header.state {
        NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp => Reach::Confirmed,
        NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => Reach::Unconfirmed,
        _ => Reach::Unknown,
    };
    Some((
        destination?,
        reach,
        link_address.filter(|_| reach != Reach::Unknown),
    ))
}

fn mac(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok().map(MacAddr)
}
