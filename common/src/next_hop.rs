//! The routes and neighbours of the vL3 interface, as the kernel has them.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::addr::MacAddr;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHops {
    pub link: Link,
    /// Changes whenever routes or neighbours change: a flow keeps its resolved next hop until then.
    pub generation: u16,
    routes: Vec<Route>,
    /// The smallest MTU of a route, `u16::MAX` if none has one.
    smallest_mtu: u16,
    /// Workers look into it for each new flow, so it hashes fast; its keys are the kernel's.
    neighbors: HashMap<IpAddr, MacAddr, foldhash::fast::RandomState>,
}

impl NextHops {
    /// `routes` and `neighbors` of one interface, in any order.
    pub fn new(
        link: Link,
        generation: u16,
        mut routes: Vec<Route>,
        neighbors: HashMap<IpAddr, MacAddr>,
    ) -> Self {
        routes.sort_by_key(|route| (std::cmp::Reverse(route.prefix_length), route.metric));
        let mtus = routes.iter().filter_map(|route| route.mtu);
        Self {
            link,
            generation,
            smallest_mtu: mtus.min().unwrap_or(u16::MAX),
            routes,
            neighbors: neighbors.into_iter().collect(),
        }
    }

    /// The next hop of packets to `destination`: its gateway or itself. `None` without a route. O(routes).
    pub fn neighbor_of(&self, destination: IpAddr) -> Option<IpAddr> {
        Some(self.route_to(destination)?.gateway.unwrap_or(destination))
    }

    /// The MTU of the route to `destination`, if it has one. O(routes).
    pub fn mtu_towards(&self, destination: IpAddr) -> Option<u16> {
        self.route_to(destination)?.mtu
    }

    /// The smallest MTU of all routes, `u16::MAX` if none has one.
    #[inline]
    pub const fn smallest_mtu(&self) -> u16 {
        self.smallest_mtu
    }

    fn route_to(&self, destination: IpAddr) -> Option<&Route> {
        self.routes.iter().find(|route| route.contains(destination))
    }

    /// The next hop's MAC address for `destination`. O(routes); once per flow and generation, not per packet.
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

impl Route {
    fn contains(&self, address: IpAddr) -> bool {
        match (self.destination, address) {
            (IpAddr::V4(net), IpAddr::V4(host)) => same_prefix(
                net.to_bits().into(),
                host.to_bits().into(),
                self.prefix_length,
                32,
            ),
            (IpAddr::V6(net), IpAddr::V6(host)) => {
                same_prefix(net.to_bits(), host.to_bits(), self.prefix_length, 128)
            }
            _ => false,
        }
    }
}

fn same_prefix(a: u128, b: u128, length: u8, width: u32) -> bool {
    let ignored = width.saturating_sub(u32::from(length));
    (a ^ b).checked_shr(ignored).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
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
}
