//! Warnings about the kernel's routes.

use std::net::IpAddr;

use vl3lb_common::next_hop::{Link, NextHop};

use super::{MOST_TROUBLES, about, warn};
use crate::api::Warning;
use crate::network::NetworkView;
use crate::observe::report::build::Facts;
use crate::state::Directory;

/// Backends that no route reaches, and routing that no table of prefixes expresses.
pub(super) fn all(facts: &Facts<'_>) -> Vec<Warning> {
    let Some(network) = facts.network.filter(|network| network.is_up()) else {
        return Vec::new();
    };
    let next = "compare with `ip rule` and `ip route get ADDRESS from OWN oif INTERFACE`";
    let problems = network.routing_problems.iter().take(MOST_TROUBLES);
    let inexact = problems.map(|problem| about("routing", next, warn("routing_inexact", problem.clone())));
    unrouted(facts, network).into_iter().chain(inexact).collect()
}

/// Backends that get no packets, since the kernel has no route to them out of the interface, or one that refuses them.
fn unrouted(facts: &Facts<'_>, network: &NetworkView) -> Option<Warning> {
    let is_raw = network.next_hops.link == Link::RawIp;
    let mut unrouted: Vec<(IpAddr, &str)> = facts
        .directory()
        .into_iter()
        .flat_map(Directory::active_backends)
        .filter_map(|backend| match network.next_hops.resolve(backend.address) {
            // Packets on a raw-IP link need no next hop.
            NextHop::NoRoute if !is_raw => Some((backend.address, "no route")),
            NextHop::Refused(kind) => Some((backend.address, kind.name())),
            _ => None,
        })
        .collect();
    unrouted.sort_unstable();
    unrouted.dedup();
    let (first, _) = *unrouted.first()?;
    let shown: Vec<String> = unrouted
        .iter()
        .take(MOST_TROUBLES)
        .map(|(address, kind)| format!("{address} ({kind})"))
        .collect();
    let more = match unrouted.len().saturating_sub(MOST_TROUBLES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let text = format!("the kernel does not route to backends {}{more}", shown.join(", "));
    let of_family = |own: &&IpAddr| own.is_ipv4() == first.is_ipv4();
    let from = network.addresses.iter().find(of_family);
    let from = from.map_or_else(String::new, |own| format!(" from {own}"));
    let next = format!("ip route get {first}{from} oif {}", facts.identity.interface);
    Some(about("routing", next, warn("no_route", text)))
}
