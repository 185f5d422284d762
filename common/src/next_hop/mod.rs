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

/// What the kernel does with packets to the destinations of a route (`rtm_type` in rtnetlink(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RouteKind {
    /// Sends them out of the vL3 interface.
    #[default]
    Unicast,
    /// Refuses them: host unreachable.
    Unreachable,
    /// Drops them.
    Blackhole,
    /// Refuses them: administratively prohibited.
    Prohibit,
    /// Delivers them on this host: its own and broadcast addresses.
    Local,
    /// Has no route for them, although a shorter prefix has one.
    NoRoute,
}

impl RouteKind {
    /// The kernel's word, as in `ip route`; `no route` for [`Self::NoRoute`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unicast => "unicast",
            Self::Unreachable => "unreachable",
            Self::Blackhole => "blackhole",
            Self::Prohibit => "prohibit",
            Self::Local => "local",
            Self::NoRoute => "no route",
        }
    }
}

/// One route for packets of the balancer's own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub kind: RouteKind,
    pub destination: IpAddr,
    pub prefix_length: u8,
    /// The gateway; `None` if the destination is on the link. Each path of a multipath route is a route with the same
    /// prefix and metric.
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
    /// The route to it is of this kind, and not [`RouteKind::Unicast`] or [`RouteKind::NoRoute`].
    Refused(RouteKind),
}

impl NextHop {
    /// Whether the kernel would send packets there.
    pub const fn has_route(self) -> bool {
        matches!(self, Self::Mac(_) | Self::Unresolved(_))
    }
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
    /// By prefix: the position of its best route, which is that of its first path.
    prefixes: HashMap<(u128, u8, bool), usize, foldhash::fast::RandomState>,
    /// The prefixes of each family, longest first, if there are at most [`FEW`]: then it is faster to compare all.
    few: [Vec<Prefix>; 2],
    /// The number of paths of each best route, at its position; empty if all have one.
    paths: Vec<usize>,
    /// The next hop of each route that has a gateway, or that refuses.
    gateways: Vec<Option<NextHop>>,
    /// Whether a route is not unicast.
    has_refusals: bool,
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
        // By prefix, so that the paths of one route are side by side.
        routes.sort_by_cached_key(|route| {
            let prefix = prefix(route.destination, route.prefix_length);
            (Reverse(route.prefix_length), prefix, route.metric)
        });
        let mut lengths = [Vec::new(), Vec::new()];
        let mut prefixes = HashMap::default();
        let mut few = [Vec::new(), Vec::new()];
        let mut paths = Vec::new();
        for (position, route) in routes.iter().enumerate() {
            let of_family: &mut Vec<u8> = &mut lengths[usize::from(route.destination.is_ipv6())];
            if of_family.last() != Some(&route.prefix_length) {
                of_family.push(route.prefix_length);
            }
            let prefix = prefix(route.destination, route.prefix_length);
            match prefixes.entry(prefix) {
                Entry::Vacant(vacant) => {
                    vacant.insert(position);
                    let mask = mapped_mask(route.destination, route.prefix_length);
                    few[usize::from(route.destination.is_ipv6())].push(Prefix {
                        mask,
                        bits: u128::from_be_bytes(to_octets(route.destination)) & mask,
                        position,
                    });
                }
                Entry::Occupied(best) => {
                    let first = *best.get();
                    if routes.get(first).is_some_and(|best| best.metric == route.metric) {
                        paths.resize(routes.len(), 1);
                        paths[first] += 1;
                    }
                }
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
        let fixed_hop = |route: &Route| match route.kind {
            RouteKind::Unicast => route.gateway.map(hop),
            RouteKind::NoRoute => Some(NextHop::NoRoute),
            refusal => Some(NextHop::Refused(refusal)),
        };
        let gateways = routes.iter().map(fixed_hop).collect();
        let mtus = routes.iter().filter_map(|route| route.mtu);
        Self {
            link,
            generation,
            generations: HopGenerations::new(generation),
            smallest_mtu: mtus.min().unwrap_or(u16::MAX),
            has_refusals: routes.iter().any(|route| route.kind != RouteKind::Unicast),
            routes,
            lengths,
            prefixes,
            few,
            paths,
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

    /// The best route to `destination`, or one of its paths, by a hash of the destination: so the packets of a flow take
    /// one path. O(prefix lengths of its family).
    fn entry_of(&self, destination: IpAddr) -> Option<&Route> {
        self.routes.get(self.position_of(destination)?)
    }

    /// All paths of the best route to `destination`; empty without one. O(prefix lengths of its family).
    pub fn paths_to(&self, destination: IpAddr) -> &[Route] {
        self.best_of(destination)
            .and_then(|first| self.routes.get(first..first + self.path_count(first)))
            .unwrap_or_default()
    }

    /// As [`Self::entry_of`], if packets to `destination` leave the interface.
    fn route_to(&self, destination: IpAddr) -> Option<&Route> {
        self.entry_of(destination)
            .filter(|route| route.kind == RouteKind::Unicast)
    }

    /// The position of the path to `destination`.
    #[inline]
    fn position_of(&self, destination: IpAddr) -> Option<usize> {
        let first = self.best_of(destination)?;
        Some(self.path_at(first, &to_octets(destination)))
    }

    /// The position of the best route to `destination`.
    #[inline]
    fn best_of(&self, destination: IpAddr) -> Option<usize> {
        let family = usize::from(destination.is_ipv6());
        if !self.few[family].is_empty() {
            return self.position_among_few(family, &to_octets(destination));
        }
        self.lengths[family]
            .iter()
            .find_map(|&length| self.prefixes.get(&prefix(destination, length)))
            .copied()
    }

    fn path_count(&self, first: usize) -> usize {
        self.paths.get(first).copied().unwrap_or(1)
    }

    /// The position of the path to `destination` of the route whose first path is at `first`.
    #[inline]
    fn path_at(&self, first: usize, destination: &[u8; 16]) -> usize {
        if self.paths.is_empty() {
            return first;
        }
        match self.path_count(first) {
            1 => first,
            paths => first + path_of(destination, paths),
        }
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

    /// The next hop of packets to `destination`: its gateway or itself. `None` without a unicast route. O(prefix lengths of
    /// its family).
    pub fn neighbor_of(&self, destination: IpAddr) -> Option<IpAddr> {
        Some(self.route_to(destination)?.gateway.unwrap_or(destination))
    }

    /// The MTU of the route to `destination`, if it has one. O(prefix lengths of its family).
    pub fn mtu_towards(&self, destination: IpAddr) -> Option<u16> {
        self.route_to(destination)?.mtu
    }

    /// The routes, longest prefix first.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Whether the kernel refuses packets to `destination`, as [`to_octets`] has it, by a route. O(1) without such routes, else O(prefix lengths of
    /// its family).
    pub fn refuses(&self, destination: &[u8; 16]) -> bool {
        self.has_refusals && matches!(self.resolve_octets(destination), NextHop::Refused(_))
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
        let first = self.position_among_few(family, destination);
        let position = first.map(|first| self.path_at(first, destination));
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

/// The path to `destination`, of `paths`: the upper bits of a multiplicative hash. The network's senders may choose it, as
/// they may choose a path of the kernel.
fn path_of(destination: &[u8; 16], paths: usize) -> usize {
    let octets = u128::from_be_bytes(*destination);
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    let folded = (octets as u64) ^ (octets >> 64) as u64;
    let hash = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let paths = u64::try_from(paths).unwrap_or(1);
    usize::try_from((hash * paths) >> 32).unwrap_or(0)
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
