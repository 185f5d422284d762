//! The routes and neighbours of the vL3 interface, as the kernel has them.

mod generations;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::addr::{MacAddr, from_octets, to_octets};

pub use generations::{HopGenerations, hop_bucket};

/// Framing of the vL3 interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Ethernet (veth, a NIC), with the interface's own address.
    Ethernet(MacAddr),
    /// Raw IP (TUN): no header, no next hop to look up.
    RawIp,
}

impl Link {
    /// `ethernet` or `raw-ip`, as in every view.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ethernet(_) => "ethernet",
            Self::RawIp => "raw-ip",
        }
    }
}

/// One route out of the vL3 interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub destination: IpAddr,
    pub prefix_length: u8,
    /// The gateway; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The kernel's metric: the lower one wins between equal prefixes.
    pub metric: u32,
    /// The longest packet on this route in bytes, if it is less than the interface's MTU.
    pub mtu: Option<u16>,
}

/// Answer of [`NextHops::resolve`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHop {
    Mac(MacAddr),
    /// The kernel has a route but no MAC address for this neighbour yet.
    Unresolved(IpAddr),
    NoRoute,
}

/// Prefixes of a family that are compared one after the other.
const FEW: usize = 8;

/// The destinations of a route.
#[derive(Debug, Clone, Copy)]
struct Prefix {
    /// Of an address as [`to_octets`] has it.
    mask: u128,
    bits: u128,
    /// Of its best route.
    position: usize,
}

/// Routes and neighbours of the vL3 interface. Immutable; part of a snapshot.
#[derive(Debug, Clone)]
pub struct NextHops {
    pub link: Link,
    /// Changes whenever link, routes or neighbours change.
    pub generation: u16,
    generations: HopGenerations,
    /// Longest prefix first, then the lowest metric.
    routes: Vec<Route>,
    /// The smallest MTU of a route, `u16::MAX` if none has one.
    smallest_mtu: u16,
    /// The lengths of the prefixes of each family, longest first.
    lengths: [Vec<u8>; 2],
    /// By prefix: the position of its best route.
    prefixes: HashMap<(u128, u8, bool), usize, foldhash::fast::RandomState>,
    /// The prefixes of each family, longest first, if there are at most [`FEW`]: then it is faster to compare all.
    few: [Vec<Prefix>; 2],
    /// The next hop of each route that has a gateway.
    gateways: Vec<Option<NextHop>>,
    /// Workers look into it for each new flow, so it hashes fast; its keys are the kernel's.
    neighbors: HashMap<IpAddr, MacAddr, foldhash::fast::RandomState>,
}

impl PartialEq for NextHops {
    fn eq(&self, other: &Self) -> bool {
        // The rest follows from these.
        self.link == other.link
            && self.generation == other.generation
            && self.generations == other.generations
            && self.routes == other.routes
            && self.neighbors == other.neighbors
    }
}

impl Eq for NextHops {}

impl NextHops {
    /// `routes` and `neighbors` of one interface, in any order. All flows resolve their next hops anew if `generation` is
    /// another one than before; [`Self::succeed`] spares those that a change does not concern.
    pub fn new(
        link: Link,
        generation: u16,
        mut routes: Vec<Route>,
        neighbors: HashMap<IpAddr, MacAddr>,
    ) -> Self {
        routes.sort_by_key(|route| (Reverse(route.prefix_length), route.metric));
        let mut lengths = [Vec::new(), Vec::new()];
        let mut prefixes = HashMap::default();
        let mut few = [Vec::new(), Vec::new()];
        for (position, route) in routes.iter().enumerate() {
            let of_family: &mut Vec<u8> = &mut lengths[usize::from(route.destination.is_ipv6())];
            if of_family.last() != Some(&route.prefix_length) {
                of_family.push(route.prefix_length);
            }
            let prefix = prefix(route.destination, route.prefix_length);
            if let Entry::Vacant(vacant) = prefixes.entry(prefix) {
                vacant.insert(position);
                let mask = mapped_mask(route.destination, route.prefix_length);
                few[usize::from(route.destination.is_ipv6())].push(Prefix {
                    mask,
                    bits: u128::from_be_bytes(to_octets(route.destination)) & mask,
                    position,
                });
            }
        }
        for prefixes in &mut few {
            if prefixes.len() > FEW {
                prefixes.clear();
            }
        }
        let neighbors: HashMap<_, _, foldhash::fast::RandomState> = neighbors.into_iter().collect();
        let hop = |gateway| match neighbors.get(&gateway) {
            Some(&mac) => NextHop::Mac(mac),
            None => NextHop::Unresolved(gateway),
        };
        let gateways = routes.iter().map(|route| route.gateway.map(hop)).collect();
        let mtus = routes.iter().filter_map(|route| route.mtu);
        Self {
            link,
            generation,
            generations: HopGenerations::new(generation),
            smallest_mtu: mtus.min().unwrap_or(u16::MAX),
            routes,
            lengths,
            prefixes,
            few,
            gateways,
            neighbors,
        }
    }

    /// The next hops after a change of `last`: a new generation, unless nothing changed. After a change of neighbours
    /// only, flows of other neighbours keep what they have resolved. O(routes + neighbours).
    pub fn succeed(last: &Self, link: Link, routes: Vec<Route>, neighbors: HashMap<IpAddr, MacAddr>) -> Self {
        let mut next = Self::new(link, last.generation, routes, neighbors);
        next.generations = last.generations.clone();
        if next.link != last.link || next.routes != last.routes {
            next.generations.change_all();
        } else if next.neighbors == last.neighbors {
            return next;
        } else {
            next.note_neighbors(last);
        }
        next.generation = last.generation.wrapping_add(1);
        next
    }

    /// Counts the changes of neighbours since `last`.
    fn note_neighbors(&mut self, last: &Self) {
        let changed = |(address, mac): (&IpAddr, &MacAddr)| {
            let before = last.neighbors.get(address).copied();
            (before != Some(*mac)).then_some((*address, before))
        };
        let removed = last
            .neighbors
            .iter()
            .filter(|(address, _)| !self.neighbors.contains_key(address))
            .map(|(&address, &before)| (address, Some(before)));
        let changes: Vec<(IpAddr, Option<MacAddr>)> =
            self.neighbors.iter().filter_map(changed).chain(removed).collect();
        let gateways: HashSet<IpAddr> = self.routes.iter().filter_map(|route| route.gateway).collect();
        let mut touched = HashSet::new();
        for (address, before) in changes {
            touched.extend(before.map(|mac| hop_bucket(mac, &[0; 16], false)));
            if gateways.contains(&address) {
                touched.extend(HopGenerations::BY_CLIENT);
            } else {
                touched.insert(hop_bucket(MacAddr::default(), &to_octets(address), true));
            }
        }
        for bucket in touched {
            self.generations.change(bucket);
        }
    }

    /// The generations by [`hop_bucket`].
    pub const fn generations(&self) -> &HopGenerations {
        &self.generations
    }

    /// The best route to `destination`. O(prefix lengths of its family).
    fn route_to(&self, destination: IpAddr) -> Option<&Route> {
        self.routes.get(self.position_of(destination)?)
    }

    /// The position of the best route to `destination`.
    #[inline]
    fn position_of(&self, destination: IpAddr) -> Option<usize> {
        let family = usize::from(destination.is_ipv6());
        if !self.few[family].is_empty() {
            return self.position_among_few(family, &to_octets(destination));
        }
        self.lengths[family]
            .iter()
            .find_map(|&length| self.prefixes.get(&prefix(destination, length)))
            .copied()
    }

    #[inline]
    fn position_among_few(&self, family: usize, destination: &[u8; 16]) -> Option<usize> {
        let bits = u128::from_be_bytes(*destination);
        let contains = |prefix: &&Prefix| bits & prefix.mask == prefix.bits;
        self.few[family]
            .iter()
            .find(contains)
            .map(|prefix| prefix.position)
    }

    /// Whether `address` is in a network that the interface leads to by a route of its own, other than the default route.
    /// O(prefix lengths of its family).
    pub fn is_in_own_network(&self, address: IpAddr) -> bool {
        self.route_to(address)
            .is_some_and(|route| route.prefix_length > 0)
    }

    /// The next hop of packets to `destination`: its gateway or itself. `None` without a route. O(prefix lengths of its
    /// family).
    pub fn neighbor_of(&self, destination: IpAddr) -> Option<IpAddr> {
        Some(self.route_to(destination)?.gateway.unwrap_or(destination))
    }

    /// The MTU of the route to `destination`, if it has one. O(prefix lengths of its family).
    pub fn mtu_towards(&self, destination: IpAddr) -> Option<u16> {
        self.route_to(destination)?.mtu
    }

    /// The smallest MTU of all routes, `u16::MAX` if none has one.
    #[inline]
    pub const fn smallest_mtu(&self) -> u16 {
        self.smallest_mtu
    }

    /// The next hop's MAC address for `destination`. O(prefix lengths of its family); not per packet, but once per flow
    /// and [generation](HopGenerations).
    pub fn resolve(&self, destination: IpAddr) -> NextHop {
        let position = self.position_of(destination);
        self.hop_at(position, || destination)
    }

    /// [`resolve`](Self::resolve) for an address as [`to_octets`] has it, which is how packets' addresses are at hand.
    pub fn resolve_octets(&self, destination: &[u8; 16]) -> NextHop {
        let is_v4 = u128::from_be_bytes(*destination) >> 32 == 0xffff;
        let family = usize::from(!is_v4);
        if self.few[family].is_empty() {
            return self.resolve(from_octets(*destination));
        }
        let position = self.position_among_few(family, destination);
        self.hop_at(position, || from_octets(*destination))
    }

    /// The next hop to `destination` by the route at this position.
    #[inline]
    fn hop_at(&self, position: Option<usize>, destination: impl FnOnce() -> IpAddr) -> NextHop {
        let Some(position) = position else {
            return NextHop::NoRoute;
        };
        if let Some(&Some(gateway)) = self.gateways.get(position) {
            return gateway;
        }
        let destination = destination();
        self.neighbors
            .get(&destination)
            .map_or(NextHop::Unresolved(destination), |&mac| NextHop::Mac(mac))
    }
}

/// The key of a prefix: its bits, its length, and its family.
fn prefix(address: IpAddr, length: u8) -> (u128, u8, bool) {
    let masked = bits(address) & mask(address, length);
    (masked, length, address.is_ipv6())
}

/// An address as a number, of 32 bits or 128.
#[inline]
const fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits() as u128,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The bits of a prefix of this length in an address as [`to_octets`] has it.
fn mapped_mask(address: IpAddr, length: u8) -> u128 {
    let above = if address.is_ipv6() { 0 } else { u128::MAX << 32 };
    above | mask(address, length)
}

/// The bits of a prefix of this length, of the family of `address`.
fn mask(address: IpAddr, length: u8) -> u128 {
    let width = if address.is_ipv6() { 128_u32 } else { 32 };
    let ignored = width.saturating_sub(length.into());
    (u128::MAX >> (128 - width)).checked_shl(ignored).unwrap_or(0) & (u128::MAX >> (128 - width))
}
