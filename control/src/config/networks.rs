//! Lists of networks in CIDR notation.

use ipnet::IpNet;

use super::error::ConfigError;
use super::node::{self, Section};

const NETWORK_FORM: &str = "a network such as 10.0.0.0/8 or 2001:db8::/32, without host bits";

/// The networks of the list `key`.
pub(super) fn read_networks(section: &mut Section<'_>, key: &'static str, allowed: &str) -> Vec<IpNet> {
    let items = section.list(key, allowed);
    let mut networks = Vec::with_capacity(items.len());
    for (place, value) in items {
        match value.as_str().and_then(network) {
            Some(network) => networks.push(network),
            None => section.errors().push(ConfigError::new(
                place.to_string(),
                node::shown(value),
                NETWORK_FORM,
            )),
        }
    }
    networks
}

/// Parses a network in CIDR notation. Host bits are an error: they usually mean a wrong prefix length.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let network: IpNet = text.parse().ok()?;
    (network.trunc() == network).then_some(network)
}
