//! The `services` of a configuration.

use std::collections::HashMap;

use ipnet::IpNet;
use serde::{Serialize, Serializer};
use serde_json::Value;
use vl3lb_common::schedule::Scheduler;
use vl3lb_common::snapshot::{MAX_BACKENDS, MAX_SERVICES};
use vl3lb_common::{ClientAddress, Duration, Protocol};

use super::backend::{Backend, read_backends};
use super::duration;
use super::error::ConfigError;
use super::flow_rules::FlowRules;
use super::health_check::{self, HealthCheck};
use super::kubernetes::Namespaces;
use super::listen::ListenAddresses;
use super::names::{self, Discovery};
use super::networks::read_networks;
use super::node::{self, Position, Section};
use super::port;
use super::selector::{SELECTOR_FORM, Selector};
use super::tenancy::NamespaceSet;

/// A configured service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Service {
    /// A DNS label. Services of one name have different addresses.
    pub name: String,
    /// The name in views, unique: the name, with the first of its addresses where others have that name too.
    #[serde(skip)]
    pub unique_name: String,
    pub protocol: Protocol,
    /// Unique together with the protocol and the addresses.
    pub port: u16,
    /// The balancer's addresses at which it listens.
    pub addresses: ListenAddresses,
    /// The backends' port.
    pub target_port: TargetPort,
    /// The labels of its backends; for Kubernetes discovery.
    pub selector: Selector,
    /// The namespaces whose pods may be its backends; `None`: the only watched one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<NamespaceSet>,
    #[serde(serialize_with = "scheduler_name")]
    pub scheduler: Scheduler,
    /// How long after its last flow a client keeps its backend; zero: no affinity.
    #[serde(serialize_with = "client_ip")]
    pub affinity: Duration,
    /// The networks of clients that may open flows; empty: all clients.
    pub source_ranges: Vec<IpNet>,
    /// What new flows carry for the backends.
    pub client_address: ClientAddress,
    /// How long flows of a removed backend may continue.
    #[serde(serialize_with = "duration::serialize")]
    pub drain: Duration,
    /// `None`: discovery alone decides whether a backend is up.
    #[serde(serialize_with = "health_check::serialize")]
    pub health_check: Option<HealthCheck>,
    #[serde(flatten)]
    pub rules: FlowRules,
    /// The labels of clients that are backups; for NSM discovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_selector: Option<Selector>,
    pub backends: Vec<Backend>,
}

/// The port of a service's backends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum TargetPort {
    Number(u16),
    /// The name of a container port; the number may differ between pods.
    Name(String),
}

fn scheduler_name<S: Serializer>(scheduler: &Scheduler, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(scheduler.name())
}

/// In the format of the file.
fn client_ip<S: Serializer>(affinity: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let text = duration::format(*affinity);
    serializer.collect_map([("clientIP", text)])
}

/// Between a name and an address in the unique name of a service. No DNS label contains it.
pub const ADDRESS_MARK: char = '@';
/// The path of the service that the environment adds.
pub(super) const ENVIRONMENT: &str = "NSM_PORT";
const TARGET_PORTS: &str = "1-65535, or a port name: a-z, 0-9 and -, at most 15, with a letter";
pub const DEFAULT_SCHEDULER: Scheduler = Scheduler::Maglev;
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(60);
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 3600);
/// The limit of Kubernetes (`sessionAffinityConfig.clientIP.timeoutSeconds`).
const LONGEST_AFFINITY: Duration = Duration::from_secs(24 * 3600);

/// A service before file and environment are merged.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Its path, for errors.
    pub(super) path: String,
    pub(super) name: Option<String>,
    pub(super) protocol: Option<Protocol>,
    pub(super) port: Option<u16>,
    addresses: ListenAddresses,
    pub(super) target_port: Option<TargetPort>,
    pub(super) selector: Selector,
    /// Whether there is an error for the selector already.
    selector_rejected: bool,
    namespaces: Option<NamespaceSet>,
    namespaces_given: bool,
    scheduler: Option<Scheduler>,
    affinity: Option<Duration>,
    source_ranges: Vec<IpNet>,
    client_address: Option<ClientAddress>,
    drain: Option<Duration>,
    /// `Some(None)`: none, also where they are the default.
    health_check: Option<Option<HealthCheck>>,
    rules: FlowRules,
    backup_selector: Option<Selector>,
    backends: Vec<Backend>,
}

impl Draft {
    /// A service with a name and nothing more.
    pub(super) fn named(path: &str, name: &str) -> Self {
        Self {
            path: path.to_owned(),
            name: Some(name.to_owned()),
            ..Self::default()
        }
    }

    /// Reads one entry of `services`.
    pub(super) fn read(place: &Position, value: &Value, errors: &mut Vec<ConfigError>) -> Self {
        let mut section = Section::new(
            place.clone(),
            Some(value),
            &[
                "name",
                "protocol",
                "port",
                "addresses",
                "targetPort",
                "selector",
                "namespaces",
                "scheduler",
                "affinity",
                "sourceRanges",
                "clientAddress",
                "drain",
                "healthCheck",
                FlowRules::KEYS[0],
                FlowRules::KEYS[1],
                FlowRules::KEYS[2],
                FlowRules::KEYS[3],
                "backupSelector",
                "backends",
            ],
            errors,
        );
        let name = section.required_text("name", names::LABEL_FORM, |name| {
            names::is_label(name).then(|| name.to_owned())
        });
        let protocol = section.optional("protocol", &names::listed(names::PROTOCOLS), |value| {
            names::choice(names::PROTOCOLS, value.as_str()?)
        });
        let port = section.required("port", port::FORM, port::read);
        let addresses = ListenAddresses::read(&mut section, "addresses");
        let target_port = section.optional("targetPort", TARGET_PORTS, target_port);
        let scheduler = section.optional("scheduler", &schedulers(), |value| scheduler(value.as_str()?));
        let client_address = section.optional("clientAddress", &client_addresses(), |value| {
            client_address(value.as_str()?)
        });
        let drain = section.optional("drain", &drains(), |value| drain(&node::text(value)?));
        let health_check = section.value("healthCheck").and_then(|value| {
            let path = section.path("healthCheck");
            HealthCheck::read_or_off(&path, value, section.errors())
        });
        let selector_given = section.value("selector").is_some();
        let selector = Selector::read(&mut section, "selector");
        let rules = FlowRules::read(&mut section);
        let backup_selector = Selector::read(&mut section, "backupSelector");
        let namespaces_given = section.value("namespaces").is_some();
        let namespaces = NamespaceSet::read(&mut section, "namespaces");
        let affinity = read_affinity(&mut section);
        let source_ranges = read_source_ranges(&mut section);
        let backends = read_backends(&mut section);
        Self {
            path: place.to_string(),
            name,
            protocol,
            port,
            addresses,
            target_port,
            selector_rejected: selector.is_none() && selector_given,
            selector: selector.unwrap_or_default(),
            namespaces,
            namespaces_given,
            scheduler,
            affinity,
            source_ranges,
            client_address,
            drain,
            health_check,
            rules,
            backup_selector,
            backends,
        }
    }

    /// The finished service; `None` if a setting without a default is invalid. With `is_checked` its backends are
    /// checked unless that is switched off; those of a UDP or SCTP service cannot be without a port that answers TCP.
    pub(super) fn finish(self, is_checked: bool) -> Option<Service> {
        let port = self.port?;
        let is_tcp = self.protocol.unwrap_or(Protocol::Tcp) == Protocol::Tcp;
        let default_check = (is_checked && is_tcp).then(HealthCheck::tcp);
        let name = self.name?;
        Some(Service {
            unique_name: name.clone(),
            name,
            protocol: self.protocol.unwrap_or(Protocol::Tcp),
            port,
            addresses: self.addresses,
            target_port: self.target_port.unwrap_or(TargetPort::Number(port)),
            selector: self.selector,
            namespaces: self.namespaces,
            scheduler: self.scheduler.unwrap_or(DEFAULT_SCHEDULER),
            affinity: self.affinity.unwrap_or_default(),
            source_ranges: self.source_ranges,
            client_address: self.client_address.unwrap_or_default(),
            drain: self.drain.unwrap_or(DEFAULT_DRAIN),
            health_check: self.health_check.unwrap_or(default_check),
            rules: self.rules,
            backup_selector: self.backup_selector,
            backends: self.backends,
        })
    }

    /// Checks `healthCheck` against the protocol, which may come from the environment.
    pub(super) fn check_health(&self, errors: &mut Vec<ConfigError>) {
        if let Some(Some(check)) = &self.health_check {
            let path = format!("{}.healthCheck", self.path);
            check.check_protocol(&path, self.protocol.unwrap_or(Protocol::Tcp), errors);
        }
        if self.rules.passive_check.is_some() && self.protocol == Some(Protocol::Udp) {
            let allowed =
                "it for TCP and SCTP only: flows of UDP have no answer that says that they were accepted";
            errors.push(ConfigError::new(
                format!("{}.passiveCheck", self.path),
                "UDP",
                allowed,
            ));
        }
    }

    /// Checks `clientAddress` against the protocol, which may come from the environment.
    pub(super) fn check_client_address(&self, errors: &mut Vec<ConfigError>) {
        let protocol = self.protocol.unwrap_or(Protocol::Tcp);
        if let Some(address) = self.client_address.filter(|address| !address.suits(protocol)) {
            errors.push(ConfigError::new(
                format!("{}.clientAddress", self.path),
                address.name(),
                format!("with protocol {protocol}: {}", suiting(protocol)),
            ));
        }
    }

    /// Errors for settings that `discovery` requires or would ignore.
    pub(super) fn check_discovery(&self, discovery: Discovery, errors: &mut Vec<ConfigError>) {
        let mut reject = |field: String, value: String, allowed: &str| {
            errors.push(ConfigError::new(field, value, allowed));
        };
        let field = |key: &str| format!("{}.{key}", self.path);
        if let (Discovery::Static | Discovery::Nsm, Some(TargetPort::Name(name))) =
            (discovery, &self.target_port)
        {
            let allowed = "1-65535; a name with discovery: kubernetes only";
            reject(field("targetPort"), name.clone(), allowed);
        }
        if let (Discovery::Static | Discovery::Kubernetes, Some(selector)) =
            (discovery, &self.backup_selector)
        {
            let allowed = match discovery {
                Discovery::Static => "it with discovery: nsm only; here, backends have backup: true",
                _ => "it with discovery: nsm only; here, pods have the annotation vl3-lb.io/backup: \"true\"",
            };
            reject(field("backupSelector"), selector.to_string(), allowed);
        }
        let selected = match discovery {
            Discovery::Static => return,
            Discovery::Kubernetes => "pods",
            Discovery::Nsm => "clients of the network service",
        };
        if self.selector.is_empty() && !self.selector_rejected {
            let (field, allowed) = match self.path.as_str() {
                ENVIRONMENT => ("NSM_SELECTOR".to_owned(), "labels such as app:finance,tier:web"),
                _ => (field("selector"), SELECTOR_FORM),
            };
            reject(field, "missing".to_owned(), allowed);
        }
        if !self.backends.is_empty() {
            let discovery = names::spelled(names::DISCOVERIES, discovery);
            let allowed =
                format!("none: with discovery: {discovery} they are the {selected} that selector selects");
            reject(
                field("backends"),
                format!("{} listed", self.backends.len()),
                &allowed,
            );
        }
    }

    /// Errors for `namespaces`: where several are `watched`, a label alone must not make a pod of any of them a backend.
    /// `watched` is `None` without discovery by Kubernetes.
    pub(super) fn check_namespaces(&self, watched: Option<&Namespaces>, errors: &mut Vec<ConfigError>) {
        let field = if self.path == ENVIRONMENT {
            "services[].namespaces".to_owned()
        } else {
            format!("{}.namespaces", self.path)
        };
        let mut reject = |value: &str, allowed: &str| {
            errors.push(ConfigError::new(field.clone(), value, allowed));
        };
        match (watched, &self.namespaces) {
            (None, Some(_)) => reject("given", "it with discovery: kubernetes only"),
            (Some(watched), None) if watched.are_several() && !self.namespaces_given => reject(
                "missing",
                "the namespaces whose pods may be backends, or all: kubernetes.namespaces has several",
            ),
            (Some(Namespaces::Named(watched)), Some(NamespaceSet::Named(names))) => {
                for name in names.iter().filter(|name| !watched.contains(name)) {
                    reject(name, "namespaces in kubernetes.namespaces");
                }
            }
            _ => {}
        }
    }

    /// Whether nothing would notice a backend that died without leaving the network service: a UDP or SCTP service has no
    /// checks by default.
    pub(super) fn is_unchecked(&self) -> bool {
        let protocol = self.protocol.unwrap_or(Protocol::Tcp);
        self.health_check.is_none() && protocol != Protocol::Tcp
    }
}

/// Makes the names in views unique: services of one name have the lowest of their addresses behind it, which no two of
/// them share.
pub(super) fn name_uniquely(services: &mut [Service]) {
    let mut named: HashMap<String, usize> = HashMap::new();
    for service in &*services {
        *named.entry(service.name.clone()).or_default() += 1;
    }
    for service in services {
        if named.get(&service.name).is_some_and(|count| *count > 1)
            && let Some(lowest) = service.addresses.lowest()
        {
            service.unique_name = format!("{}{ADDRESS_MARK}{lowest}", service.name);
        }
    }
}

/// Errors between services: duplicate names or ports, and too many of them.
pub(super) fn check_together(drafts: &[Draft], errors: &mut Vec<ConfigError>) {
    let mut by_name: HashMap<&str, Vec<&Draft>> = HashMap::new();
    let mut by_port: HashMap<(Protocol, u16), Vec<&Draft>> = HashMap::new();
    for draft in drafts {
        if let Some(name) = &draft.name {
            let others = by_name.entry(name).or_default();
            let mut meeting = others
                .iter()
                .filter(|other| other.addresses.overlap(&draft.addresses));
            if let Some(first) = meeting.next() {
                errors.push(ConfigError::new(
                    format!("{}.name", draft.path),
                    name,
                    if first.addresses.are_all() && draft.addresses.are_all() {
                        format!(
                            "a name of its own, or addresses for each service of the name ({name} is {})",
                            first.path
                        )
                    } else {
                        format!(
                            "a name of its own, or addresses of its own ({name} at {} is {})",
                            first.addresses, first.path
                        )
                    },
                ));
            }
            others.push(draft);
        }
        let protocol = draft.protocol.unwrap_or(Protocol::Tcp);
        let Some(port) = draft.port else { continue };
        let others = by_port.entry((protocol, port)).or_default();
        let mut meeting = others
            .iter()
            .filter(|other| other.addresses.overlap(&draft.addresses));
        if let Some(first) = meeting.next() {
            errors.push(ConfigError::new(
                format!("{}.port", draft.path),
                port.to_string(),
                if first.addresses.are_all() && draft.addresses.are_all() {
                    format!(
                        "one service per port and protocol ({protocol} {port} is {})",
                        first.path
                    )
                } else {
                    format!(
                        "one service per port, protocol and address ({protocol} {port} at {} is {})",
                        first.addresses, first.path
                    )
                },
            ));
        }
        others.push(draft);
    }
    let backends: usize = drafts.iter().map(|draft| draft.backends.len()).sum();
    for (count, limit, what) in [
        (drafts.len(), MAX_SERVICES, "services"),
        (backends, MAX_BACKENDS, "backends, all services together"),
    ] {
        if count > limit {
            errors.push(ConfigError::new(
                "services",
                format!("{count} {what}"),
                format!("at most {limit}"),
            ));
        }
    }
}

/// Parses a scheduler.
pub fn scheduler(text: &str) -> Option<Scheduler> {
    names::choice(names::SCHEDULERS, text)
}

/// The names of schedulers, for errors.
pub fn schedulers() -> String {
    names::listed(names::SCHEDULERS)
}

/// Parses the way in which backends learn their clients' addresses.
pub fn client_address(text: &str) -> Option<ClientAddress> {
    names::choice(names::CLIENT_ADDRESSES, text)
}

/// The names of these ways, for errors.
pub fn client_addresses() -> String {
    names::listed(names::CLIENT_ADDRESSES)
}

/// The names of those that a protocol has, for errors.
fn suiting(protocol: Protocol) -> String {
    let suiting = names::CLIENT_ADDRESSES
        .iter()
        .filter(|(_, address)| address.suits(protocol));
    names::listed(&suiting.copied().collect::<Vec<_>>())
}

/// Parses a drain time.
pub fn drain(text: &str) -> Option<Duration> {
    duration::parse(text).ok().filter(|drain| *drain <= LONGEST_DRAIN)
}

/// The valid drain times, for errors.
pub fn drains() -> String {
    format!("{}, up to {}", duration::FORM, duration::format(LONGEST_DRAIN))
}

fn target_port(value: &Value) -> Option<TargetPort> {
    match value {
        Value::String(name) => names::is_port_name(name).then(|| TargetPort::Name(name.clone())),
        number => port::read(number).map(TargetPort::Number),
    }
}

fn read_affinity(section: &mut Section<'_>) -> Option<Duration> {
    let path = section.path("affinity");
    let value = section.value("affinity");
    let mut affinity = Section::new(&*path, value, &["clientIP"], section.errors());
    affinity.optional(
        "clientIP",
        &format!("{}, up to {}", duration::FORM, duration::format(LONGEST_AFFINITY)),
        |value| {
            duration::parse(&node::text(value)?)
                .ok()
                .filter(|time| *time <= LONGEST_AFFINITY)
        },
    )
}

fn read_source_ranges(section: &mut Section<'_>) -> Vec<IpNet> {
    read_networks(section, "sourceRanges", "a list of networks, [] for everyone")
}
