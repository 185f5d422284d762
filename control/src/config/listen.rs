//! The own addresses at which a service listens.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::error::ConfigError;
use super::names;
use super::networks::network;
use super::node::{self, Section};

const FORM: &str = "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32, without host bits";

/// All own addresses, or those in some networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ListenAddresses {
    /// Sorted, each once. Empty: all addresses.
    networks: Vec<IpNet>,
}

impl ListenAddresses {
    /// Those in `networks`; all if there are none.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let mut networks: Vec<IpNet> = networks.into_iter().collect();
        networks.sort_unstable();
        networks.dedup();
        Self { networks }
    }

    /// Exactly these; all if there are none.
    pub fn exactly(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self::new(addresses.into_iter().map(IpNet::from))
    }

    /// The lowest network; `None` for all addresses. No two that do not overlap have the same one.
    pub fn first(&self) -> Option<IpNet> {
        self.networks.first().copied()
    }

    /// As [`Self::first`], as it is written in the configuration.
    pub(super) fn lowest(&self) -> Option<String> {
        self.networks.first().map(spelled)
    }

    /// Whether these are all addresses.
    pub const fn are_all(&self) -> bool {
        self.networks.is_empty()
    }

    /// Whether `address` is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.are_all() || self.networks.iter().any(|network| network.contains(&address))
    }

    /// Those of `own`.
    pub fn of(&self, own: &[IpAddr]) -> Vec<IpAddr> {
        let own = own.iter().copied();
        own.filter(|address| self.contains(*address)).collect()
    }

    /// Whether an address may be among both.
    pub fn overlap(&self, other: &Self) -> bool {
        let meets = |one: &IpNet| {
            let mut others = other.networks.iter();
            others.any(|other| one.contains(other) || other.contains(one))
        };
        self.are_all() || other.are_all() || self.networks.iter().any(meets)
    }

    /// Reads the list at `key`.
    pub(super) fn read(section: &mut Section<'_>, key: &str) -> Self {
        let items = section.list(key, "a list of the balancer's addresses, [] for all");
        let mut networks = Vec::with_capacity(items.len());
        for (place, value) in items {
            match value.as_str().and_then(parse) {
                Some(network) => networks.push(network),
                None => {
                    let error = ConfigError::new(place.to_string(), node::shown(value), FORM);
                    section.errors().push(error);
                }
            }
        }
        Self::new(networks)
    }
}

impl super::Config {
    /// A service that listens at none of the configured `addresses` would never be reached.
    pub(super) fn check_listen_addresses(&self, errors: &mut Vec<ConfigError>) {
        for (index, service) in self.services.iter().enumerate() {
            if !self.addresses.is_empty() && service.addresses.of(&self.addresses).is_empty() {
                errors.push(ConfigError::new(
                    format!("services[{index}].addresses"),
                    service.addresses.to_string(),
                    "some of the balancer's addresses (addresses)",
                ));
            }
        }
    }
}

fn parse(text: &str) -> Option<IpNet> {
    let address = names::unicast(text).map(IpNet::from);
    address.or_else(|| network(text))
}

/// `all addresses`, or the list.
impl fmt::Display for ListenAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.are_all() {
            return f.write_str("all addresses");
        }
        let texts: Vec<String> = self.networks.iter().map(spelled).collect();
        f.write_str(&texts.join(", "))
    }
}

impl Serialize for ListenAddresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.networks.iter().map(spelled))
    }
}

/// An address without its prefix length.
fn spelled(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

/// A pool of own addresses, of which a Service gets one of each family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pool {
    pub name: String,
    /// The namespaces whose Services may use it.
    pub namespaces: super::NamespaceSet,
    /// Never all addresses.
    pub addresses: ListenAddresses,
}

impl Pool {
    /// Reads `pools`.
    pub(super) fn read_all(section: &mut Section<'_>) -> Vec<Self> {
        let items = section.list("pools", "a list of pools of addresses, [] for none");
        let mut pools: Vec<Self> = Vec::with_capacity(items.len());
        for (place, value) in items {
            let keys = ["name", "namespaces", "addresses"];
            let mut pool = Section::new(place, Some(value), &keys, section.errors());
            let name = pool.required_text("name", names::LABEL_FORM, |name| {
                names::is_label(name).then(|| name.to_owned())
            });
            let namespaces = super::NamespaceSet::read(&mut pool, "namespaces");
            let errors = pool.errors().len();
            let addresses = ListenAddresses::read(&mut pool, "addresses");
            if addresses.are_all() && pool.errors().len() == errors {
                pool.reject("addresses", "none", "at least one address or network");
            }
            let Some(name) = name else { continue };
            if pools.iter().any(|pool| pool.name == name) {
                pool.reject("name", &*name, "a name of its own");
            }
            pools.push(Self {
                name,
                namespaces: namespaces.unwrap_or(super::NamespaceSet::All),
                addresses,
            });
        }
        pools
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(texts: &[&str]) -> ListenAddresses {
        ListenAddresses::new(
            texts
                .iter()
                .map(|text| parse(text).expect("an address or network")),
        )
    }

    #[test]
    fn addresses_overlap_where_one_may_be_in_both() {
        for (one, other, overlap) in [
            (&[][..], &["172.16.1.1"][..], true),
            (&[], &[], true),
            (&["172.16.1.1"], &["172.16.1.1", "172.16.1.2"], true),
            (&["172.16.1.1"], &["172.16.1.2"], false),
            (&["172.16.1.1"], &["172.16.1.0/24"], true),
            (&["172.16.1.0/25"], &["172.16.1.128/25"], false),
            (&["172.16.1.1"], &["2001:db8::1"], false),
        ] {
            assert_eq!(listen(one).overlap(&listen(other)), overlap, "{one:?} {other:?}");
            assert_eq!(listen(other).overlap(&listen(one)), overlap, "{other:?} {one:?}");
        }
    }

    #[test]
    fn those_of_the_own_addresses_are_in_the_networks() {
        let own: Vec<IpAddr> = ["172.16.1.1", "172.16.2.1", "2001:db8::1"]
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect();
        assert_eq!(listen(&[]).of(&own), own);
        assert_eq!(listen(&["172.16.2.0/24", "2001:db8::1"]).of(&own), own[1..]);
        assert_eq!(
            listen(&["172.16.2.0/24", "2001:db8::1"]).to_string(),
            "172.16.2.0/24, 2001:db8::1"
        );
    }
}
