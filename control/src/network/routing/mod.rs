//! What the kernel's rules and tables decide for packets of the balancer's own addresses, as one table of prefixes.
//!
//! The kernel walks its rules in order (ip-rule(8)). A rule that matches has a table looked up, by the longest prefix; what
//! the table does not have, or has as `throw`, is left to the next rule. Packets of the balancer are like those of a socket
//! of this host that is bound to its address and to the interface: without a mark, and routes out of other interfaces do
//! not concern them. So what is decided depends on the destination alone, and workers need one table
//! ([`NextHops`](vl3lb_common::next_hop::NextHops)). Pure; [`super::query`] compares it with the kernel's own answers.

mod rule;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use vl3lb_common::next_hop::{Route, RouteKind};

pub(super) use rule::{Action, Rule};
pub(super) use table::{Entry, TableRoute};

use table::Table;

/// The kernel's rules and routes, as dumped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Routing {
    /// Of both families, in the order of their dump: by priority.
    pub(super) rules: Vec<Rule>,
    /// Of all tables.
    pub(super) routes: Vec<TableRoute>,
}

/// What the kernel does with packets to a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) kind: RouteKind,
    /// One for each path; `None` is on the link. Empty unless unicast.
    pub(super) paths: Vec<Option<IpAddr>>,
    pub(super) mtu: Option<u16>,
    pub(super) metric: u32,
    /// Length of the prefix of the route that decided; 0 if none did.
    prefix_length: u8,
}

impl Decision {
    pub(super) const fn refusal(kind: RouteKind) -> Self {
        Self {
            kind,
            paths: Vec::new(),
            mtu: None,
            metric: 0,
            prefix_length: 0,
        }
    }

    pub(super) fn of(route: &TableRoute, kind: RouteKind) -> Self {
        let is_unicast = kind == RouteKind::Unicast;
        Self {
            kind,
            paths: if is_unicast {
                route.paths.clone()
            } else {
                Vec::new()
            },
            mtu: route.mtu.filter(|_| is_unicast),
            metric: route.metric,
            prefix_length: route.destination.prefix_len(),
        }
    }

    /// Whether packets take the same way. Routes that send nothing are alike: the kernel's answer does not always
    /// distinguish them.
    pub(super) fn is_same_way(&self, other: &Self) -> bool {
        let is_sent = |decision: &Self| decision.kind == RouteKind::Unicast;
        match (is_sent(self), is_sent(other)) {
            (true, true) => {
                let paths = |decision: &Self| decision.paths.iter().copied().collect::<BTreeSet<_>>();
                paths(self) == paths(other) && self.mtu == other.mtu
            }
            (false, false) => true,
            _ => false,
        }
    }

    /// The routes of the workers' table for this decision about `destination`.
    pub(super) fn routes(&self, destination: IpNet) -> Vec<Route> {
        let route = |gateway| Route {
            kind: self.kind,
            destination: destination.addr(),
            prefix_length: destination.prefix_len(),
            gateway,
            metric: self.metric,
            mtu: self.mtu,
        };
        if self.kind == RouteKind::Unicast {
            self.paths.iter().copied().map(route).collect()
        } else {
            vec![route(None)]
        }
    }
}

/// The rules and tables of one family, for packets of one own address.
#[derive(Debug)]
pub(super) struct Policy<'a> {
    rules: Vec<&'a Rule>,
    tables: HashMap<u32, Table<'a>>,
    is_v6: bool,
    own: Option<IpAddr>,
    interface: &'a str,
}

impl<'a> Policy<'a> {
    /// For packets from `own` out of `interface`; without an address, rules and routes for certain sources do not apply.
    /// O(rules + routes).
    pub(super) fn new(routing: &'a Routing, is_v6: bool, own: Option<IpAddr>, interface: &'a str) -> Self {
        let of_family = |rule: &&Rule| rule.is_v6 == is_v6;
        let mut rules: Vec<&Rule> = routing.rules.iter().filter(of_family).collect();
        rules.sort_by_key(|rule| rule.priority);
        let mut tables: HashMap<u32, Table<'_>> = HashMap::new();
        for route in &routing.routes {
            let is_v6_route = matches!(route.destination, IpNet::V6(_));
            let is_ours = route
                .source
                .is_none_or(|source| own.is_some_and(|own| source.contains(&own)));
            if is_v6_route == is_v6 && is_ours {
                tables.entry(route.table).or_default().insert(route);
            }
        }
        Self {
            rules,
            tables,
            is_v6,
            own,
            interface,
        }
    }

    /// What is decided for all addresses of `destination` of which no route or rule has a longer prefix. `None` if no rule
    /// finds a route. O(rules × prefix lengths).
    pub(super) fn decide(&self, destination: IpNet) -> Option<Decision> {
        let mut position = 0;
        while let Some(rule) = self.rules.get(position) {
            position += 1;
            if !rule.matches(self.own, destination, self.interface) {
                continue;
            }
            match rule.action {
                Action::Nop => {}
                Action::Refuse(kind) => return Some(Decision::refusal(kind)),
                // Only forwards: the kernel refuses other ones.
                Action::Goto(priority) => {
                    let target = self.rules.iter().position(|rule| rule.priority >= priority);
                    position = target.unwrap_or(self.rules.len()).max(position);
                }
                Action::Table(id) => {
                    let found = self.tables.get(&id).and_then(|table| table.lookup(destination));
                    let Some(route) = found.filter(|route| !rule.suppresses(route)) else {
                        continue;
                    };
                    match route.entry {
                        Entry::Throw => {}
                        Entry::Route(kind) => return Some(Decision::of(route, kind)),
                    }
                }
            }
        }
        None
    }

    /// The table of the workers. O(prefixes × rules × prefix lengths).
    pub(super) fn flatten(&self) -> Vec<Route> {
        let unspecified = if self.is_v6 {
            [0; 16].into()
        } else {
            IpAddr::from([0; 4])
        };
        let all = IpNet::new_assert(unspecified, 0);
        let of_routes = self.tables.values().flat_map(Table::prefixes);
        let of_rules = self.rules.iter().filter_map(|rule| rule.destination);
        let mut prefixes: Vec<IpNet> = of_routes.chain(of_rules).chain([all]).collect();
        prefixes.sort_unstable_by_key(|prefix| (prefix.prefix_len(), *prefix));
        prefixes.dedup();
        let mut flat: HashMap<IpNet, Decision> = HashMap::with_capacity(prefixes.len());
        let mut lengths: BTreeSet<u8> = BTreeSet::new();
        let mut routes = Vec::new();
        for prefix in prefixes {
            let parent = lengths
                .iter()
                .rev()
                .find_map(|&length| flat.get(&shorter(prefix, length)));
            let decision = match (self.decide(prefix), parent) {
                (Some(decision), _) => decision,
                (None, Some(parent)) if parent.kind != RouteKind::NoRoute => {
                    Decision::refusal(RouteKind::NoRoute)
                }
                (None, _) => continue,
            };
            // A route of a table that is not asked, below one that decides.
            let is_shadowed = decision.prefix_length < prefix.prefix_len()
                && parent.is_some_and(|parent| parent.kind == decision.kind && parent.is_same_way(&decision));
            if is_shadowed {
                continue;
            }
            routes.extend(decision.routes(prefix));
            lengths.insert(prefix.prefix_len());
            flat.insert(prefix, decision);
        }
        routes
    }

    /// The rules that decide about packets of the own address, for a comparison with those of another one.
    fn applicable(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().copied().filter(|rule| rule.is_for(self.own))
    }
}

/// The prefix of this length that covers `prefix`, which is not shorter.
fn shorter(prefix: IpNet, length: u8) -> IpNet {
    IpNet::new(prefix.addr(), length).map_or(prefix, |covering| covering.trunc())
}

/// The workers' table for packets from `addresses` out of `interface`, and what it does not express. Of several own
/// addresses of one family the first one decides.
pub(super) fn flatten(routing: &Routing, addresses: &[IpAddr], interface: &str) -> (Vec<Route>, Vec<String>) {
    let mut routes = Vec::new();
    let mut problems: Vec<String> = routing.rules.iter().filter_map(Rule::problem).collect();
    for is_v6 in [false, true] {
        let mut own = addresses.iter().copied().filter(|own| own.is_ipv6() == is_v6);
        let first = own.next();
        let policy = Policy::new(routing, is_v6, first, interface);
        routes.extend(policy.flatten());
        let differs = |other: &IpAddr| {
            let rules = Policy::new(routing, is_v6, Some(*other), interface);
            !policy.applicable().eq(rules.applicable())
        };
        if let (Some(first), Some(other)) = (first, own.find(differs)) {
            problems.push(format!(
                "rules route packets from {other} in another way than those from {first}, which decide for both"
            ));
        }
    }
    problems.sort_unstable();
    problems.dedup();
    (routes, problems)
}
