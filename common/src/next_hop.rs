//! The routes and neighbours of the vL3 interface, as the kernel has them.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::addr::{MacAddr, to_octets};

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
        for (position, route) in routes.iter().enumerate() {
            let of_family: &mut Vec<u8> = &mut lengths[usize::from(route.destination.is_ipv6())];
            if of_family.last() != Some(&route.prefix_length) {
                of_family.push(route.prefix_length);
            }
            let prefix = prefix(route.destination, route.prefix_length);
            prefixes.entry(prefix).or_insert(position);
        }
        let mtus = routes.iter().filter_map(|route| route.mtu);
        Self {
            link,
            generation,
            generations: HopGenerations::new(generation),
            smallest_mtu: mtus.min().unwrap_or(u16::MAX),
            routes,
            lengths,
            prefixes,
            neighbors: neighbors.into_iter().collect(),
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
        self.lengths[usize::from(destination.is_ipv6())]
            .iter()
            .find_map(|&length| self.prefixes.get(&prefix(destination, length)))
            .and_then(|&position| self.routes.get(position))
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
        match self.neighbor_of(destination) {
            None => NextHop::NoRoute,
            Some(neighbor) => self
                .neighbors
                .get(&neighbor)
                .map_or(NextHop::Unresolved(neighbor), |&mac| NextHop::Mac(mac)),
        }
    }
}

/// Counts changes of next hops in buckets, so that a flow resolves its next hop anew only if that may have changed.
///
/// A flow that has its next hop from the kernel is in the bucket of the MAC address; one whose MAC address was learned
/// from its client's packets is in the bucket of the client's address, since it waits for the kernel to resolve the
/// client. Only a change of a gateway concerns all learned ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HopGenerations(Box<[u16; HopGenerations::BUCKETS]>);

impl HopGenerations {
    /// Half of them for MAC addresses, half for clients.
    pub const BUCKETS: usize = 512;
    /// The buckets of clients.
    const BY_CLIENT: std::ops::Range<usize> = Self::BUCKETS / 2..Self::BUCKETS;

    fn new(generation: u16) -> Self {
        Self(Box::new([generation; Self::BUCKETS]))
    }

    fn change(&mut self, bucket: usize) {
        self.0[bucket] = self.0[bucket].wrapping_add(1);
    }

    fn change_all(&mut self) {
        (0..Self::BUCKETS).for_each(|bucket| self.change(bucket));
    }

    /// The generation of each bucket.
    pub const fn all(&self) -> &[u16; Self::BUCKETS] {
        &self.0
    }
}

/// The bucket of [`HopGenerations`] for a flow to `client`, whose next hop has this MAC address, learned from the client's
/// packets or not.
#[inline(always)]
pub const fn hop_bucket(MacAddr(mac): MacAddr, client: &[u8; 16], is_learned: bool) -> usize {
    // Fibonacci hashing: the upper 8 bits of the product.
    const MULTIPLIER: u32 = 0x9e37_79b1;
    let key = if is_learned {
        u32::from_ne_bytes([client[12], client[13], client[14], client[15]])
            ^ u32::from_ne_bytes([client[8], client[9], client[10], client[11]])
    } else {
        u32::from_ne_bytes([mac[2], mac[3], mac[4], mac[5]])
    };
    (key.wrapping_mul(MULTIPLIER) >> 24) as usize | (is_learned as usize) << 8
}

/// The key of a prefix: its bits, its length, and its family.
fn prefix(address: IpAddr, length: u8) -> (u128, u8, bool) {
    let (bits, width) = match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32_u32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let ignored = width.saturating_sub(length.into());
    let masked = bits.checked_shr(ignored).unwrap_or(0);
    (masked, length, address.is_ipv6())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn route(destination: &str, prefix_length: u8, gateway: Option<&str>, metric: u32) -> Route {
        Route {
            destination: ip(destination),
            prefix_length,
            gateway: gateway.map(ip),
            metric,
            mtu: None,
        }
    }

    #[test]
    fn the_mtu_is_that_of_the_route_in_use() {
        let with_mtu = |mtu, route| Route { mtu, ..route };
        let routes = vec![
            with_mtu(Some(1400), route("0.0.0.0", 0, Some("172.16.1.1"), 0)),
            with_mtu(Some(1300), route("10.0.0.0", 8, Some("172.16.1.1"), 0)),
            route("172.16.1.0", 24, None, 0),
        ];
        let hops = NextHops::new(Link::RawIp, 1, routes, HashMap::new());
        assert_eq!(hops.smallest_mtu(), 1300);
        for (destination, mtu) in [
            ("9.9.9.9", Some(1400)),
            ("10.1.2.3", Some(1300)),
            ("172.16.1.9", None),
            ("2001:db8::1", None),
        ] {
            assert_eq!(hops.mtu_towards(ip(destination)), mtu, "{destination}");
        }
    }

    #[test]
    fn the_longest_prefix_then_the_lowest_metric_wins() {
        let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
        let hops = NextHops::new(
            Link::Ethernet(mac(0)),
            1,
            vec![
                route("0.0.0.0", 0, Some("172.16.1.1"), 100),
                route("172.16.1.0", 24, None, 0),
                route("172.16.1.128", 25, Some("172.16.1.2"), 0),
                route("0.0.0.0", 0, Some("172.16.1.3"), 50),
                route("2001:db8::", 64, None, 0),
            ],
            HashMap::from([
                (ip("172.16.1.7"), mac(7)),
                (ip("172.16.1.2"), mac(2)),
                (ip("172.16.1.3"), mac(3)),
                (ip("2001:db8::7"), mac(6)),
            ]),
        );
        for (destination, want) in [
            ("172.16.1.7", NextHop::Mac(mac(7))),
            ("172.16.1.8", NextHop::Unresolved(ip("172.16.1.8"))),
            ("172.16.1.200", NextHop::Mac(mac(2))),
            ("9.9.9.9", NextHop::Mac(mac(3))),
            ("2001:db8::7", NextHop::Mac(mac(6))),
            ("2001:db9::7", NextHop::NoRoute),
        ] {
            assert_eq!(hops.resolve(ip(destination)), want, "{destination}");
        }
    }

    fn hops(neighbors: &[(&str, u8)]) -> (Vec<Route>, HashMap<IpAddr, MacAddr>) {
        let routes = vec![
            route("172.16.1.0", 24, None, 0),
            route("0.0.0.0", 0, Some("172.16.1.1"), 0),
        ];
        let neighbors = neighbors.iter().map(|&(address, last)| (ip(address), mac(last)));
        (routes, neighbors.collect())
    }

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    /// A flow as a worker keeps it, and how often it resolved its next hop.
    struct Flow {
        client: IpAddr,
        mac: Option<MacAddr>,
        generation: u16,
        resolved: u32,
    }

    impl Flow {
        fn bucket(&self) -> usize {
            let mac = self.mac.unwrap_or_default();
            hop_bucket(mac, &to_octets(self.client), self.mac.is_none())
        }

        fn refresh(&mut self, hops: &NextHops) {
            if hops.generations().all()[self.bucket()] == self.generation {
                return;
            }
            self.mac = match hops.resolve(self.client) {
                NextHop::Mac(mac) => Some(mac),
                NextHop::Unresolved(_) | NextHop::NoRoute => None,
            };
            self.generation = hops.generations().all()[self.bucket()];
            self.resolved += 1;
        }
    }

    #[test]
    fn a_change_of_a_neighbour_concerns_its_flows_only() {
        let (routes, neighbors) = hops(&[("172.16.1.1", 1), ("172.16.1.7", 7), ("172.16.1.8", 8)]);
        let link = Link::Ethernet(mac(0));
        let mut current = NextHops::new(link, 1, routes, neighbors);
        let mut flows: Vec<Flow> = ["172.16.1.7", "172.16.1.8", "172.16.1.9", "9.9.9.9"]
            .into_iter()
            .map(|client| Flow {
                client: ip(client),
                mac: None,
                generation: 0,
                resolved: 0,
            })
            .collect();
        // Neighbours, and how often each flow has resolved its next hop by then.
        type Step<'a> = (&'a [(&'a str, u8)], [u32; 4]);
        let steps: [Step<'_>; 7] = [
            (
                &[("172.16.1.1", 1), ("172.16.1.7", 7), ("172.16.1.8", 8)],
                [1, 1, 1, 1],
            ),
            // Another client comes, and one that is waited for.
            (
                &[
                    ("172.16.1.1", 1),
                    ("172.16.1.7", 7),
                    ("172.16.1.8", 8),
                    ("172.16.1.50", 50),
                ],
                [1, 1, 1, 1],
            ),
            (
                &[
                    ("172.16.1.1", 1),
                    ("172.16.1.7", 7),
                    ("172.16.1.8", 8),
                    ("172.16.1.9", 9),
                ],
                [1, 1, 2, 1],
            ),
            // One moves, one goes.
            (
                &[
                    ("172.16.1.1", 1),
                    ("172.16.1.7", 77),
                    ("172.16.1.8", 8),
                    ("172.16.1.9", 9),
                ],
                [2, 1, 2, 1],
            ),
            (
                &[("172.16.1.1", 1), ("172.16.1.7", 77), ("172.16.1.9", 9)],
                [2, 2, 2, 1],
            ),
            // The gateway gets another address: those behind it, and learned ones, which may be behind it.
            (
                &[("172.16.1.1", 11), ("172.16.1.7", 77), ("172.16.1.9", 9)],
                [2, 3, 2, 2],
            ),
            (
                &[("172.16.1.1", 11), ("172.16.1.7", 77), ("172.16.1.9", 9)],
                [2, 3, 2, 2],
            ),
        ];
        for (number, (neighbors, want)) in steps.into_iter().enumerate() {
            let (routes, neighbors) = hops(neighbors);
            current = NextHops::succeed(&current, link, routes, neighbors);
            flows.iter_mut().for_each(|flow| flow.refresh(&current));
            let resolved: Vec<_> = flows.iter().map(|flow| flow.resolved).collect();
            assert_eq!(resolved, want, "step {number}");
        }
        let (_, neighbors) = hops(&[("172.16.1.1", 11)]);
        let other = NextHops::succeed(&current, link, Vec::new(), neighbors);
        flows.iter_mut().for_each(|flow| flow.refresh(&other));
        assert_eq!(
            flows.iter().map(|flow| flow.resolved).collect::<Vec<_>>(),
            [3, 4, 3, 3],
            "routes concern all"
        );
        assert_eq!(other.generation, current.generation + 1);
        assert_eq!(
            NextHops::succeed(
                &other,
                link,
                Vec::new(),
                other.neighbors.clone().into_iter().collect()
            ),
            other
        );
    }

    proptest! {
        /// A flow that resolves only in a new generation of its bucket never has another answer than the tables.
        #[test]
        fn a_flow_is_never_out_of_date(
            steps in prop::collection::vec(
                (prop::collection::vec((0_u8..6, 0_u8..4), 0..6), prop::bool::weighted(0.1), 0_u8..6),
                1..40,
            ),
        ) {
            let host = |last: u8| IpAddr::from([172, 16, 1, last]);
            let mut flows: Vec<Flow> = (0..6)
                .map(host)
                .chain([ip("9.9.9.9"), ip("10.0.0.1")])
                .map(|client| Flow { client, mac: None, generation: u16::MAX, resolved: 0 })
                .collect();
            let mut gateway = 1;
            let mut current = NextHops::new(Link::Ethernet(mac(0)), 7, Vec::new(), HashMap::new());
            for (neighbors, reroute, next_gateway) in steps {
                if reroute {
                    gateway = next_gateway;
                }
                let routes = vec![
                    route("172.16.1.0", 24, None, 0),
                    route("0.0.0.0", 0, Some(&host(gateway).to_string()), 0),
                ];
                let neighbors = neighbors.into_iter().map(|(last, number)| (host(last), mac(number))).collect();
                current = NextHops::succeed(&current, Link::Ethernet(mac(0)), routes, neighbors);
                for flow in &mut flows {
                    flow.refresh(&current);
                    let want = match current.resolve(flow.client) {
                        NextHop::Mac(mac) => Some(mac),
                        _ => None,
                    };
                    prop_assert_eq!(flow.mac, want, "{}", flow.client);
                }
            }
        }

        /// Longest-prefix match by length finds what a search through all routes finds.
        #[test]
        fn the_best_route_is_found(
            routes in prop::collection::vec((0_u32..64, 0_u8..=32, 0_u32..3), 0..40),
            destinations in prop::collection::vec(0_u32..64, 1..20),
        ) {
            let address = |bits: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(bits.reverse_bits() ^ bits));
            let routes: Vec<Route> = routes
                .into_iter()
                .enumerate()
                .map(|(number, (bits, prefix_length, metric))| Route {
                    destination: address(bits),
                    prefix_length,
                    gateway: Some(address(u32::try_from(number).unwrap() + 1_000)),
                    metric,
                    mtu: None,
                })
                .collect();
            let hops = NextHops::new(Link::RawIp, 0, routes.clone(), HashMap::new());
            for destination in destinations.into_iter().map(address) {
                let best = routes
                    .iter()
                    .filter(|route| prefix(route.destination, route.prefix_length) == prefix(destination, route.prefix_length))
                    .min_by_key(|route| (Reverse(route.prefix_length), route.metric));
                prop_assert_eq!(hops.neighbor_of(destination), best.and_then(|route| route.gateway));
            }
        }
    }
}
