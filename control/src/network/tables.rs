//! The kernel's tables of one interface, as last read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use vl3lb_common::MacAddr;
use vl3lb_common::next_hop::{Link, NextHops, Route};

use super::message::{LinkAttributes, Reach};
use super::query::Answer;
use super::routing::{self, Routing};
use super::view::{LinkState, NetworkView};

/// Limit of neighbours that are kept after the kernel removed them.
const COLLECTED: usize = 16_384;

/// Destinations whose route the kernel is asked for, at most: others are decided by its rules and tables alone.
const ASKED: usize = 16_384;

/// Sentences about routing in a view, at most.
const PROBLEMS: usize = 16;

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
    pub(super) routing: Routing,
    pub(super) neighbors: Vec<(IpAddr, Reach, Option<MacAddr>)>,
}

/// Link, addresses, routes and neighbours of the interface.
#[derive(Debug)]
pub(super) struct Tables {
    /// Addresses to balance on, instead of the interface's own.
    configured: Vec<IpAddr>,
    interface: String,
    link: Option<LinkAttributes>,
    addresses: Vec<IpAddr>,
    broadcasts: Vec<Ipv4Addr>,
    routing: Routing,
    /// What `routing` decides, and what it does not express.
    flat: NextHops,
    problems: Vec<String>,
    /// The kernel's answers, until its rules, routes or addresses change.
    answers: BTreeMap<IpAddr, Answer>,
    neighbors: HashMap<IpAddr, Neighbor>,
    /// Neighbours that knew the interface before it was replaced, or got another MAC address.
    former: HashSet<IpAddr>,
    /// Whether the view may be another one than the last.
    changed: bool,
    /// The last view; its next hops' generation goes on from there.
    view: NetworkView,
}

impl Tables {
    /// Empty tables of `interface`.
    pub(super) fn new(configured: Vec<IpAddr>, interface: &str) -> Self {
        Self {
            configured,
            interface: interface.to_owned(),
            link: None,
            addresses: Vec::new(),
            broadcasts: Vec::new(),
            routing: Routing::default(),
            flat: NextHops::new(Link::RawIp, 0, Vec::new(), HashMap::new()),
            problems: Vec::new(),
            answers: BTreeMap::new(),
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

    /// Replaces all tables with a new dump. The kernel's answers are forgotten if anything changed that they depend on, or
    /// if they differ from the tables.
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
        let is_rerouted = self.index() != dump.link.map(|link| link.index)
            || self.addresses.len() != dump.addresses.len()
            || !dump.addresses.iter().all(|own| self.addresses.contains(own))
            || self.routing != dump.routing;
        self.link = dump.link;
        self.addresses = dump.addresses;
        // IPv4 first: the family that people look for first.
        self.addresses.sort_by_key(IpAddr::is_ipv6);
        self.broadcasts = dump.broadcasts;
        self.broadcasts.sort_unstable();
        self.broadcasts.dedup();
        if is_rerouted {
            self.routing = dump.routing;
            self.reroute();
        } else {
            // An answer from between two dumps, while the link was down, may be out of date: it is asked for again.
            let flat = &self.flat;
            self.answers
                .retain(|&destination, answer| answer.agrees(flat.paths_to(destination)));
        }
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

    /// Decides anew by the kernel's rules and tables.
    fn reroute(&mut self) {
        let (routes, problems) = routing::flatten(&self.routing, self.own_addresses(), &self.interface);
        self.flat = NextHops::new(Link::RawIp, 0, routes, HashMap::new());
        self.problems = problems;
        self.answers.clear();
    }

    fn own_addresses(&self) -> &[IpAddr] {
        if self.configured.is_empty() {
            &self.addresses
        } else {
            &self.configured
        }
    }

    /// The own address that decides about packets to `destination`, if the kernel has still to be asked for its route.
    pub(super) fn question(&self, destination: IpAddr) -> Option<IpAddr> {
        if self.answers.len() >= ASKED || self.answers.contains_key(&destination) {
            return None;
        }
        let of_family = |own: &&IpAddr| own.is_ipv4() == destination.is_ipv4();
        self.own_addresses().iter().find(of_family).copied()
    }

    /// The kernel's answer to [`Self::question`]. Where it differs from what its rules and tables say, it decides.
    pub(super) fn answer(&mut self, destination: IpAddr, answer: Answer) {
        self.changed |= !answer.agrees(self.flat.paths_to(destination));
        self.answers.insert(destination, answer);
    }

    /// The routes of the workers, and what is to be known about them.
    fn routes(&self) -> (Vec<Route>, Vec<String>) {
        let mut routes = self.flat.routes().to_vec();
        let mut problems = self.problems.clone();
        for (&destination, answer) in &self.answers {
            if answer.agrees(self.flat.paths_to(destination)) {
                continue;
            }
            let host = if destination.is_ipv4() { 32 } else { 128 };
            routes.retain(|route| route.destination != destination || route.prefix_length < host);
            problems.push(format!(
                "the kernel routes packets to {destination} in another way than its rules and tables say: its own answer \
                 is used"
            ));
            routes.extend(answer.routes(destination));
        }
        problems.truncate(PROBLEMS);
        (routes, problems)
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
        let (routes, routing_problems) = self.routes();
        let next_hops = NextHops::succeed(&self.view.next_hops, link, routes, neighbors);
        self.view = NetworkView {
            index: self.index(),
            state: self.link.map_or(LinkState::Absent, |link| link.state),
            mtu: self.link.map_or(0, |link| link.mtu),
            addresses: self.own_addresses().to_vec(),
            broadcasts: self.broadcasts.clone(),
            next_hops,
            routing_problems,
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
    use vl3lb_common::next_hop::{NextHop, RouteKind};

    use super::super::routing::{Entry, Rule, TableRoute};
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
            routing: Routing {
                rules: Rule::defaults(false).into(),
                routes: vec![TableRoute {
                    table: 254,
                    entry: Entry::Route(RouteKind::Unicast),
                    destination: "172.16.1.0/24".parse().unwrap(),
                    source: None,
                    paths: vec![None],
                    metric: 0,
                    mtu: None,
                }],
            },
            neighbors: vec![(ip("172.16.1.2"), Reach::Unconfirmed, Some(MAC))],
        }
    }

    fn resolve(tables: &mut Tables) -> NextHop {
        tables.view().next_hops.resolve(ip("172.16.1.2"))
    }

    #[test]
    fn only_next_hops_change_the_generation() {
        let mut tables = Tables::new(Vec::new(), "nsm-1");
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
        let mut tables = Tables::new(Vec::new(), "nsm-1");
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
        let mut tables = Tables::new(Vec::new(), "nsm-1");
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
        let mut tables = Tables::new(Vec::new(), "nsm-1");
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
        let mut tables = Tables::new(Vec::new(), "nsm-1");
        tables.replace(dump());
        tables.set_neighbor(ip("172.16.1.2"), Reach::Unknown, None);
        tables.remove_neighbor(ip("172.16.1.2"));
        assert_eq!(resolve(&mut tables), NextHop::Unresolved(ip("172.16.1.2")));
    }

    #[test]
    fn configured_addresses_come_before_the_interfaces_own() {
        let mut tables = Tables::new(vec![ip("10.0.0.1")], "nsm-1");
        assert!(!tables.view().usable());
        tables.replace(dump());
        assert_eq!(tables.view().addresses, [ip("10.0.0.1")]);
        assert!(tables.view().usable());
        tables.replace(Dump::default());
        assert!(!tables.view().usable());
    }

    #[test]
    fn the_kernels_answer_decides_until_its_routing_changes() {
        let mut tables = Tables::new(Vec::new(), "nsm-1");
        tables.replace(dump());
        let destination = ip("172.16.1.2");
        assert_eq!(tables.question(destination), Some(ip("172.16.1.103")));
        assert_eq!(tables.question(ip("2001:db8::1")), Some(ip("2001:db8::67")));
        let on_link = Answer::Sent {
            paths: vec![None],
            mtu: None,
        };
        tables.answer(destination, on_link);
        assert!(tables.view().routing_problems.is_empty());
        assert_eq!(resolve(&mut tables), NextHop::Mac(MAC));
        assert_eq!(tables.question(destination), None);

        tables.answer(destination, Answer::Refused);
        assert_eq!(resolve(&mut tables), NextHop::NoRoute);
        let known = tables.view().routing_problems.clone();
        assert!(
            matches!(&known[..], [problem] if problem.contains("172.16.1.2")),
            "{known:?}"
        );
        // The same routing again, as after a link that was down for a moment: the kernel is asked again.
        tables.replace(dump());
        assert_eq!(tables.question(destination), Some(ip("172.16.1.103")));
        tables.answer(destination, Answer::Refused);
        assert_eq!(resolve(&mut tables), NextHop::NoRoute);

        let mut other = dump();
        other.routing.routes[0].mtu = Some(1400);
        tables.replace(other);
        assert_eq!(resolve(&mut tables), NextHop::Mac(MAC));
        assert_eq!(tables.question(destination), Some(ip("172.16.1.103")));
    }
}
