//! Netlink messages about one interface, parsed.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType,
    RouteVia,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use vl3lb_common::MacAddr;
use vl3lb_common::next_hop::{Link, RouteKind};

use super::routing::{Action, Entry, Rule, TableRoute};
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

/// A route, as far as it concerns interface `index`; `None` for one out of other interfaces.
pub(super) fn route(message: &RouteMessage, index: u32) -> Option<TableRoute> {
    let header = &message.header;
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let dead = RouteFlags::Dead | RouteFlags::Linkdown | RouteFlags::Cloned;
    // Routes for a type of service do not concern packets without one.
    if header.flags.intersects(dead) || header.tos != 0 {
        return None;
    }
    let entry = match header.kind {
        RouteType::Unicast => Entry::Route(RouteKind::Unicast),
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast => Entry::Route(RouteKind::Local),
        RouteType::BlackHole => Entry::Route(RouteKind::Blackhole),
        RouteType::Unreachable => Entry::Route(RouteKind::Unreachable),
        RouteType::Prohibit => Entry::Route(RouteKind::Prohibit),
        RouteType::Throw => Entry::Throw,
        _ => return None,
    };
    let (mut destination, mut source) = (unspecified, unspecified);
    let mut table = u32::from(header.table);
    let (mut interface, mut paths) = (None, None);
    let (mut metric, mut mtu) = (0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(prefix) => destination = address(prefix)?,
            RouteAttribute::Source(prefix) => source = address(prefix)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Metrics(metrics) => mtu = route_mtu(metrics),
            RouteAttribute::Oif(oif) => interface = Some(*oif),
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::MultiPath(hops) => {
                let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
                let usable = hops
                    .iter()
                    .filter(|hop| hop.interface_index == index && !hop.flags.intersects(dead));
                paths = Some(usable.map(|hop| gateway(&hop.attributes)).collect());
            }
            _ => {}
        }
    }
    let paths = match (entry, paths) {
        (Entry::Route(RouteKind::Unicast), Some(paths)) => paths,
        (Entry::Route(RouteKind::Unicast), None) if interface == Some(index) => {
            vec![gateway(&message.attributes)]
        }
        _ => Vec::new(),
    };
    // Nobody else sends to or from loopback addresses.
    let is_loopback = entry == Entry::Route(RouteKind::Local) && destination.is_loopback();
    if is_loopback || entry == Entry::Route(RouteKind::Unicast) && paths.is_empty() {
        return None;
    }
    let source = (header.source_prefix_length > 0).then_some((source, header.source_prefix_length));
    Some(TableRoute {
        table,
        entry,
        destination: network(destination, header.destination_prefix_length)?,
        source: match source {
            Some((source, length)) => Some(network(source, length)?),
            None => None,
        },
        paths,
        metric,
        mtu,
    })
}

fn network(address: IpAddr, length: u8) -> Option<IpNet> {
    IpNet::new(address, length).ok().map(|network| network.trunc())
}

/// A rule of the routing policy.
pub(super) fn rule(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    let is_v6 = match header.family {
        AddressFamily::Inet => false,
        AddressFamily::Inet6 => true,
        _ => return None,
    };
    let mut table = u32::from(header.table);
    let (mut goto, mut mark, mut mask) = (None, None, None);
    let mut rule = Rule::for_all(is_v6, 0, table);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Destination(address) => rule.destination = network(*address, header.dst_len),
            RuleAttribute::Source(address) => rule.source = network(*address, header.src_len),
            RuleAttribute::Iifname(name) => rule.input = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.output = Some(name.clone()),
            RuleAttribute::Goto(priority) => goto = Some(*priority),
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            // All bits set: none.
            RuleAttribute::SuppressPrefixLen(length) => rule.suppressed = u8::try_from(*length).ok(),
            RuleAttribute::SuppressIfGroup(group) if *group != u32::MAX => {
                rule.others.push("suppress_ifgroup");
            }
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::L3MDev(true) => rule.others.push("l3mdev"),
            RuleAttribute::UidRange(_) => rule.others.push("uidrange"),
            RuleAttribute::TunId(_) => rule.others.push("tun_id"),
            RuleAttribute::IpProtocol(_) => rule.others.push("ipproto"),
            RuleAttribute::SourcePortRange(_) => rule.others.push("sport"),
            RuleAttribute::DestinationPortRange(_) => rule.others.push("dport"),
            _ => {}
        }
    }
    if header.tos != 0 {
        rule.others.push("tos");
    }
    rule.mark = mark
        .or_else(|| mask.map(|_| 0))
        .map(|mark| (mark, mask.unwrap_or(u32::MAX)));
    rule.is_inverted = header.flags.contains(RuleFlags::Invert);
    rule.action = match header.action {
        RuleAction::ToTable => Action::Table(table),
        RuleAction::Goto => Action::Goto(goto?),
        RuleAction::Blackhole => Action::Refuse(RouteKind::Blackhole),
        RuleAction::Unreachable => Action::Refuse(RouteKind::Unreachable),
        RuleAction::Prohibit => Action::Refuse(RouteKind::Prohibit),
        _ => Action::Nop,
    };
    Some(rule)
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
