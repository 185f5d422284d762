//! One routing table of the kernel, as far as it concerns the vL3 interface.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use vl3lb_common::next_hop::RouteKind;

use super::shorter;

/// What a route of a table does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) enum Entry {
    Route(RouteKind),
    /// Ends the lookup in this table: the next rule decides.
    Throw,
}

/// A route of one table, without those out of other interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct TableRoute {
    pub(in crate::network) table: u32,
    pub(in crate::network) entry: Entry,
    /// Truncated to its length.
    pub(in crate::network) destination: IpNet,
    /// Sources that it is for (IPv6 only); `None` for all.
    pub(in crate::network) source: Option<IpNet>,
    /// The gateway of each usable path; `None` on the link. Empty unless unicast.
    pub(in crate::network) paths: Vec<Option<IpAddr>>,
    pub(in crate::network) metric: u32,
    pub(in crate::network) mtu: Option<u16>,
}

/// The best route of each prefix.
#[derive(Debug, Default)]
pub(super) struct Table<'a> {
    routes: HashMap<IpNet, &'a TableRoute, foldhash::fast::RandomState>,
    lengths: BTreeSet<u8>,
}

impl<'a> Table<'a> {
    /// Adds a route. Of those to one prefix the one for certain sources, then the lowest metric, then the first one wins.
    pub(super) fn insert(&mut self, route: &'a TableRoute) {
        let rank = |route: &TableRoute| (route.source.is_none(), route.metric);
        self.lengths.insert(route.destination.prefix_len());
        self.routes
            .entry(route.destination)
            .and_modify(|best| {
                if rank(route) < rank(best) {
                    *best = route;
                }
            })
            .or_insert(route);
    }

    /// The route of the longest prefix that covers all of `destination`.
    pub(super) fn lookup(&self, destination: IpNet) -> Option<&'a TableRoute> {
        self.lengths
            .range(..=destination.prefix_len())
            .rev()
            .find_map(|&length| self.routes.get(&shorter(destination, length)))
            .copied()
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.routes.keys().copied()
    }
}
