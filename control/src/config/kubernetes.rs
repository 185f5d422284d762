//! The `kubernetes` section: watched objects, source of pod addresses, locality.

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::error::ConfigError;
use super::listen::Pool;
use super::names;
use super::node::{self, Section};
use super::selector::{self, Selector};
use super::tenancy::{Claim, Quota};

/// Discovery in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Kubernetes {
    /// Whether annotated Services are served in addition to the services of the file.
    pub services: bool,
    pub namespaces: Namespaces,
    pub address_from: AddressFrom,
    /// Labels of all backends, in addition to the service's selector. Other pods are not watched: a pod that loses such a
    /// label counts as deleted.
    pub label_selector: Selector,
    /// Balancers of one group in one namespace have the same configuration, and each answers DNS queries with all of them.
    pub group: String,
    pub topology: Topology,
    /// Addresses that objects may claim; empty: none.
    pub claims: Vec<Claim>,
    /// The most services and backends of namespaces, the first one that has a namespace counts.
    pub quotas: Vec<Quota>,
    /// Pools of own addresses for Services.
    pub pools: Vec<Pool>,
}

/// Preference for near backends, and the balancer's own location.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Topology {
    pub prefer: Prefer,
    /// NODE_NAME of the environment.
    #[serde(skip)]
    pub node: Option<String>,
    /// NODE_ZONE of the environment.
    #[serde(skip)]
    pub zone: Option<String>,
}

/// Backends that get all new flows while one of them is ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefer {
    #[default]
    None,
    /// Backends in the balancer's zone.
    Zone,
    /// Backends on the balancer's node; if there are none, those in its zone.
    Node,
}

/// The watched namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Namespaces {
    /// The balancer's own namespace.
    #[default]
    Own,
    Named(Vec<String>),
    /// All namespaces, which needs a ClusterRole.
    All,
}

impl Namespaces {
    /// Whether there may be more than one.
    pub fn are_several(&self) -> bool {
        match self {
            Self::Own => false,
            Self::Named(names) => names.len() > 1,
            Self::All => true,
        }
    }
}

impl Serialize for Namespaces {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Own => [(); 0].serialize(serializer),
            Self::Named(names) => names.serialize(serializer),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

/// The source of the pod addresses that the balancer can reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AddressFrom {
    /// `status.podIPs`.
    #[default]
    PodIp,
    /// The `network-status` annotation of Multus: the addresses of this network (`NAMESPACE/NAME` or `NAME`) or interface.
    NetworkStatus(String),
    /// An annotation with a comma-separated list of addresses.
    Annotation(String),
    /// The pod's connection to the vL3 network.
    Nsm,
}

impl AddressFrom {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "pod-ip" => Some(Self::PodIp),
            None if text == "nsm" => Some(Self::Nsm),
            None => None,
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
            Self::Nsm => write!(f, "nsm"),
        }
    }
}

impl Serialize for AddressFrom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The default group.
const GROUP: &str = "vl3-lb";
/// The group is part of object names and the value of a label.
pub(super) const GROUP_FORM: &str = names::LABEL_FORM;
const ADDRESS_FROM_FORM: &str = "pod-ip, network-status:NETWORK or INTERFACE, annotation:KEY, nsm";
const PREFERS: &[(&str, Prefer)] = &[
    ("none", Prefer::None),
    ("zone", Prefer::Zone),
    ("node", Prefer::Node),
];
const NAMESPACES_FORM: &str = "all, or a list of namespaces";

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            namespaces: Namespaces::default(),
            address_from: AddressFrom::default(),
            label_selector: Selector::default(),
            topology: Topology::default(),
            claims: Claim::default_list(),
            quotas: Vec::new(),
            pools: Vec::new(),
            services: false,
            group: GROUP.to_owned(),
        }
    }
}

impl Kubernetes {
    /// Reads the section; an absent one is all defaults.
    pub(super) fn read(path: &str, value: Option<&Value>, errors: &mut Vec<ConfigError>) -> Self {
        let keys = [
            "services",
            "namespaces",
            "addressFrom",
            "labelSelector",
            "topology",
            "group",
            "claims",
            "quotas",
            "pools",
        ];
        let mut section = Section::new(path, value, &keys, errors);
        let services = section.optional("services", "true, false", Value::as_bool);
        let namespaces = read_namespaces(&mut section);
        let address_from = section.optional("addressFrom", ADDRESS_FROM_FORM, |value| {
            AddressFrom::parse(value.as_str()?)
        });
        let label_selector = Selector::read(&mut section, "labelSelector");
        let topology = read_topology(&mut section);
        let group = section.optional_text("group", GROUP_FORM, group);
        let claims = Claim::read_all(&mut section);
        let quotas = Quota::read_all(&mut section);
        let pools = Pool::read_all(&mut section);
        Self {
            services: services.unwrap_or_default(),
            namespaces: namespaces.unwrap_or_default(),
            address_from: address_from.unwrap_or_default(),
            label_selector: label_selector.unwrap_or_default(),
            topology,
            claims: claims.unwrap_or_else(Claim::default_list),
            quotas,
            pools,
            group: group.unwrap_or_else(|| GROUP.to_owned()),
        }
    }

    /// The most services (ports) and backends of `namespace`.
    pub fn quota(&self, namespace: &str) -> (usize, usize) {
        Quota::of(&self.quotas, namespace, &self.namespaces)
    }

    /// A preference for near backends needs the balancer's location.
    pub(super) fn check(&self, errors: &mut Vec<ConfigError>) {
        let Topology { prefer, node, zone } = &self.topology;
        let (known, needs) = match prefer {
            Prefer::None => return,
            Prefer::Node => (node.is_some(), "NODE_NAME"),
            Prefer::Zone => (node.is_some() || zone.is_some(), "NODE_NAME or NODE_ZONE"),
        };
        if !known {
            let chosen = names::spelled(PREFERS, *prefer);
            let allowed = format!("none, or set {needs} (spec.nodeName by the downward API)");
            errors.push(ConfigError::new("kubernetes.topology.prefer", chosen, allowed));
        }
    }
}

fn read_topology(section: &mut Section<'_>) -> Topology {
    let path = section.path("topology");
    let value = section.value("topology");
    let mut topology = Section::new(&*path, value, &["prefer"], section.errors());
    let prefer = topology.optional("prefer", &names::listed(PREFERS), |value| {
        names::choice(PREFERS, value.as_str()?)
    });
    Topology {
        prefer: prefer.unwrap_or_default(),
        node: None,
        zone: None,
    }
}

/// Reads the name of a group.
pub(super) fn group(text: &str) -> Option<String> {
    names::is_label(text).then(|| text.to_owned())
}

fn read_namespaces(section: &mut Section<'_>) -> Option<Namespaces> {
    if let Some(Value::Array(items)) = section.value("namespaces") {
        for (number, item) in items.iter().enumerate() {
            if let Some((value, remedy)) = node::unquoted_text(item) {
                let allowed = format!("the name of a namespace{remedy}");
                section.reject(&format!("namespaces[{number}]"), value, allowed);
                return None;
            }
        }
    }
    section.optional("namespaces", NAMESPACES_FORM, namespaces)
}

fn namespaces(value: &Value) -> Option<Namespaces> {
    let Value::Array(items) = value else {
        return (value.as_str()? == "all").then_some(Namespaces::All);
    };
    let mut names: Vec<String> = items
        .iter()
        .map(|item| {
            item.as_str()
                .filter(|name| names::is_label(name))
                .map(str::to_owned)
        })
        .collect::<Option<_>>()?;
    names.sort_unstable();
    names.dedup();
    Some(if names.is_empty() {
        Namespaces::Own
    } else {
        Namespaces::Named(names)
    })
}
