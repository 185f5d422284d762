//! One rule of the routing policy (ip-rule(8)).

use std::net::IpAddr;

use ipnet::IpNet;
use vl3lb_common::next_hop::RouteKind;

use super::table::TableRoute;

/// What a rule does with a packet that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) enum Action {
    /// Looks the destination up in a table; what the table does not have is left to the next rule.
    Table(u32),
    Refuse(RouteKind),
    /// Continues with the first rule of this priority.
    Goto(u32),
    Nop,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct Rule {
    pub(in crate::network) is_v6: bool,
    pub(in crate::network) priority: u32,
    pub(in crate::network) source: Option<IpNet>,
    pub(in crate::network) destination: Option<IpNet>,
    /// `iif`: packets of this host have `lo`.
    pub(in crate::network) input: Option<String>,
    pub(in crate::network) output: Option<String>,
    /// `fwmark` and its mask.
    pub(in crate::network) mark: Option<(u32, u32)>,
    /// Attributes that packets of the balancer may have or not, such as `ipproto`: such a rule is taken as not matching.
    pub(in crate::network) others: Vec<&'static str>,
    /// `not`: it matches what its attributes do not.
    pub(in crate::network) is_inverted: bool,
    /// `suppress_prefixlength`: routes of this length and below do not count.
    pub(in crate::network) suppressed: Option<u8>,
    pub(in crate::network) action: Action,
}

impl Rule {
    /// The rule that looks up `table` for all packets.
    pub(in crate::network) const fn for_all(is_v6: bool, priority: u32, table: u32) -> Self {
        Self {
            is_v6,
            priority,
            source: None,
            destination: None,
            input: None,
            output: None,
            mark: None,
            others: Vec::new(),
            is_inverted: false,
            suppressed: None,
            action: Action::Table(table),
        }
    }

    /// The rules of a kernel without any of its own: `local`, `main` and `default`.
    pub(in crate::network) fn defaults(is_v6: bool) -> [Self; 3] {
        [(0, 255), (32_766, 254), (32_767, 253)]
            .map(|(priority, table)| Self::for_all(is_v6, priority, table))
    }

    /// Whether it matches packets from `own` to all of `destination` that leave by `interface`.
    pub(super) fn matches(&self, own: Option<IpAddr>, destination: IpNet, interface: &str) -> bool {
        if !self.others.is_empty() {
            return false;
        }
        let of_source = self.has_source(own);
        let to_destination = self.destination.is_none_or(|net| net.contains(&destination));
        let from_here = self.input.as_ref().is_none_or(|input| input == "lo");
        let by_interface = self.output.as_ref().is_none_or(|output| output == interface);
        // Without a mark: 0.
        let without_mark = self.mark.is_none_or(|(mark, mask)| mark & mask == 0);
        (of_source && to_destination && from_here && by_interface && without_mark) != self.is_inverted
    }

    fn has_source(&self, own: Option<IpAddr>) -> bool {
        self.source
            .is_none_or(|net| own.is_some_and(|own| net.contains(&own)))
    }

    /// Whether it may match packets from `own`.
    pub(super) fn is_for(&self, own: Option<IpAddr>) -> bool {
        self.has_source(own) != (self.is_inverted && self.source.is_some())
    }

    /// Whether a route that its table has does not count.
    pub(super) fn suppresses(&self, route: &TableRoute) -> bool {
        self.suppressed
            .is_some_and(|length| route.destination.prefix_len() <= length)
    }

    /// Why it cannot be expressed by a table of prefixes, as a sentence with the way it is taken.
    pub(super) fn problem(&self) -> Option<String> {
        let priority = self.priority;
        let marked = self.mark.map(|_| "fwmark");
        let input = self
            .input
            .as_deref()
            .filter(|&input| input != "lo")
            .map(|_| "iif");
        let kinds: Vec<&str> = marked
            .into_iter()
            .chain(input)
            .chain(self.others.iter().copied())
            .collect();
        let family = if self.is_v6 { "ip -6 rule" } else { "ip rule" };
        (!kinds.is_empty()).then(|| {
            let kinds = kinds.join(", ");
            if self.others.is_empty() {
                format!("{family} {priority} matches by {kinds}: applied as to local packets without a mark")
            } else {
                format!("{family} {priority} matches by {kinds}: not applied to packets of the balancer")
            }
        })
    }
}
