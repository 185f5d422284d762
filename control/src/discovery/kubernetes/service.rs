//! The record of a Service that asks to be served, with the settings that cannot be honoured.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Api, Client};
use vl3lb_common::schedule::Scheduler;
use vl3lb_common::{ClientAddress, Duration, Protocol};

use super::address::annotation;
use super::cache::Record;
use super::inventory::Key;
use super::locality::Distribution;
use super::pod::DRAIN;
use crate::config::{self, FlowRules, HealthCheck, PassiveCheck, Selector, TargetPort, WhenAllDown};
use crate::kubernetes::ingress::GroupIngress;
use crate::kubernetes::names::{CLASS, MANAGER};

/// The annotation of Services to serve without the class, `"true"`, or not to serve in spite of it, `"false"`.
const ENABLED: &str = "vl3-lb.io/enabled";
/// The annotation with the pool that its address comes from.
pub(super) const POOL: &str = "vl3-lb.io/pool";
const SCHEDULER: &str = "vl3-lb.io/scheduler";
const SLOW_START: &str = "vl3-lb.io/slow-start";
const MAX_FLOWS: &str = "vl3-lb.io/max-flows-per-backend";
const WHEN_ALL_DOWN: &str = "vl3-lb.io/when-all-down";
/// The value of `healthCheck` in the configuration file.
const HEALTH_CHECK: &str = "vl3-lb.io/health-check";
/// The value of `passiveCheck` in the configuration file.
const PASSIVE_CHECK: &str = "vl3-lb.io/passive-check";
const CLIENT_ADDRESS: &str = "vl3-lb.io/client-address";
/// The API server's default for `sessionAffinity: ClientIP` without a timeout.
const AFFINITY: Duration = Duration::from_secs(10_800);

/// A Service that requests a balancer, or has one according to its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceRecord {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Arc<str>,
    /// Seconds since 1970.
    pub(super) created: i64,
    /// Whether it asks to be served.
    pub(super) enabled: bool,
    /// Whether its status lists addresses that a balancer wrote.
    pub(super) has_our_status: bool,
    /// The addresses in its status, by group.
    pub(super) group_ingress: Vec<GroupIngress>,
    /// Whether its status should list the balancers' addresses.
    pub(super) load_balancer: bool,
    /// The number of its ports, supported or not.
    pub(super) listed: usize,
    /// The supported ports.
    pub(super) ports: Vec<Port>,
    /// `None`: its endpoints are maintained by someone else.
    pub(super) selector: Option<Selector>,
    /// Whether pods that are not ready should get new flows.
    pub(super) publish_not_ready: bool,
    pub(super) scheduler: Scheduler,
    pub(super) drain: Duration,
    /// The name of the pool that its addresses come from; `None`: it listens at all of them.
    pub(super) pool: Option<String>,
    /// Zero: no affinity.
    pub(super) affinity: Duration,
    /// Empty: all clients.
    pub(super) source_ranges: Vec<IpNet>,
    /// `Some(None)`: none, also where they are the default.
    health_check: Option<Option<HealthCheck>>,
    rules: FlowRules,
    /// Of the ports whose protocol has it.
    client_address: ClientAddress,
    pub(super) distribution: Distribution,
    /// The reason why none of its ports can be served.
    pub(super) refused: Option<Reason>,
    /// Settings and ports that cannot be honoured.
    pub(super) notes: Vec<Reason>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    /// May be empty if it is the only port.
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) target: TargetPort,
}

/// The reason of a refusal: a word in CamelCase for programs, and a sentence for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) word: &'static str,
    pub(super) message: String,
}

impl Reason {
    pub(super) fn new(word: &'static str, message: impl Into<String>) -> Self {
        Self {
            word,
            message: message.into(),
        }
    }
}

impl ServiceRecord {
    /// Whether no balancer of any configuration may serve it, but its status still lists balancers. A Service
    /// that only this balancer refuses may be served by another group.
    pub(super) fn has_stale_status(&self) -> bool {
        (self.has_our_status || !self.group_ingress.is_empty())
            && !(self.enabled && self.load_balancer && self.refused.is_none())
    }

    pub(super) fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    /// The health check of the backends of `port`: as the Service says, else by TCP if checks are the default.
    pub(super) fn health_check(&self, port: &Port, by_default: bool) -> Option<HealthCheck> {
        match &self.health_check {
            Some(check) => check.clone().filter(|check| check.suits(port.protocol)),
            None => (by_default && port.protocol == Protocol::Tcp).then(HealthCheck::tcp),
        }
    }

    /// The rules for new flows of `port`; for UDP without a passive check.
    pub(super) fn rules(&self, port: &Port) -> FlowRules {
        let mut rules = self.rules.clone();
        if port.protocol == Protocol::Udp {
            rules.passive_check = None;
        }
        rules
    }

    /// What new flows to a port of this protocol carry for the backends.
    pub(super) fn client_address_of(&self, protocol: Protocol) -> ClientAddress {
        if self.client_address.suits(protocol) {
            self.client_address
        } else {
            ClientAddress::None
        }
    }

    /// Reads the settings of `service`, and notes those that cannot be honoured.
    fn new(service: &Service, enabled: bool, load_balancer: bool) -> Self {
        let mut notes = Vec::new();
        let metadata = &service.metadata;
        let spec = service.spec.clone().unwrap_or_default();
        let selector = spec.selector.as_ref().filter(|labels| !labels.is_empty());
        let listed = spec.ports.as_deref().unwrap_or_default();
        let readable = |listed| port(listed).map_err(|reason| notes.push(reason)).ok();
        let ports: Vec<Port> = listed.iter().filter_map(readable).collect();
        let source_ranges = source_ranges(&spec);
        // Served without its ranges it would be open to clients that they exclude.
        let unreadable = source_ranges.as_ref().err().cloned();
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            created: metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |time| time.0.as_second()),
            enabled,
            has_our_status: has_our_status(service),
            group_ingress: group_ingress(service),
            load_balancer,
            listed: listed.len(),
            selector: selector.and_then(Selector::equal),
            publish_not_ready: spec.publish_not_ready_addresses == Some(true),
            scheduler: scheduler(service, &mut notes),
            drain: drain(service, &mut notes),
            pool: annotation(service, POOL).map(str::to_owned),
            affinity: affinity(&spec),
            source_ranges: source_ranges.unwrap_or_default(),
            health_check: health_check(service, &ports, &mut notes),
            rules: rules(service, &mut notes),
            client_address: client_address(service, &ports, &mut notes),
            distribution: distribution(&spec, &mut notes),
            refused: refused(service, &spec, &ports).or(unreadable),
            ports,
            notes,
        }
    }
}

impl Record for ServiceRecord {
    type Object = Service;
    type Options = ();

    fn api(client: Client, namespace: Option<&str>) -> Api<Service> {
        match namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        }
    }

    /// `None` if it does not ask to be served and its status lists no balancer.
    fn read(service: &Service, (): &()) -> Option<Self> {
        let class = service.spec.as_ref()?.load_balancer_class.as_deref();
        let load_balancer = class == Some(CLASS);
        let enabled = match annotation(service, ENABLED) {
            None => load_balancer,
            Some(text) => text != "false",
        };
        (enabled || has_our_status(service) || !group_ingress(service).is_empty())
            .then(|| Self::new(service, enabled, load_balancer))
    }
}

fn group_ingress(service: &Service) -> Vec<GroupIngress> {
    let annotations = service.metadata.annotations.as_ref();
    annotations.map(GroupIngress::read_all).unwrap_or_default()
}

/// Whether a balancer wrote the addresses in the status, by the field managers of server-side apply.
fn has_our_status(service: &Service) -> bool {
    let mut managers = service.metadata.managed_fields.iter().flatten();
    let ours = managers.any(|entry| {
        entry.manager.as_deref() == Some(MANAGER) && entry.subresource.as_deref() == Some("status")
    });
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_ref());
    ours && ingress.is_some_and(|ingress| !ingress.is_empty())
}

/// The reason why no port of the Service can be served.
fn refused(service: &Service, spec: &ServiceSpec, ports: &[Port]) -> Option<Reason> {
    if let Some(text) = annotation(service, ENABLED).filter(|text| *text != "true") {
        return Some(Reason::new(
            "InvalidAnnotation",
            format!("annotation {ENABLED}: {text:?}, allowed true, false"),
        ));
    }
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(Reason::new(
            "UnsupportedType",
            "type ExternalName has no endpoints to balance over",
        ));
    }
    ports
        .is_empty()
        .then(|| Reason::new("NoPorts", "no port that can be balanced"))
}

/// The protocol of this name, by default TCP. `None` if it is not supported.
pub(super) fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn port(listed: &ServicePort) -> Result<Port, Reason> {
    let number = u16::try_from(listed.port).ok().filter(|number| *number > 0);
    let (Some(number), Some(protocol)) = (number, protocol(listed.protocol.as_deref())) else {
        let protocol = listed.protocol.as_deref().unwrap_or_default();
        return Err(Reason::new(
            "UnsupportedProtocol",
            format!("port {}: {protocol}, allowed TCP, UDP, SCTP", listed.port),
        ));
    };
    let target = match &listed.target_port {
        Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
        Some(IntOrString::Int(target)) => TargetPort::Number(
            u16::try_from(*target)
                .ok()
                .filter(|target| *target > 0)
                .unwrap_or(number),
        ),
        None => TargetPort::Number(number),
    };
    Ok(Port {
        name: listed.name.clone().unwrap_or_default(),
        protocol,
        port: number,
        target,
    })
}

/// An annotation as `parse` understands it, `default` if it is absent or cannot be understood.
fn setting<T>(
    service: &Service,
    key: &str,
    (default, shown): (T, &str),
    allowed: &str,
    notes: &mut Vec<Reason>,
    parse: impl FnOnce(&str) -> Option<T>,
) -> T {
    let Some(text) = annotation(service, key) else {
        return default;
    };
    parse(text).unwrap_or_else(|| {
        let message = format!("annotation {key}: {text:?}, allowed {allowed}; taken for {shown}");
        notes.push(Reason::new("InvalidAnnotation", message));
        default
    })
}

fn scheduler(service: &Service, notes: &mut Vec<Reason>) -> Scheduler {
    setting(
        service,
        SCHEDULER,
        (config::DEFAULT_SCHEDULER, config::DEFAULT_SCHEDULER.name()),
        &config::schedulers(),
        notes,
        config::scheduler,
    )
}

fn health_check(service: &Service, ports: &[Port], notes: &mut Vec<Reason>) -> Option<Option<HealthCheck>> {
    let text = annotation(service, HEALTH_CHECK)?;
    let check = match HealthCheck::parse(text) {
        Ok(check) => check,
        Err(faults) => {
            let message = format!("annotation {HEALTH_CHECK}: {faults}; its default holds");
            notes.push(Reason::new("InvalidAnnotation", message));
            return None;
        }
    };
    let unsuited = ports
        .iter()
        .filter(|port| check.as_ref().is_some_and(|check| !check.suits(port.protocol)));
    notes.extend(unsuited.map(|port| {
        let message = format!(
            "annotation {HEALTH_CHECK}: its check needs a port for port {} {}, whose backends are not checked",
            port.protocol, port.port
        );
        Reason::new("InvalidAnnotation", message)
    }));
    Some(check)
}

fn drain(service: &Service, notes: &mut Vec<Reason>) -> Duration {
    let default = config::duration::format(config::DEFAULT_DRAIN);
    setting(
        service,
        DRAIN,
        (config::DEFAULT_DRAIN, &default),
        &config::drains(),
        notes,
        config::drain,
    )
}

fn rules(service: &Service, notes: &mut Vec<Reason>) -> FlowRules {
    FlowRules {
        slow_start: setting(
            service,
            SLOW_START,
            (Duration::ZERO, "0s"),
            &config::slow_starts(),
            notes,
            config::slow_start,
        ),
        max_flows_per_backend: setting(
            service,
            MAX_FLOWS,
            (None, "no limit"),
            config::MAX_FLOWS_FORM,
            notes,
            |text| config::max_flows(text).map(Some),
        ),
        when_all_down: setting(
            service,
            WHEN_ALL_DOWN,
            (WhenAllDown::FailClosed, "fail-closed"),
            &config::when_all_down_names(),
            notes,
            config::when_all_down,
        ),
        passive_check: passive_check(service, notes),
    }
}

fn passive_check(service: &Service, notes: &mut Vec<Reason>) -> Option<PassiveCheck> {
    let text = annotation(service, PASSIVE_CHECK)?;
    let check = PassiveCheck::parse(text).map_err(|faults| {
        let message = format!("annotation {PASSIVE_CHECK}: {faults}; taken for none");
        notes.push(Reason::new("InvalidAnnotation", message));
    });
    check.ok()
}

fn client_address(service: &Service, ports: &[Port], notes: &mut Vec<Reason>) -> ClientAddress {
    let address = setting(
        service,
        CLIENT_ADDRESS,
        (ClientAddress::None, ClientAddress::None.name()),
        &config::client_addresses(),
        notes,
        config::client_address,
    );
    for port in ports.iter().filter(|port| !address.suits(port.protocol)) {
        let message = format!(
            "annotation {CLIENT_ADDRESS}: {:?} is not possible at port {} {}; taken for none there",
            address.name(),
            port.protocol,
            port.port,
        );
        notes.push(Reason::new("InvalidAnnotation", message));
    }
    address
}

fn affinity(spec: &ServiceSpec) -> Duration {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return Duration::ZERO;
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config
        .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map_or(AFFINITY, Duration::from_secs)
}

fn source_ranges(spec: &ServiceSpec) -> Result<Vec<IpNet>, Reason> {
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    let read = |text: &String| {
        let range: Result<IpNet, _> = text.trim().parse();
        range.map(|range| range.trunc()).map_err(|_| {
            let message = format!("loadBalancerSourceRanges: {text:?}, allowed networks such as 10.0.0.0/8");
            Reason::new("InvalidSourceRange", message)
        })
    };
    ranges.map(read).collect()
}

/// The external policy applies to load balancers, the internal one to other Services.
fn distribution(spec: &ServiceSpec, notes: &mut Vec<Reason>) -> Distribution {
    let policy = if spec.type_.as_deref() == Some("LoadBalancer") {
        &spec.external_traffic_policy
    } else {
        &spec.internal_traffic_policy
    };
    if policy.as_deref() == Some("Local") {
        return Distribution::LocalOnly;
    }
    match spec.traffic_distribution.as_deref() {
        None => Distribution::AsConfigured,
        Some("PreferClose" | "PreferSameZone") => Distribution::Zone,
        Some("PreferSameNode") => Distribution::Node,
        Some(other) => {
            notes.push(Reason::new(
                "UnsupportedTrafficDistribution",
                format!(
                    "trafficDistribution: {other}, allowed PreferSameZone, PreferSameNode, PreferClose; ignored"
                ),
            ));
            Distribution::AsConfigured
        }
    }
}
