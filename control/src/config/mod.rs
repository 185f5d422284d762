//! The configuration: file and environment, parsed into types that hold valid values only.
//!
//! Loading collects all errors, each with field, value and the allowed values. A [`Config`] needs no further checks.

mod admin;
mod backend;
mod dns;
mod document;
pub mod duration;
mod environment;
mod error;
mod flow_log;
mod flow_rules;
mod health_check;
mod json;
mod kubernetes;
mod listen;
mod metrics;
mod names;
mod nat_ports;
mod networks;
mod node;
mod nsm;
mod passive_check;
mod port;
mod selector;
mod service;
mod telemetry;
mod tenancy;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Serialize, Serializer};
use vl3lb_common::snapshot::NatPorts;
use vl3lb_common::{Duration, PortSet, Protocol};

pub use admin::{Admin, Api, ApiFor, Listener};
pub use backend::Backend;
pub use dns::{Dns, DnsListen};
pub use error::{ConfigError, join_errors};
pub use flow_log::{FlowLog, FlowLogFile};
pub use flow_rules::{
    FlowRules, MAX_FLOWS_FORM, WhenAllDown, max_flows, slow_start, slow_starts, when_all_down,
    when_all_down_names,
};
pub use health_check::{
    CheckKind, GrpcCheck, HealthCheck, HttpCheck, Payload, PingCheck, StatusRange, TcpCheck, Tls, UdpCheck,
};
pub use kubernetes::{AddressFrom, Kubernetes, Namespaces, Prefer, Topology};
pub use listen::{ListenAddresses, Pool};
pub use metrics::Metrics;
pub use names::{Discovery, FastPathMode, LogFormat, LogLevel, Mode, ZeroCopy};
pub(crate) use names::{LABEL_FORM, is_label, is_unicast, unicast};
pub use nsm::{NetworkService, Nsm};
pub use passive_check::PassiveCheck;
pub use selector::Selector;
pub use service::{
    ADDRESS_MARK, DEFAULT_DRAIN, DEFAULT_SCHEDULER, Service, TargetPort, client_address, client_addresses,
    drain, drains, scheduler, schedulers,
};
pub use telemetry::Telemetry;
pub use tenancy::{Claim, ClaimNetworks, NamespaceSet, Quota};

/// A complete and consistent configuration. Serialises to the format of the file with all defaults; the result parses
/// to an equal configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// The vL3 interface.
    pub interface: String,
    /// Addresses to balance on; empty: the interface's own global ones, both families.
    pub addresses: Vec<IpAddr>,
    pub mode: Mode,
    pub zero_copy: ZeroCopy,
    pub workers: Workers,
    /// Capacity of the flow tables, all workers together.
    pub flows: u32,
    /// Flows of one client at most, all workers together; `None` for auto.
    #[serde(serialize_with = "number_or_auto")]
    pub client_flows: Option<u32>,
    /// UMEM frames of 4 KiB for each worker; a power of two.
    pub frames: u32,
    #[serde(serialize_with = "range")]
    pub nat_ports: NatPorts,
    pub timeouts: Timeouts,
    pub fast_path: FastPath,
    pub discovery: Discovery,
    /// With discovery kubernetes only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
    /// The network service whose clients are backends, or where pods have their addresses; else `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_service: Option<String>,
    pub services: Vec<Service>,
    pub dns: Dns,
    pub admin: Admin,
    pub metrics: Metrics,
    pub telemetry: Telemetry,
    /// `None`: flows are not logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow_log: Option<FlowLog>,
    pub log_level: LogLevel,
    pub log_format: LogFormat,
    /// Set by the environment only.
    #[serde(skip)]
    pub nsm: Nsm,
}

/// The number of workers and their CPU cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workers {
    /// One per receive queue, on the cores that the process's CPU affinity allows.
    Auto,
    /// One on each of these CPU cores.
    Cores(Vec<usize>),
}

impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Cores(cores) => cores.serialize(serializer),
        }
    }
}

/// Idle timeouts of flows, at least the minima of the RFCs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Timeouts {
    /// At least 2 h 4 min (RFC 5382 REQ-5).
    #[serde(serialize_with = "duration::serialize")]
    pub tcp_established: Duration,
    /// Flows whose client has not confirmed the backend's answer; 4 min, or less against floods (RFC 7857 section
    /// 2.1).
    #[serde(serialize_with = "duration::serialize")]
    pub tcp_opening: Duration,
    /// Closing and reset flows; at least 4 min (RFC 5382 REQ-5).
    #[serde(serialize_with = "duration::serialize")]
    pub tcp_closing: Duration,
    /// At least 2 min (RFC 4787 REQ-5).
    #[serde(serialize_with = "duration::serialize")]
    pub udp: Duration,
}

/// The in-kernel path of established flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct FastPath {
    pub mode: FastPathMode,
    /// A flow enters it after so many packets in one direction: a power of two.
    pub after: u32,
    /// Flows that fit, all workers together.
    pub flows: u32,
}

fn range<S: Serializer>(ports: &NatPorts, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{}-{}", ports.first(), ports.last()))
}

#[expect(clippy::ref_option, reason = "called by serde")]
fn number_or_auto<S: Serializer>(number: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) => serializer.serialize_u32(*number),
        None => serializer.serialize_str("auto"),
    }
}

/// A configuration and notes about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub config: Config,
    /// Valid settings with unexpected effects, for the log.
    pub notes: Vec<String>,
    /// Flows at a time to each backend from each own address: `natPorts` without the kernel's ephemeral ports and without
    /// ports of services. What programs use of the rest is left out too, when it is known.
    pub flows_per_backend: u32,
}

impl Config {
    /// Reads `file`, if given, then `env`, which takes precedence. Reads the ephemeral port range of this network
    /// namespace from /proc.
    ///
    /// Errors: all invalid settings.
    pub fn load(
        file: Option<&Path>,
        env: &impl Fn(&str) -> Option<String>,
    ) -> Result<Loaded, Vec<ConfigError>> {
        let text = file.map(read_file).transpose().map_err(|error| vec![error])?;
        let ephemeral = local_port_range().map_err(|error| vec![error])?;
        let name = file.map_or_else(String::new, |file| file.display().to_string());
        Self::parse(text.as_deref(), &name, env, &ephemeral)
    }

    /// As [`Self::load`], from text. `file` is its name in errors; `ephemeral` is the kernel's ephemeral port range.
    pub fn parse(
        text: Option<&str>,
        file: &str,
        env: &impl Fn(&str) -> Option<String>,
        ephemeral: &RangeInclusive<u16>,
    ) -> Result<Loaded, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut notes = Vec::new();
        let mut document = document::read(text, file, ephemeral, &mut errors);
        environment::apply(env, &mut document, &mut errors, &mut notes);
        if text.is_none() && document.services.is_empty() && errors.is_empty() {
            errors.push(ConfigError::new(
                "configuration",
                "missing",
                "--config FILE, or NSM_PORT for one service",
            ));
        }
        if text.is_none() && document.config.nsm.network_service.is_some() {
            // Backends cannot be listed by variables.
            document.config.discovery = Discovery::Nsm;
        }
        document.config.resolve_network_service(&mut errors);
        for draft in &document.services {
            draft.check_discovery(document.config.discovery, &mut errors);
            draft.check_health(&mut errors);
            draft.check_client_address(&mut errors);
        }
        let kubernetes = document.config.kubernetes.as_ref();
        let watched = kubernetes.map(|kubernetes| &kubernetes.namespaces);
        for draft in &document.services {
            draft.check_namespaces(watched, &mut errors);
        }
        service::check_together(&document.services, &mut errors);
        let mut config = document.config;
        if let Some(kubernetes) = &config.kubernetes {
            kubernetes.check(&mut errors);
        }
        for draft in document.services {
            if let Some(port) = draft.port.filter(|port| ephemeral.contains(port)) {
                notes.push(format!(
                    "{}.port: {port} is among the kernel's ephemeral ports {}-{}: reserve it with \
                     net.ipv4.ip_local_reserved_ports, or the kernel may use it for a local connection",
                    draft.path,
                    ephemeral.start(),
                    ephemeral.end()
                ));
            }
            if config.uses_nsm() && draft.is_unchecked() {
                notes.push(format!(
                    "{}: clients that die without leaving the network service are noticed when their tokens expire: \
                     set healthCheck.tcp.port to a port where they answer TCP",
                    draft.path
                ));
            }
            config.services.extend(draft.finish(config.uses_nsm()));
        }
        service::name_uniquely(&mut config.services);
        notes.extend(config.overlap_note(ephemeral));
        config.check_nat_ports(&mut errors);
        config.check_own_addresses(&mut errors);
        config.admin.check(&mut errors);
        config.check_listen_addresses(&mut errors);
        if errors.is_empty() {
            let flows_per_backend = config.flows_per_backend(ephemeral);
            Ok(Loaded {
                config,
                notes,
                flows_per_backend,
            })
        } else {
            Err(errors)
        }
    }

    /// A chosen range that the kernel's ephemeral ports make smaller.
    fn overlap_note(&self, ephemeral: &RangeInclusive<u16>) -> Option<String> {
        let ports = self.nat_ports;
        let all = u32::from(ports.last() - ports.first()) + 1;
        let free = nat_ports::free(ports, ephemeral);
        (free < all && nat_ports::choose(ephemeral) != Some(ports)).then(|| {
            format!(
                "natPorts: {}-{} overlaps the kernel's ephemeral ports {}-{} (net.ipv4.ip_local_port_range), which are left \
                 out: {free} ports remain",
                ports.first(),
                ports.last(),
                ephemeral.start(),
                ephemeral.end()
            )
        })
    }

    fn flows_per_backend(&self, ephemeral: &RangeInclusive<u16>) -> u32 {
        let mut ports = PortSet::from(self.nat_ports.first()..=self.nat_ports.last());
        ports.remove_all(&PortSet::from(ephemeral.clone()));
        for service in &self.services {
            ports.remove(service.port);
        }
        ports.len()
    }

    /// The configuration as YAML with all defaults.
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("names, numbers and addresses can be written as YAML")
    }

    /// Keys that differ and take effect after a restart only.
    pub fn needs_restart(&self, other: &Self) -> Vec<&'static str> {
        [
            ("interface", self.interface != other.interface),
            ("addresses", self.addresses != other.addresses),
            ("mode", self.mode != other.mode),
            ("zeroCopy", self.zero_copy != other.zero_copy),
            ("workers", self.workers != other.workers),
            ("flows", self.flows != other.flows),
            ("clientFlows", self.client_flows != other.client_flows),
            ("frames", self.frames != other.frames),
            ("natPorts", self.nat_ports != other.nat_ports),
            ("timeouts", self.timeouts != other.timeouts),
            ("fastPath", self.fast_path != other.fast_path),
            ("discovery", self.discovery != other.discovery),
            ("kubernetes", self.kubernetes != other.kubernetes),
            ("networkService", self.network_service != other.network_service),
            ("dns", self.dns != other.dns),
            ("admin", self.admin != other.admin),
            ("metrics", self.metrics != other.metrics),
            ("telemetry", self.telemetry != other.telemetry),
            ("flowLog", self.flow_log != other.flow_log),
            ("logLevel", self.log_level != other.log_level),
            ("logFormat", self.log_format != other.log_format),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }

    /// Whether backends, or the addresses of pods, come from connections to a network service.
    pub fn uses_nsm(&self) -> bool {
        let kubernetes = self.kubernetes.as_ref();
        self.discovery == Discovery::Nsm
            || kubernetes.is_some_and(|kubernetes| kubernetes.address_from == AddressFrom::Nsm)
    }

    /// Without a name in the file it is the network service that the balancer joins.
    fn resolve_network_service(&mut self, errors: &mut Vec<ConfigError>) {
        let joined = self.nsm.network_service.as_ref();
        match (self.uses_nsm(), &self.network_service) {
            (true, None) => match joined {
                Some(joined) => self.network_service = Some(joined.name.clone()),
                None => errors.push(ConfigError::new(
                    "networkService",
                    "missing",
                    "the network service whose clients are backends, or NSM_NETWORK_SERVICES",
                )),
            },
            (false, Some(name)) => errors.push(ConfigError::new(
                "networkService",
                name,
                "it with discovery: nsm or kubernetes.addressFrom: nsm only",
            )),
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// The documented defaults, without services.
    fn defaults() -> Self {
        Self {
            interface: "nsm-1".to_owned(),
            addresses: Vec::new(),
            mode: Mode::Auto,
            zero_copy: ZeroCopy::Auto,
            workers: Workers::Auto,
            flows: 1_000_000,
            client_flows: None,
            frames: 8192,
            nat_ports: NatPorts::new(10_240, 32_767).expect("the range is not empty"),
            timeouts: Timeouts {
                tcp_established: Duration::from_secs(2 * 3600 + 4 * 60),
                tcp_opening: Duration::from_secs(4 * 60),
                tcp_closing: Duration::from_secs(4 * 60),
                udp: Duration::from_secs(5 * 60),
            },
            fast_path: FastPath {
                mode: FastPathMode::Auto,
                after: 8,
                flows: 16_384,
            },
            discovery: Discovery::Static,
            kubernetes: None,
            network_service: None,
            services: Vec::new(),
            dns: Dns {
                zone: "vl3-lb".to_owned(),
                listen: DnsListen::OwnAddresses(53),
                upstream: Vec::new(),
                upstream_clients: Vec::new(),
            },
            admin: Admin::defaults(),
            metrics: Metrics::default(),
            telemetry: Telemetry::default(),
            flow_log: None,
            log_level: LogLevel::Info,
            log_format: LogFormat::Auto,
            nsm: Nsm::default(),
        }
    }

    /// Each worker needs a NAT port of its own.
    fn check_nat_ports(&self, errors: &mut Vec<ConfigError>) {
        let workers = match &self.workers {
            Workers::Auto => 1,
            Workers::Cores(cores) => cores.len(),
        };
        let ports = usize::from(self.nat_ports.last() - self.nat_ports.first()) + 1;
        if ports < workers {
            errors.push(ConfigError::new(
                "natPorts",
                format!("{ports} ports"),
                format!("at least one for each of {workers} workers"),
            ));
        }
    }

    /// A backend at an address of the balancer would be a loop; a listener on a service's port would receive no
    /// packets.
    fn check_own_addresses(&self, errors: &mut Vec<ConfigError>) {
        for (index, service) in self.services.iter().enumerate() {
            for backend in &service.backends {
                if self.addresses.contains(&backend.address) {
                    errors.push(ConfigError::new(
                        format!("services[{index}].backends"),
                        backend.address.to_string(),
                        "addresses other than the balancer's own",
                    ));
                }
            }
            let dns = service.protocol != Protocol::Sctp
                && !self.dns.listen.is_loopback()
                && service.port == self.dns.listen.port();
            let admin = self.admin.listeners().into_iter().map(|listener| {
                let reachable = !listener.address.ip().is_loopback();
                let meets = service.protocol == Protocol::Tcp && service.port == listener.address.port();
                (reachable && meets, listener.key, "HTTP")
            });
            for (meets, key, server) in std::iter::once((dns, "dns.listen", "DNS")).chain(admin) {
                if meets {
                    errors.push(ConfigError::new(
                        format!("services[{index}].port"),
                        service.port.to_string(),
                        format!("a port other than {key}, or move the {server} server by {key}"),
                    ));
                }
            }
        }
    }
}

fn read_file(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|error| {
        ConfigError::new(
            file.display().to_string(),
            format!("cannot be read: {error}"),
            "a readable YAML file",
        )
    })
}

/// The kernel's ephemeral ports in this network namespace.
pub(crate) fn local_port_range() -> Result<RangeInclusive<u16>, ConfigError> {
    let text = std::fs::read_to_string(nat_ports::LOCAL_PORT_RANGE).unwrap_or_default();
    nat_ports::parse_local_port_range(&text).ok_or_else(|| {
        ConfigError::new(
            nat_ports::LOCAL_PORT_RANGE,
            format!("{text:?}"),
            "two port numbers; is /proc mounted?",
        )
    })
}
