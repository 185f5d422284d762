//! The other balancers of a group, as the rest of the process sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::api;

/// Another balancer of the group that is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The name of its pod.
    pub name: String,
    /// Whether it accepts new flows.
    pub ready: bool,
    /// The addresses of its services, both families.
    pub addresses: Vec<IpAddr>,
    /// The names of its services.
    pub services: BTreeSet<String>,
    /// The addresses of services that do not listen at all of `addresses`, by name.
    pub service_addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Since when it is known to be alive.
    pub since: SystemTime,
}

impl Peer {
    /// The addresses at which it serves `service`.
    pub(super) fn addresses_of(&self, service: Option<&str>) -> &[IpAddr] {
        let restricted = service.and_then(|service| self.service_addresses.get(service));
        restricted.unwrap_or(&self.addresses)
    }

    pub(super) fn report(&self) -> api::Peer {
        api::Peer {
            name: self.name.clone(),
            ready: self.ready,
            addresses: self.addresses.clone(),
            since: api::Time(self.since),
        }
    }
}

/// The group without this balancer, and whether its peers take this balancer's place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerSet {
    /// Those that are alive, by name.
    pub peers: Vec<Peer>,
    /// This balancer is leaving the group.
    pub leaving: bool,
    /// This balancer does not accept new flows: it has no interface, no carrier or no services yet.
    pub not_ready: bool,
}

/// Borrow it briefly, or clone the `Arc`.
pub type PeersReceiver = watch::Receiver<Arc<PeerSet>>;

impl PeerSet {
    /// Whether new flows should go to peers, where there are any that are ready.
    pub const fn is_withdrawn(&self) -> bool {
        self.leaving || self.not_ready
    }

    /// The addresses for new flows of `service`: `own`, those of this balancer, and those of ready peers that serve it.
    /// Each once. Of a family that no such peer has, `own` stays even if this balancer is withdrawn.
    pub fn addresses_of(&self, service: &str, own: &[IpAddr]) -> Vec<IpAddr> {
        self.addresses_of_all([service], own)
    }

    /// As [`Self::addresses_of`], of peers that serve all of `services`, which listen at the same addresses.
    pub fn addresses_of_all<'a>(
        &self,
        services: impl IntoIterator<Item = &'a str> + Clone,
        own: &[IpAddr],
    ) -> Vec<IpAddr> {
        let balances_all = |peer: &Peer| {
            let mut services = services.clone().into_iter();
            services.all(|service| peer.services.contains(service))
        };
        let peers: Vec<IpAddr> = self
            .peers
            .iter()
            .filter(|peer| peer.ready && balances_all(peer))
            .flat_map(|peer| {
                peer.addresses_of(services.clone().into_iter().next())
                    .iter()
                    .copied()
            })
            .collect();
        let mut addresses = Vec::with_capacity(own.len() + peers.len());
        for family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
            let replaced = self.is_withdrawn() && peers.iter().any(family);
            let own = own.iter().filter(|_| !replaced);
            for address in own.chain(&peers).filter(|address| family(address)) {
                if !addresses.contains(address) {
                    addresses.push(*address);
                }
            }
        }
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn peer(name: &str, ready: bool, addresses: &[&str], services: &[&str]) -> Peer {
        Peer {
            name: name.to_owned(),
            ready,
            addresses: ips(addresses),
            services: services.iter().map(|&service| service.to_owned()).collect(),
            service_addresses: BTreeMap::new(),
            since: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_addresses_of_a_service_are_those_of_ready_peers_that_serve_it() {
        let balancers = |leaving| PeerSet {
            leaving,
            not_ready: false,
            peers: vec![
                peer("a", true, &["10.0.0.2", "fd00::2"], &["finance", "dns"]),
                peer("b", false, &["10.0.0.3"], &["finance"]),
                peer("c", true, &["10.0.0.4", "10.0.0.1"], &["finance"]),
                peer("d", true, &["10.0.0.5"], &["ledger"]),
            ],
        };
        let own = ips(&["10.0.0.1", "fd00::1"]);
        let of = |leaving, service: &str| balancers(leaving).addresses_of(service, &own);
        for (what, leaving, service, expected) in [
            (
                "ready peers that balance it",
                false,
                "finance",
                &["10.0.0.1", "10.0.0.2", "10.0.0.4", "fd00::1", "fd00::2"][..],
            ),
            (
                "both families",
                false,
                "dns",
                &["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"],
            ),
            ("nobody else", false, "other", &["10.0.0.1", "fd00::1"]),
            ("leaving to others", true, "dns", &["10.0.0.2", "fd00::2"]),
            (
                "leaving, for IPv6 to nobody",
                true,
                "ledger",
                &["10.0.0.5", "fd00::1"],
            ),
            ("leaving to nobody", true, "other", &["10.0.0.1", "fd00::1"]),
        ] {
            assert_eq!(of(leaving, service), ips(expected), "{what}");
        }
    }
}
