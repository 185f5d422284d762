//! Limits the addresses that objects claim: pods by an annotation, EndpointSlices by endpoints that are not at the
//! address of their pod. Their authors need no permission beyond their own namespace, so without limits they could have
//! the balancer send packets anywhere (CVE-2021-25740).

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use vl3lb_common::next_hop::RouteKind;

use super::inventory::Inventory;
use super::reported::Holder;
use crate::config::{Claim, ClaimNetworks};
use crate::network::NetworkView;

/// Shorter prefixes are default routes, or halves of one.
const SHORTEST: [u8; 2] = [8, 16];

/// The balancer's network, as far as claims depend on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// The balancer's addresses.
    own: Vec<IpAddr>,
    /// The destinations of the interface's routes without default routes, sorted.
    routed: Vec<IpNet>,
}

impl Surroundings {
    /// `None` while the interface cannot be used: then the last ones count.
    pub(super) fn of(view: &NetworkView) -> Option<Self> {
        (view.usable() && view.is_up()).then(|| {
            let routes = view.next_hops.routes().iter();
            let routes = routes.filter(|route| {
                let shortest = SHORTEST[usize::from(route.destination.is_ipv6())];
                route.kind == RouteKind::Unicast && route.prefix_length >= shortest
            });
            let networks = routes.filter_map(|route| {
                let network = IpNet::new(route.destination, route.prefix_length).ok()?;
                Some(network.trunc())
            });
            Self::new(view.addresses.clone(), networks.collect())
        })
    }

    /// The balancer's addresses, sorted.
    pub(super) fn own(&self) -> &[IpAddr] {
        &self.own
    }

    /// These addresses and networks, in any order.
    pub(super) fn new(mut own: Vec<IpAddr>, mut routed: Vec<IpNet>) -> Self {
        own.sort_unstable();
        routed.sort_unstable();
        routed.dedup();
        // A network within another one adds nothing.
        let all = routed.clone();
        routed.retain(|network| {
            !all.iter()
                .any(|other| other != network && other.contains(network))
        });
        Self { own, routed }
    }
}

/// Decides about claims.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claims<'a> {
    pub(super) rules: &'a [Claim],
    pub(super) surroundings: &'a Surroundings,
    pub(super) inventory: &'a Inventory,
}

impl Claims<'_> {
    /// Whether objects of `namespace` may claim `address`. Cost: O(rules x networks).
    pub(super) fn judge(self, namespace: &str, address: IpAddr) -> Result<(), Denial> {
        let denied = |cause| {
            Err(Denial {
                address,
                cause,
                namespace: namespace.to_owned(),
                allowed: self.networks(namespace),
            })
        };
        if is_local(address) {
            return denied(Cause::Local);
        }
        if self.surroundings.own.binary_search(&address).is_ok() {
            return denied(Cause::Own);
        }
        let mut holders = self.inventory.reported.holders(address);
        let other = match holders.next() {
            Some(Holder::Node) => return denied(Cause::Node),
            Some(Holder::Namespace(first)) => {
                let mut all = std::iter::once(first).chain(holders.filter_map(Holder::namespace));
                if all.any(|holder| holder == namespace) {
                    // A pod of its own namespace.
                    return Ok(());
                }
                Some(first)
            }
            None => None,
        };
        if let Some(other) = other {
            return denied(Cause::Namespace(other.clone()));
        }
        if self
            .networks(namespace)
            .iter()
            .any(|network| network.contains(&address))
        {
            Ok(())
        } else {
            denied(Cause::Outside)
        }
    }

    /// The networks in which objects of `namespace` may claim addresses.
    fn networks(self, namespace: &str) -> Vec<IpNet> {
        let rules = self
            .rules
            .iter()
            .filter(|rule| rule.namespaces.contains(namespace));
        let networks = rules.flat_map(|rule| match &rule.networks {
            ClaimNetworks::Routed => &self.surroundings.routed,
            ClaimNetworks::Listed(networks) => networks,
        });
        networks.copied().collect()
    }
}

/// Why an address must not be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// Loopback or link-local: it means another host to each host.
    Local,
    /// The balancer's.
    Own,
    /// A node's.
    Node,
    /// A pod's of this other namespace.
    Namespace(String),
    /// In none of the networks.
    Outside,
}

/// A claim that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Denial {
    pub(super) address: IpAddr,
    cause: Cause,
    /// Of the object with the claim.
    namespace: String,
    allowed: Vec<IpNet>,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address, namespace, ..
        } = self;
        let of = match &self.cause {
            Cause::Local => ", a loopback or link-local address".to_owned(),
            Cause::Own => ", an address of the balancer".to_owned(),
            Cause::Node => ", an address of a node".to_owned(),
            Cause::Namespace(other) => format!(", an address of a pod in namespace {other}"),
            Cause::Outside => String::new(),
        };
        let allowed = match &self.allowed[..] {
            [] => "none".to_owned(),
            networks => {
                let networks: Vec<String> = networks.iter().map(IpNet::to_string).collect();
                format!("addresses of its own backends in {}", networks.join(", "))
            }
        };
        write!(
            f,
            "{address}{of}, allowed {allowed} (kubernetes.claims for namespace {namespace})"
        )
    }
}

/// Loopback or link-local (RFC 3927, RFC 4291 section 2.5.6).
fn is_local(address: IpAddr) -> bool {
    address.is_loopback()
        || match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        }
}
