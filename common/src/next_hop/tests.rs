//! Routes, and which flows a change concerns.

use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn route(destination: &str, prefix_length: u8, gateway: Option<&str>, metric: u32) -> Route {
    Route {
        kind: RouteKind::Unicast,
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
        assert_eq!(
            hops.resolve_octets(&to_octets(ip(destination))),
            want,
            "{destination}"
        );
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
            NextHop::Unresolved(_) | NextHop::NoRoute | NextHop::Refused(_) => None,
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
                kind: RouteKind::Unicast,
                destination: address(bits),
                prefix_length,
                gateway: Some(address(u32::try_from(number).unwrap() + 1_000)),
                metric,
                mtu: None,
            })
            .collect();
        let hops = NextHops::new(Link::RawIp, 0, routes.clone(), HashMap::new());
        for destination in destinations.into_iter().map(address) {
            let rank = |route: &Route| (Reverse(route.prefix_length), route.metric);
            let covering = || routes
                .iter()
                .filter(|route| prefix(route.destination, route.prefix_length) == prefix(destination, route.prefix_length));
            let best = covering().map(rank).min();
            let paths: Vec<_> = covering()
                .filter(|route| Some(rank(route)) == best)
                .map(|route| route.gateway)
                .collect();
            let found: Vec<_> = hops.paths_to(destination).iter().map(|route| route.gateway).collect();
            prop_assert_eq!(&found, &paths);
            match hops.neighbor_of(destination) {
                Some(neighbor) => prop_assert!(paths.contains(&Some(neighbor))),
                None => prop_assert!(paths.is_empty()),
            }
            let hop = hops.neighbor_of(destination).map_or(NextHop::NoRoute, NextHop::Unresolved);
            prop_assert_eq!(hops.resolve(destination), hop);
            prop_assert_eq!(hops.resolve_octets(&to_octets(destination)), hop);
        }
    }
}
