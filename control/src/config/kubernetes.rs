//! The `kubernetes` section: which pods are looked at, and where their addresses are found.

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::names;
use super::node::{self, Section};
use super::refusal::Refusal;
use super::selector::{self, SELECTOR_FORM, Selector};

/// How backends are found in Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Kubernetes {
    #[serde(skip_serializing_if = "Namespaces::is_own")]
    pub namespaces: Namespaces,
    pub address_from: AddressFrom,
    /// What every backend of every service must be labelled with, beside the service's own selector.
    pub label_selector: Selector,
}

/// Where pods are looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Namespaces {
    /// In the balancer's own namespace.
    #[default]
    Own,
    /// In each of these.
    Named(Vec<String>),
    /// In all: needs a ClusterRole.
    All,
}

impl Namespaces {
    const fn is_own(&self) -> bool {
        matches!(self, Self::Own)
    }
}

impl Serialize for Namespaces {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Own => serializer.serialize_none(),
            Self::Named(names) => names.serialize(serializer),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

/// Where the addresses of a pod that the balancer can reach are found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AddressFrom {
    /// `status.podIPs`.
    #[default]
    PodIp,
    /// The annotation of Multus: the addresses of this network (`NAMESPACE/NAME` or `NAME`) or
    /// interface.
    NetworkStatus(String),
    /// An annotation that lists addresses, with commas between.
    Annotation(String),
}

impl AddressFrom {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None => (text == "pod-ip").then_some(Self::PodIp),
            Some(("network-status", name)) => {
                let plain = |c: char| c.is_ascii_graphic();
                (!name.is_empty() && name.chars().all(plain)).then(|| Self::NetworkStatus(name.to_owned()))
            }
            Some(("annotation", key)) => selector::is_label(key).then(|| Self::Annotation(key.to_owned())),
            Some(_) => None,
        }
    }
}

impl std::fmt::Display for AddressFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PodIp => write!(f, "pod-ip"),
            Self::NetworkStatus(name) => write!(f, "network-status:{name}"),
            Self::Annotation(key) => write!(f, "annotation:{key}"),
        }
    }
}

impl Serialize for AddressFrom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

const ADDRESS_FROM_FORM: &str = "pod-ip, network-status:NETWORK or INTERFACE, annotation:KEY";
const NAMESPACES_FORM: &str = "all, or a list of namespaces";

impl Kubernetes {
    /// Reads the section; an absent one is all defaults.
    pub(super) fn read(path: &str, value: Option<&Value>, refusals: &mut Vec<Refusal>) -> Self {
        let keys = ["namespaces", "addressFrom", "labelSelector"];
        let mut section = Section::new(path, value, &keys, refusals);
        let namespaces = section.optional("namespaces", NAMESPACES_FORM, namespaces);
        let address_from = match section.value("addressFrom") {
            Some(Value::String(text)) if text == "nsm" => {
                section.refuse(
                    "addressFrom",
                    "nsm",
                    format!("{ADDRESS_FROM_FORM}: not supported by this version"),
                );
                None
            }
            _ => section.optional("addressFrom", ADDRESS_FROM_FORM, |value| {
                AddressFrom::parse(value.as_str()?)
            }),
        };
        let label_selector = section.optional("labelSelector", SELECTOR_FORM, Selector::read);
        Self {
            namespaces: namespaces.unwrap_or_default(),
            address_from: address_from.unwrap_or_default(),
            label_selector: label_selector.unwrap_or_default(),
        }
    }
}

fn namespaces(value: &Value) -> Option<Namespaces> {
    let Value::Array(items) = value else {
        return (value.as_str()? == "all").then_some(Namespaces::All);
    };
    let mut names: Vec<String> = items
        .iter()
        .map(|item| node::text(item).filter(|name| names::is_label(name)))
        .collect::<Option<_>>()?;
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then_some(Namespaces::Named(names))
}
