//! Limits of namespaces that share a balancer: whose pods may be backends, which addresses objects may claim, and how
//! many services and backends each namespace may have.

use ipnet::IpNet;
use serde::{Serialize, Serializer};
use serde_json::Value;
use vl3lb_common::snapshot::{MAX_BACKENDS, MAX_SERVICES};

use super::error::ConfigError;
use super::kubernetes::Namespaces;
use super::names;
use super::networks::network;
use super::node::{self, Position, Section};

/// The part of all places that one of several namespaces has by default.
const SHARE: usize = 4;
const NAMESPACE_SET_FORM: &str = "all, or a list of namespaces that is not empty";
const NETWORKS_FORM: &str =
    "routed, or a list of networks such as 10.0.0.0/8 or 2001:db8::/32, without host bits";

/// Some or all of the watched namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceSet {
    All,
    /// Sorted, at least one.
    Named(Vec<String>),
}

impl NamespaceSet {
    /// Whether it has `namespace`.
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|name| name == namespace),
        }
    }

    /// Reads the set at `key`; `None` if it is absent or invalid.
    pub(super) fn read(section: &mut Section<'_>, key: &str) -> Option<Self> {
        if let Some(Value::Array(items)) = section.value(key) {
            for (number, item) in items.iter().enumerate() {
                if let Some((value, remedy)) = node::unquoted_text(item) {
                    let allowed = format!("the name of a namespace{remedy}");
                    section.reject(&format!("{key}[{number}]"), value, allowed);
                    return None;
                }
            }
        }
        section.optional(key, NAMESPACE_SET_FORM, Self::of_value)
    }

    fn of_value(value: &Value) -> Option<Self> {
        let Value::Array(items) = value else {
            return (value.as_str()? == "all").then_some(Self::All);
        };
        let name = |item: &Value| {
            let name = item.as_str().filter(|name| names::is_label(name));
            name.map(str::to_owned)
        };
        let mut names: Vec<String> = items.iter().map(name).collect::<Option<_>>()?;
        names.sort_unstable();
        names.dedup();
        (!names.is_empty()).then_some(Self::Named(names))
    }
}

impl std::fmt::Display for NamespaceSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Named(names) => f.write_str(&names.join(", ")),
        }
    }
}

impl Serialize for NamespaceSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Named(names) => names.serialize(serializer),
        }
    }
}

/// Addresses that objects of some namespaces may claim: pods by an annotation, EndpointSlices by endpoints that are not
/// at the addresses of their pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claim {
    pub namespaces: NamespaceSet,
    pub networks: ClaimNetworks,
}

/// The networks of a [`Claim`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimNetworks {
    /// The destinations of the interface's routes, without default routes.
    Routed,
    Listed(Vec<IpNet>),
}

impl Serialize for ClaimNetworks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Routed => serializer.serialize_str("routed"),
            Self::Listed(networks) => networks.serialize(serializer),
        }
    }
}

impl Claim {
    /// Every namespace, in the networks that the interface leads to.
    pub(super) fn default_list() -> Vec<Self> {
        vec![Self {
            namespaces: NamespaceSet::All,
            networks: ClaimNetworks::Routed,
        }]
    }

    /// Reads `claims`; `None` if it is absent.
    pub(super) fn read_all(section: &mut Section<'_>) -> Option<Vec<Self>> {
        section.value("claims")?;
        let items = section.list("claims", "a list of namespaces and networks, [] for none");
        let read = |(place, value)| Self::read(place, value, section.errors());
        Some(items.into_iter().filter_map(read).collect())
    }

    fn read(place: Position, value: &Value, errors: &mut Vec<ConfigError>) -> Option<Self> {
        let mut claim = Section::new(place, Some(value), &["namespaces", "networks"], errors);
        let namespaces = NamespaceSet::read(&mut claim, "namespaces");
        let networks = claim.required("networks", NETWORKS_FORM, |value| match value {
            Value::Array(items) => {
                let networks = items.iter().map(|item| network(item.as_str()?));
                networks.collect::<Option<_>>().map(ClaimNetworks::Listed)
            }
            other => (other.as_str()? == "routed").then_some(ClaimNetworks::Routed),
        });
        Some(Self {
            namespaces: namespaces.unwrap_or(NamespaceSet::All),
            networks: networks?,
        })
    }
}

/// The most services and backends of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quota {
    /// Each of these has a quota of its own.
    pub namespaces: NamespaceSet,
    /// Ports of Services, up to [`MAX_SERVICES`].
    pub services: usize,
    /// Up to [`MAX_BACKENDS`].
    pub backends: usize,
}

impl Quota {
    /// Reads `quotas`.
    pub(super) fn read_all(section: &mut Section<'_>) -> Vec<Self> {
        let items = section.list(
            "quotas",
            "a list of namespaces, services and backends, [] for the defaults",
        );
        let read = |(place, value)| Self::read(place, value, section.errors());
        items.into_iter().map(read).collect()
    }

    fn read(place: Position, value: &Value, errors: &mut Vec<ConfigError>) -> Self {
        let keys = ["namespaces", "services", "backends"];
        let mut quota = Section::new(place, Some(value), &keys, errors);
        let namespaces = NamespaceSet::read(&mut quota, "namespaces");
        let mut number = |key: &str, most: usize| {
            let read = |value: &Value| node::number(value, 0..=most as u64);
            let number = quota.optional(key, &format!("0-{most}"), read);
            number
                .and_then(|number| usize::try_from(number).ok())
                .unwrap_or(most)
        };
        let services = number("services", MAX_SERVICES);
        let backends = number("backends", MAX_BACKENDS);
        Self {
            namespaces: namespaces.unwrap_or(NamespaceSet::All),
            services,
            backends,
        }
    }

    /// The most services and backends of `namespace`: those of the first quota with it. By default a quarter of all
    /// places where several namespaces are `watched`, else all of them.
    pub(super) fn of(quotas: &[Self], namespace: &str, watched: &Namespaces) -> (usize, usize) {
        let mut quotas = quotas.iter();
        let found = quotas.find(|quota| quota.namespaces.contains(namespace));
        let share = if watched.are_several() { SHARE } else { 1 };
        found.map_or((MAX_SERVICES / share, MAX_BACKENDS / share), |quota| {
            (quota.services, quota.backends)
        })
    }
}
