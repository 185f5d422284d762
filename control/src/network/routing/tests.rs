//! Rules and tables against a reference that walks them for one address.

use std::collections::HashMap;

use proptest::prelude::*;
use vl3lb_common::next_hop::{Link, NextHop, NextHops};

use super::*;

const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 1, 103));

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A route in a table, by way of `gateway`, `link`, or of a kind.
fn route(table: u32, destination: &str, way: &str) -> TableRoute {
    let entry = match way {
        "throw" => Entry::Throw,
        "unreachable" => Entry::Route(RouteKind::Unreachable),
        "blackhole" => Entry::Route(RouteKind::Blackhole),
        "prohibit" => Entry::Route(RouteKind::Prohibit),
        "local" => Entry::Route(RouteKind::Local),
        _ => Entry::Route(RouteKind::Unicast),
    };
    let paths = match way {
        "link" => vec![None],
        _ if entry == Entry::Route(RouteKind::Unicast) => {
            way.split(' ').map(|gateway| Some(ip(gateway))).collect()
        }
        _ => Vec::new(),
    };
    TableRoute {
        table,
        entry,
        destination: net(destination),
        source: None,
        paths,
        metric: 0,
        mtu: None,
    }
}

fn rule(priority: u32, action: Action) -> Rule {
    Rule {
        action,
        ..Rule::for_all(false, priority, 254)
    }
}

fn from(source: &str, rule: Rule) -> Rule {
    Rule {
        source: Some(net(source)),
        ..rule
    }
}

fn resolve(routing: &Routing, destination: &str) -> String {
    let (routes, _) = flatten(routing, &[OWN], "nsm-1");
    let hops = NextHops::new(Link::RawIp, 0, routes, HashMap::new());
    let mtu = hops
        .mtu_towards(ip(destination))
        .map_or_else(String::new, |mtu| format!(" mtu {mtu}"));
    match hops.resolve(ip(destination)) {
        NextHop::Unresolved(neighbor) if neighbor == ip(destination) => format!("link{mtu}"),
        NextHop::Unresolved(neighbor) => format!("{neighbor}{mtu}"),
        NextHop::Refused(kind) => kind.name().to_owned(),
        NextHop::NoRoute => "no route".to_owned(),
        NextHop::Mac(_) => unreachable!("there are no neighbours"),
    }
}

#[test]
fn rules_decide_before_prefixes() {
    let main = || {
        vec![
            route(254, "172.16.1.0/24", "link"),
            route(254, "0.0.0.0/0", "172.16.1.1"),
            route(254, "10.0.0.0/8", "172.16.1.2"),
            route(255, "172.16.1.103/32", "local"),
        ]
    };
    let table = |routes: &[(&str, &str)]| {
        let own = routes
            .iter()
            .map(|(destination, way)| route(100, destination, way));
        main().into_iter().chain(own).collect::<Vec<_>>()
    };
    let with = |rule: Rule| {
        let mut rules = vec![rule];
        rules.extend(Rule::defaults(false));
        rules
    };
    let to_100 = || rule(99, Action::Table(100));
    let to_table_100 = [
        ("172.16.1.0/24", "link"),
        ("0.0.0.0/0", "172.16.1.9"),
        ("10.9.0.0/16", "unreachable"),
    ];
    type Case<'a> = (&'a str, Rule, Vec<TableRoute>, &'a [(&'a str, &'a str)]);
    let cases: Vec<Case<'_>> = vec![
        (
            "a source rule of the own address",
            from("172.16.1.103/32", to_100()),
            table(&to_table_100),
            &[
                ("172.16.1.2", "link"),
                ("10.1.1.1", "172.16.1.9"),
                ("10.9.1.1", "unreachable"),
                ("9.9.9.9", "172.16.1.9"),
                ("172.16.1.103", "local"),
            ],
        ),
        (
            "a source rule of another address",
            from("172.16.1.104/32", to_100()),
            table(&to_table_100),
            &[("10.9.1.1", "172.16.1.2"), ("9.9.9.9", "172.16.1.1")],
        ),
        (
            "all but another address",
            Rule {
                is_inverted: true,
                ..from("172.16.1.104/32", to_100())
            },
            table(&to_table_100),
            &[("10.1.1.1", "172.16.1.9")],
        ),
        (
            "throw leaves a destination to the next rule",
            to_100(),
            table(&[("10.0.0.0/8", "172.16.1.9"), ("10.2.0.0/16", "throw")]),
            &[
                ("10.1.1.1", "172.16.1.9"),
                ("10.2.1.1", "172.16.1.2"),
                ("9.9.9.9", "172.16.1.1"),
            ],
        ),
        (
            "destination rules",
            Rule {
                destination: Some(net("10.3.0.0/16")),
                ..rule(99, Action::Refuse(RouteKind::Prohibit))
            },
            main(),
            &[("10.3.1.1", "prohibit"), ("10.2.1.1", "172.16.1.2")],
        ),
        (
            "a rule for marked packets does not match",
            Rule {
                mark: Some((1, u32::MAX)),
                ..to_100()
            },
            table(&to_table_100),
            &[("10.1.1.1", "172.16.1.2")],
        ),
        (
            "as wg-quick has it: all that is not marked",
            Rule {
                mark: Some((51_820, u32::MAX)),
                is_inverted: true,
                ..to_100()
            },
            table(&to_table_100),
            &[("10.1.1.1", "172.16.1.9")],
        ),
        (
            "goto skips rules",
            rule(99, Action::Goto(32_767)),
            {
                let mut routes = main();
                routes.push(route(253, "0.0.0.0/0", "172.16.1.7"));
                routes
            },
            &[("10.1.1.1", "172.16.1.7"), ("172.16.1.103", "local")],
        ),
        (
            "a suppressed default route",
            Rule {
                suppressed: Some(0),
                ..to_100()
            },
            table(&to_table_100),
            &[("9.9.9.9", "172.16.1.1"), ("10.9.1.1", "unreachable")],
        ),
        (
            "rules for packets that arrive, or leave elsewhere",
            Rule {
                input: Some("eth0".to_owned()),
                ..to_100()
            },
            table(&to_table_100),
            &[("9.9.9.9", "172.16.1.1")],
        ),
        (
            "a rule of the interface",
            Rule {
                output: Some("nsm-1".to_owned()),
                ..to_100()
            },
            table(&to_table_100),
            &[("9.9.9.9", "172.16.1.9")],
        ),
    ];
    for (name, rule, routes, want) in cases {
        let routing = Routing {
            rules: with(rule),
            routes,
        };
        for (destination, want) in want {
            assert_eq!(resolve(&routing, destination), *want, "{name}: {destination}");
        }
    }
}

#[test]
fn the_best_route_of_a_prefix_has_the_lowest_metric_and_all_its_paths() {
    let with = |metric, mtu, route| TableRoute { metric, mtu, ..route };
    let routing = Routing {
        rules: Rule::defaults(false).into(),
        routes: vec![
            with(20, None, route(254, "10.0.0.0/8", "172.16.1.9")),
            with(
                10,
                Some(1400),
                route(254, "10.0.0.0/8", "172.16.1.1 172.16.1.2 172.16.1.3"),
            ),
            with(0, None, route(254, "10.5.0.0/16", "unreachable")),
            with(30, None, route(254, "10.5.0.0/16", "172.16.1.9")),
        ],
    };
    let mut seen = std::collections::BTreeMap::new();
    for last in 0..=255_u8 {
        *seen
            .entry(resolve(&routing, &format!("10.0.0.{last}")))
            .or_insert(0) += 1;
    }
    let ways: Vec<_> = seen.keys().cloned().collect();
    assert_eq!(
        ways,
        [
            "172.16.1.1 mtu 1400",
            "172.16.1.2 mtu 1400",
            "172.16.1.3 mtu 1400"
        ]
    );
    assert!(seen.values().all(|&count| count > 50), "{seen:?}");
    assert_eq!(resolve(&routing, "10.5.0.1"), "unreachable");
    assert_eq!(resolve(&routing, "9.9.9.9"), "no route");
}

#[test]
fn what_a_table_of_prefixes_cannot_express_is_a_problem() {
    let mut routing = Routing {
        rules: Rule::defaults(false).into(),
        routes: Vec::new(),
    };
    let problems = |routing: &Routing, own: &[IpAddr]| flatten(routing, own, "nsm-1").1;
    assert!(problems(&routing, &[OWN]).is_empty());
    routing.rules.push(from("172.16.1.103/32", rule(9, Action::Nop)));
    assert!(problems(&routing, &[OWN]).is_empty());
    let [differs] = &problems(&routing, &[OWN, ip("172.16.1.104")])[..] else {
        panic!("one problem");
    };
    assert!(
        differs.contains("172.16.1.104") && differs.contains("172.16.1.103"),
        "{differs}"
    );
    for (change, want) in [
        (
            Rule {
                mark: Some((1, 1)),
                ..rule(5, Action::Nop)
            },
            "ip rule 5 matches by fwmark: applied as to local packets without a mark",
        ),
        (
            Rule {
                input: Some("eth0".to_owned()),
                ..rule(5, Action::Nop)
            },
            "ip rule 5 matches by iif: applied as to local packets without a mark",
        ),
        (
            Rule {
                others: vec!["uidrange", "tos"],
                ..rule(6, Action::Nop)
            },
            "ip rule 6 matches by uidrange, tos: not applied to packets of the balancer",
        ),
    ] {
        routing.rules.push(change);
        assert_eq!(problems(&routing, &[OWN]), [want]);
        routing.rules.pop();
    }
}

/// What the kernel decides for one address: rule by rule, with a search through all routes.
fn reference(routing: &Routing, destination: IpAddr) -> Option<(RouteKind, Vec<Option<IpAddr>>)> {
    let mut rules: Vec<_> = routing.rules.iter().collect();
    rules.sort_by_key(|rule| rule.priority);
    let host = IpNet::from(destination);
    let mut after = 0;
    for rule in rules {
        if rule.priority < after || !rule.matches(Some(OWN), host, "nsm-1") {
            continue;
        }
        match rule.action {
            Action::Nop => {}
            Action::Goto(priority) => after = priority,
            Action::Refuse(kind) => return Some((kind, Vec::new())),
            Action::Table(table) => {
                let covering = routing
                    .routes
                    .iter()
                    .filter(|route| route.table == table && route.destination.contains(&destination));
                let best = covering
                    .min_by_key(|route| (std::cmp::Reverse(route.destination.prefix_len()), route.metric));
                match best.map(|route| (route.entry, route)) {
                    Some((Entry::Route(kind), route)) if !rule.suppresses(route) => {
                        return Some((kind, route.paths.clone()));
                    }
                    _ => {}
                }
            }
        }
    }
    None
}

/// Addresses and prefixes that often cover each other.
fn some_net() -> impl Strategy<Value = IpNet> {
    (0_u32..16, prop::sample::select(vec![0_u8, 8, 28, 29, 30, 31, 32])).prop_map(|(bits, length)| {
        IpNet::new(std::net::Ipv4Addr::from_bits(bits | 0x0a00_0000).into(), length)
            .unwrap()
            .trunc()
    })
}

fn some_route() -> impl Strategy<Value = TableRoute> {
    let way = prop::sample::select(vec![
        "link",
        "172.16.1.1",
        "172.16.1.2",
        "throw",
        "unreachable",
        "blackhole",
    ]);
    (253_u32..256, some_net(), way, 0_u32..3).prop_map(|(table, destination, way, metric)| TableRoute {
        metric,
        ..route(table, &destination.to_string(), way)
    })
}

fn some_rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        6 => (253_u32..256).prop_map(Action::Table),
        1 => Just(Action::Refuse(RouteKind::Prohibit)),
        1 => (0_u32..8).prop_map(Action::Goto),
        1 => Just(Action::Nop),
    ];
    let to = prop::option::weighted(0.3, some_net());
    let suppressed = prop::option::weighted(0.2, prop::sample::select(vec![0_u8, 8, 30]));
    (0_u32..6, action, to, prop::bool::weighted(0.1), suppressed).prop_map(
        |(priority, action, destination, is_inverted, suppressed)| {
            let action = match action {
                Action::Goto(target) if target <= priority => Action::Goto(priority + 1),
                action => action,
            };
            Rule {
                destination,
                is_inverted: is_inverted && destination.is_some(),
                suppressed,
                ..rule(priority, action)
            }
        },
    )
}

proptest! {
    /// One table of prefixes decides about each address as rules and tables do.
    #[test]
    fn one_table_decides_as_all_rules_and_tables(
        rules in prop::collection::vec(some_rule(), 0..6),
        routes in prop::collection::vec(some_route(), 0..16),
    ) {
        let routing = Routing { rules, routes };
        let (flat, _) = flatten(&routing, &[OWN], "nsm-1");
        let hops = NextHops::new(Link::RawIp, 0, flat, HashMap::new());
        for bits in (0_u32..18).map(|last| last | 0x0a00_0000).chain([0x0909_0909]) {
            let destination = IpAddr::from(std::net::Ipv4Addr::from_bits(bits));
            let decided = match hops.resolve(destination) {
                NextHop::Unresolved(_) => {
                    let paths = hops.paths_to(destination).iter().map(|route| route.gateway);
                    Some((RouteKind::Unicast, paths.collect()))
                }
                NextHop::Refused(kind) => Some((kind, Vec::new())),
                _ => None,
            };
            prop_assert_eq!(decided, reference(&routing, destination), "{}", destination);
        }
    }
}
