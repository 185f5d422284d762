//! The kernel's tables of one interface, as last read.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use vl3lb_common::MacAddr;
use vl3lb_common::next_hop::{Link, NextHops, Route};

use super::message::{LinkAttributes, Reach};
use super::view::{LinkState, NetworkView};

/// Limit of neighbours that are kept after the kernel removed them.
const COLLECTED: usize = 16_384;

/// Neighbours of a replaced interface that are probed on the new one, at most.
const FORMER: usize = 256;

/// A neighbour of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Neighbor {
    pub(super) reach: Reach,
    mac: Option<MacAddr>,
}

/// The result of one complete dump.
#[derive(Debug, Default)]
pub(super) struct Dump {
    pub(super) link: Option<LinkAttributes>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) broadcasts: Vec<Ipv4Addr>,
    pub(super) routes: Vec<Route>,
    pub(super) neighbors: Vec<(IpAddr, Reach, Option<MacAddr>)>,
}

/// Link, addresses, routes and neighbours of the interface.
#[derive(Debug)]
pub(super) struct Tables {
    /// Addresses to balance on, instead of the interface's own.
    configured: Vec<IpAddr>,
    link: Option<LinkAttributes>,
    addresses: Vec<IpAddr>,
    broadcasts: Vec<Ipv4Addr>,
    routes: Vec<Route>,
    neighbors: HashMap<IpAddr, Neighbor>,
    /// Neighbours that knew the interface before it was replaced, or got another MAC address.
    former: HashSet<IpAddr>,
    /// Whether the view may be another one than the last.
    changed: bool,
    /// The last view; its next hops' generation goes on from there.
    view: NetworkView,
}

impl Tables {
    /// Empty tables.
    pub(super) fn new(configured: Vec<IpAddr>) -> Self {
        Self {
            configured,
            link: None,
            addresses: Vec::new(),
            broadcasts: Vec::new(),
            routes: Vec::new(),
            neighbors: HashMap::new(),
            former: HashSet::new(),
            changed: true,
            view: NetworkView::absent(),
        }
    }

    /// The interface's index, if it exists.
    pub(super) fn index(&self) -> Option<u32> {
        self.link.map(|link| link.index)
    }

    /// Whether frames need a neighbour's MAC address.
    pub(super) fn has_neighbors(&self) -> bool {
        self.link
            .is_some_and(|link| link.is_up() && link.link != Link::RawIp)
    }

    /// Replaces all tables with a new dump.
    pub(super) fn replace(&mut self, dump: Dump) {
        let last = self.link;
        let keeps_neighbors = dump.link.is_some_and(|new| {
            new.is_up() && last.is_some_and(|old| old.index == new.index && is_same_kind(old.link, new.link))
        });
        if dump.link.map(|link| link.link) != last.map(|link| link.link) || !keeps_neighbors {
            self.remember_neighbors();
        }
        self.changed = true;
        let before = std::mem::take(&mut self.neighbors);
        self.link = dump.link;
        self.addresses = dump.addresses;
        // IPv4 first: the family that people look for first.
        self.addresses.sort_by_key(IpAddr::is_ipv6);
        self.broadcasts = dump.broadcasts;
        self.broadcasts.sort_unstable();
        self.broadcasts.dedup();
        self.routes = dump.routes;
        for (address, reach, mac) in dump.neighbors {
            self.neighbors.insert(address, Neighbor { reach, mac });
        }
        if keeps_neighbors {
            for (address, neighbor) in before {
                if !self.neighbors.contains_key(&address) {
                    self.collect(address, neighbor);
                }
            }
        }
    }

    /// Keeps the addresses of the present neighbours for [`Self::take_former_neighbors`].
    fn remember_neighbors(&mut self) {
        let known = self
            .neighbors
            .iter()
            .filter(|(address, neighbor)| neighbor.mac.is_some() && !address.is_multicast());
        let left = FORMER.saturating_sub(self.former.len());
        self.former.extend(known.map(|(&address, _)| address).take(left));
    }

    /// The neighbours that knew the interface before it was replaced or got another MAC address: they have to
    /// learn the new one. Once.
    pub(super) fn take_former_neighbors(&mut self) -> HashSet<IpAddr> {
        std::mem::take(&mut self.former)
    }

    /// A neighbour changed.
    pub(super) fn set_neighbor(&mut self, address: IpAddr, reach: Reach, mac: Option<MacAddr>) {
        let before = self.neighbors.insert(address, Neighbor { reach, mac });
        self.changed |= before.and_then(|before| before.mac) != mac;
    }

    /// The kernel removed a neighbour's entry.
    pub(super) fn remove_neighbor(&mut self, address: IpAddr) {
        if let Some(neighbor) = self.neighbors.remove(&address) {
            self.collect(address, neighbor);
            self.changed |= !self.neighbors.contains_key(&address);
        }
    }

    /// Keeps the MAC address of a neighbour that the kernel removed while it was valid. The kernel
    /// collects entries that it does not use itself, and our packets bypass it; a client with a
    /// new MAC address announces it by its next ARP or ND packet. A failed entry has no MAC address.
    fn collect(&mut self, address: IpAddr, neighbor: Neighbor) {
        if neighbor.mac.is_some() && self.neighbors.len() < COLLECTED {
            let reach = Reach::Collected;
            self.neighbors.insert(address, Neighbor { reach, ..neighbor });
        }
    }

    /// The state of a neighbour.
    pub(super) fn reach(&self, neighbor: IpAddr) -> Reach {
        self.neighbors
            .get(&neighbor)
            .map_or(Reach::Unknown, |neighbor| neighbor.reach)
    }

    /// The neighbour that packets to `destination` go to.
    pub(super) fn neighbor_of(&self, destination: IpAddr) -> Option<IpAddr> {
        self.view.next_hops.neighbor_of(destination)
    }

    /// The tables as a view. The next hops get a new generation exactly if they differ from the last view's. O(routes + neighbours) after a change, else O(1).
    pub(super) fn view(&mut self) -> &NetworkView {
        if !std::mem::take(&mut self.changed) {
            return &self.view;
        }
        let link = self.link.map_or(Link::RawIp, |link| link.link);
        let neighbors: HashMap<IpAddr, MacAddr> = self
            .neighbors
            .iter()
            .filter_map(|(&address, neighbor)| Some((address, neighbor.mac?)))
            .collect();
        let next_hops = NextHops::succeed(&self.view.next_hops, link, self.routes.clone(), neighbors);
        self.view = NetworkView {
            index: self.index(),
            state: self.link.map_or(LinkState::Absent, |link| link.state),
            mtu: self.link.map_or(0, |link| link.mtu),
            addresses: if self.configured.is_empty() {
                self.addresses.clone()
            } else {
                self.configured.clone()
            },
            broadcasts: self.broadcasts.clone(),
            next_hops,
        };
        &self.view
    }
}

const fn is_same_kind(a: Link, b: Link) -> bool {
    matches!(
        (a, b),
        (Link::Ethernet(_), Link::Ethernet(_)) | (Link::RawIp, Link::RawIp)
    )
}

#[cfg(test)]
mod tests {
    use vl3lb_common::next_hop::NextHop;

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn dump() -> Dump {
        Dump {
            link: Some(LinkAttributes {
                index: 7,
                link: Link::Ethernet(MacAddr([2; 6])),
                mtu: 1500,
                state: LinkState::Up,
            }),
            addresses: vec![ip("2001:db8::67"), ip("172.16.1.103")],
            broadcasts: vec![Ipv4Addr::new(172, 16, 1, 255); 2],
            routes: vec![Route {
                destination: ip("172.16.1.0"),
                prefix_length: 24,
                gateway: None,
                metric: 0,
                mtu: None,
            }],
            neighbors: vec![(ip("172.16.1.2"), Reach::Unconfirmed, Some(MAC))],
        }
    }

    fn resolve(tables: &mut Tables) -> NextHop {
        tables.view().next_hops.resolve(ip("172.16.1.2"))
    }

    #[test]
    fn only_next_hops_change_the_generation() {
        let mut tables = Tables::new(Vec::new());
        tables.replace(dump());
        let first = tables.view().clone();
        assert_eq!(first.addresses, [ip("172.16.1.103"), ip("2001:db8::67")]);
        assert_eq!(first.broadcasts, [Ipv4Addr::new(172, 16, 1, 255)]);
        tables.replace(dump());
        assert_eq!(*tables.view(), first);

        tables.set_neighbor(ip("172.16.1.2"), Reach::Confirmed, Some(MAC));
        assert_eq!(*tables.view(), first);

        tables.set_neighbor(ip("172.16.1.3"), Reach::Confirmed, Some(MAC));
        let generation = tables.view().next_hops.generation;
        assert_eq!(generation, first.next_hops.generation + 1);
    }

    #[test]
    fn a_neighbor_that_the_kernel_collects_keeps_its_mac_address() {
        let mut tables = Tables::new(Vec::new());
        tables.replace(dump());
        tables.remove_neighbor(ip("172.16.1.2"));
        assert_eq!(resolve(&mut tables), NextHop::Mac(MAC));
        assert_eq!(tables.reach(ip("172.16.1.2")), Reach::Collected);
        let without = || Dump {
            neighbors: Vec::new(),
            ..dump()
        };
        tables.replace(without());
        assert_eq!(resolve(&mut tables), NextHop::Mac(MAC));

        let mut down = without();
        down.link.as_mut().unwrap().state = LinkState::Down;
        tables.replace(down);
        tables.replace(without());
        assert_eq!(resolve(&mut tables), NextHop::Unresolved(ip("172.16.1.2")));
    }

    #[test]
    fn neighbors_of_a_replaced_interface_are_probed_once() {
        let mut tables = Tables::new(Vec::new());
        tables.replace(dump());
        tables.set_neighbor(ip("ff02::1"), Reach::Confirmed, Some(MAC));
        assert!(tables.take_former_neighbors().is_empty());
        tables.replace(Dump::default());
        let mut other = dump();
        other.link.as_mut().unwrap().index = 9;
        other.neighbors.clear();
        tables.replace(other);
        assert_eq!(resolve(&mut tables), NextHop::Unresolved(ip("172.16.1.2")));
        assert_eq!(tables.take_former_neighbors(), [ip("172.16.1.2")].into());
        assert!(tables.take_former_neighbors().is_empty());
    }

    #[test]
    fn a_new_mac_address_keeps_the_neighbors_and_has_them_probed() {
        let mut tables = Tables::new(Vec::new());
        tables.replace(dump());
        let mut other = dump();
        other.link.as_mut().unwrap().link = Link::Ethernet(MacAddr([4; 6]));
        other.neighbors.clear();
        tables.replace(other);
        assert_eq!(resolve(&mut tables), NextHop::Mac(MAC));
        assert_eq!(tables.take_former_neighbors(), [ip("172.16.1.2")].into());
    }

    #[test]
    fn a_neighbor_that_failed_is_unresolved() {
        let mut tables = Tables::new(Vec::new());
        tables.replace(dump());
        tables.set_neighbor(ip("172.16.1.2"), Reach::Unknown, None);
        tables.remove_neighbor(ip("172.16.1.2"));
        assert_eq!(resolve(&mut tables), NextHop::Unresolved(ip("172.16.1.2")));
    }

    #[test]
    fn configured_addresses_come_before_the_interfaces_own() {
        let mut tables = Tables::new(vec![ip("10.0.0.1")]);
        assert!(!tables.view().usable());
        tables.replace(dump());
        assert_eq!(tables.view().addresses, [ip("10.0.0.1")]);
        assert!(tables.view().usable());
        tables.replace(Dump::default());
        assert!(!tables.view().usable());
    }
}
