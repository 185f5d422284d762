//! The configuration file, key by key.

use std::ops::RangeInclusive;

use serde_json::Value;
use vl3lb_common::Duration;
use vl3lb_common::snapshot::NatPorts;

use super::error::ConfigError;
use super::networks::read_networks;
use super::node::{self, Section};
use super::service::Draft;
use super::{Config, Discovery, Dns, DnsListen, FastPath, FlowLog, Kubernetes, Timeouts, Workers};
use super::{duration, json, names, nat_ports};

/// The content of the file: the services are drafts, the rest is complete.
pub(super) struct Document {
    /// Without services.
    pub(super) config: Config,
    pub(super) services: Vec<Draft>,
}

const KEYS: &[&str] = &[
    "interface",
    "addresses",
    "mode",
    "zeroCopy",
    "workers",
    "flows",
    "clientFlows",
    "frames",
    "natPorts",
    "timeouts",
    "fastPath",
    "discovery",
    "kubernetes",
    "networkService",
    "services",
    "dns",
    "admin",
    "metrics",
    "telemetry",
    "flowLog",
    "logLevel",
    "logFormat",
];

/// Highest number of CPU cores.
const CORES: u64 = 4096;
/// Highest number of workers; large NICs have as many queues.
const WORKERS: usize = 64;
const FLOWS: RangeInclusive<u64> = 1..=1 << 28;
const FAST_PATH_FLOWS: RangeInclusive<u64> = 1..=1 << 20;
const FAST_PATH_AFTER: RangeInclusive<u64> = 1..=65_536;
const FRAMES: RangeInclusive<u64> = 1024..=65_536;
const LONGEST_TIMEOUT: Duration = Duration::from_secs(7 * 86_400);

/// Reads a whole document; an absent one is all defaults.
pub(super) fn read(
    text: Option<&str>,
    file: &str,
    ephemeral: &RangeInclusive<u16>,
    errors: &mut Vec<ConfigError>,
) -> Document {
    let value = text.map_or(Value::Null, |text| parse(text, file, errors));
    let mut config = Config::defaults();
    let mut section = Section::new("", Some(&value), KEYS, errors);

    let set = &mut section;
    replace(
        &mut config.interface,
        set.optional_text("interface", names::INTERFACE_FORM, |name| {
            names::is_interface(name).then(|| name.to_owned())
        }),
    );
    for (path, value) in set.list("addresses", "a list of addresses, [] for the interface's own") {
        match value.as_str().and_then(names::unicast) {
            Some(address) if config.addresses.contains(&address) => {
                set.errors().push(ConfigError::new(
                    path.to_string(),
                    address.to_string(),
                    "each address once",
                ));
            }
            Some(address) => config.addresses.push(address),
            None => set.errors().push(ConfigError::new(
                path.to_string(),
                node::shown(value),
                names::ADDRESS_FORM,
            )),
        }
    }
    replace(
        &mut config.mode,
        set.optional("mode", &names::listed(names::MODES), |value| {
            names::choice(names::MODES, value.as_str()?)
        }),
    );
    replace(
        &mut config.zero_copy,
        set.optional("zeroCopy", &names::listed(names::ZERO_COPY), zero_copy),
    );
    replace(
        &mut config.workers,
        set.optional("workers", &workers_form(), workers),
    );
    replace(
        &mut config.flows,
        set.optional("flows", "1-268435456", |value| {
            node::number(value, FLOWS).and_then(|flows| u32::try_from(flows).ok())
        }),
    );
    replace(
        &mut config.client_flows,
        set.optional("clientFlows", "auto, or 1-268435456", |value| {
            match value.as_str() {
                Some(text) => (text == "auto").then_some(None),
                None => node::number(value, FLOWS).and_then(|flows| u32::try_from(flows).ok().map(Some)),
            }
        }),
    );
    replace(
        &mut config.frames,
        set.optional("frames", "a power of two, 1024-65536", |value| {
            node::number(value, FRAMES)
                .and_then(|frames| u32::try_from(frames).ok())
                .filter(|frames| frames.is_power_of_two())
        }),
    );
    replace(&mut config.nat_ports, read_nat_ports(set, ephemeral));
    replace(&mut config.discovery, read_discovery(set));
    config.kubernetes = read_kubernetes(set, config.discovery);
    config.network_service = set.optional_text("networkService", NETWORK_SERVICE_FORM, |name| {
        let is_plain = |c: char| c.is_ascii_graphic() && c != '/';
        (!name.is_empty() && name.chars().all(is_plain)).then(|| name.to_owned())
    });
    replace(
        &mut config.log_level,
        set.optional("logLevel", &names::listed(names::LOG_LEVELS), |value| {
            names::choice(names::LOG_LEVELS, value.as_str()?)
        }),
    );
    replace(
        &mut config.log_format,
        set.optional("logFormat", &names::listed(names::LOG_FORMATS), |value| {
            names::choice(names::LOG_FORMATS, value.as_str()?)
        }),
    );
    read_timeouts(set, &mut config.timeouts);
    read_fast_path(set, &mut config.fast_path);
    read_dns(set, &mut config.dns);
    config.admin.read(set);
    config.metrics.read(set);
    config.telemetry.read(set);
    let path = set.path("flowLog");
    config.flow_log = set
        .value("flowLog")
        .and_then(|value| FlowLog::read(&path, value, set.errors()));
    let services = set
        .list("services", "a list of services, [] for none")
        .into_iter()
        .map(|(place, value)| Draft::read(&place, value, set.errors()))
        .collect();
    Document { config, services }
}

fn parse(text: &str, file: &str, errors: &mut Vec<ConfigError>) -> Value {
    if let Some(value) = json::read(text) {
        return value;
    }
    let parsed = read_yaml(text);
    if let Ok(Value::Null) = parsed {
        // Probably a file that is being written.
        errors.push(ConfigError::new(
            file,
            "empty",
            "a YAML mapping, {} for all defaults",
        ));
    }
    parsed.unwrap_or_else(|error| {
        // The plain text names options of the parser.
        let reason = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
        let reason = reason.lines().collect::<Vec<_>>().join(" ");
        errors.push(ConfigError::new(file, reason, "a YAML mapping"));
        Value::Null
    })
}

pub(super) fn read_yaml(text: &str) -> Result<Value, serde_saphyr::Error> {
    // YAML 1.1 would read `off` as false.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options)
}

fn replace<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

fn zero_copy(value: &Value) -> Option<names::ZeroCopy> {
    match value {
        Value::Bool(true) => Some(names::ZeroCopy::On),
        Value::Bool(false) => Some(names::ZeroCopy::Off),
        other => names::choice(names::ZERO_COPY, other.as_str()?),
    }
}

fn workers_form() -> String {
    format!("auto, or a list of 1-{WORKERS} distinct CPU cores")
}

fn workers(value: &Value) -> Option<Workers> {
    let Value::Array(items) = value else {
        return (value.as_str()? == "auto").then_some(Workers::Auto);
    };
    let cores: Vec<usize> = items
        .iter()
        .map(|item| usize::try_from(node::number(item, 0..=CORES - 1)?).ok())
        .collect::<Option<_>>()?;
    let distinct: std::collections::HashSet<_> = cores.iter().collect();
    let fits = (1..=WORKERS).contains(&cores.len()) && distinct.len() == cores.len();
    fits.then_some(Workers::Cores(cores))
}

fn read_nat_ports(section: &mut Section<'_>, ephemeral: &RangeInclusive<u16>) -> Option<NatPorts> {
    let given = section.optional("natPorts", nat_ports::FORM, |value| match value.as_str()? {
        "auto" => Some(None),
        text => nat_ports::parse(text).map(Some),
    });
    let kernel = format!("{}-{}", ephemeral.start(), ephemeral.end());
    match given.flatten() {
        Some(ports) if nat_ports::free(ports, ephemeral) == 0 => {
            section.reject(
                "natPorts",
                format!("{}-{}", ports.first(), ports.last()),
                format!(
                    "a range apart from the kernel's ephemeral ports {kernel} \
                     (net.ipv4.ip_local_port_range)"
                ),
            );
            None
        }
        Some(ports) => Some(ports),
        None => {
            let chosen = nat_ports::choose(ephemeral);
            if chosen.is_none() {
                section.reject(
                    "natPorts",
                    "auto",
                    format!(
                        "only if the kernel's ephemeral ports {kernel} leave room from 1024 on: \
                         narrow net.ipv4.ip_local_port_range"
                    ),
                );
            }
            chosen
        }
    }
}

const NETWORK_SERVICE_FORM: &str = "the name of a network service";

fn read_discovery(section: &mut Section<'_>) -> Option<Discovery> {
    section.optional("discovery", &names::listed(names::DISCOVERIES), |value| {
        names::choice(names::DISCOVERIES, value.as_str()?)
    })
}

fn read_kubernetes(section: &mut Section<'_>, discovery: Discovery) -> Option<Kubernetes> {
    let path = section.path("kubernetes");
    let value = section.value("kubernetes");
    match (discovery, value) {
        (Discovery::Kubernetes, value) => Some(Kubernetes::read(&path, value, section.errors())),
        (Discovery::Static | Discovery::Nsm, None) => None,
        (Discovery::Static | Discovery::Nsm, Some(value)) => {
            section.reject(
                "kubernetes",
                node::shown(value),
                "this section with discovery: kubernetes only",
            );
            None
        }
    }
}

fn read_timeouts(parent: &mut Section<'_>, timeouts: &mut Timeouts) {
    let path = parent.path("timeouts");
    let value = parent.value("timeouts");
    let keys = ["tcpEstablished", "tcpOpening", "tcpClosing", "udp"];
    let mut section = Section::new(&*path, value, &keys, parent.errors());
    for (key, target, minimum, rfc) in [
        (
            "tcpEstablished",
            &mut timeouts.tcp_established,
            2 * 3600 + 4 * 60,
            "RFC 5382 REQ-5",
        ),
        (
            "tcpOpening",
            &mut timeouts.tcp_opening,
            10,
            "RFC 7857 section 2.1",
        ),
        ("tcpClosing", &mut timeouts.tcp_closing, 4 * 60, "RFC 5382 REQ-5"),
        ("udp", &mut timeouts.udp, 2 * 60, "RFC 4787 REQ-5"),
    ] {
        let range = Duration::from_secs(minimum)..=LONGEST_TIMEOUT;
        let allowed = format!(
            "{} ({rfc}) to {}",
            duration::format(*range.start()),
            duration::format(*range.end())
        );
        replace(
            target,
            section.optional(key, &allowed, |value| {
                duration::parse(&node::text(value)?)
                    .ok()
                    .filter(|time| range.contains(time))
            }),
        );
    }
}

fn read_fast_path(parent: &mut Section<'_>, fast_path: &mut FastPath) {
    let path = parent.path("fastPath");
    let value = parent.value("fastPath");
    let mut section = Section::new(&*path, value, &["mode", "after", "flows"], parent.errors());
    replace(
        &mut fast_path.mode,
        section.optional(
            "mode",
            &names::listed(names::FAST_PATH_MODES),
            |value| match value {
                // YAML 1.1 reads `off` so.
                Value::Bool(false) => Some(names::FastPathMode::Off),
                other => names::choice(names::FAST_PATH_MODES, other.as_str()?),
            },
        ),
    );
    replace(
        &mut fast_path.after,
        section.optional("after", "a power of two, 1-65536", |value| {
            node::number(value, FAST_PATH_AFTER)
                .and_then(|after| u32::try_from(after).ok())
                .filter(|after| after.is_power_of_two())
        }),
    );
    replace(
        &mut fast_path.flows,
        section.optional("flows", "1-1048576", |value| {
            node::number(value, FAST_PATH_FLOWS).and_then(|flows| u32::try_from(flows).ok())
        }),
    );
}

fn read_dns(parent: &mut Section<'_>, dns: &mut Dns) {
    let path = parent.path("dns");
    let value = parent.value("dns");
    let mut section = Section::new(
        &*path,
        value,
        &["zone", "listen", "upstream", "upstreamClients"],
        parent.errors(),
    );
    replace(
        &mut dns.zone,
        section.optional_text("zone", names::ZONE_FORM, names::zone),
    );
    replace(
        &mut dns.listen,
        section.optional("listen", DNS_LISTEN_FORM, |value| dns_listen(&node::text(value)?)),
    );
    for (path, value) in section.list("upstream", "a list of DNS servers, [] for none") {
        match value.as_str().and_then(|text| names::socket_address(text, 53)) {
            Some(server) => dns.upstream.push(server),
            None => section.errors().push(ConfigError::new(
                path.to_string(),
                node::shown(value),
                "an address, or an address and port",
            )),
        }
    }
    dns.upstream_clients = read_networks(
        &mut section,
        "upstreamClients",
        "a list of networks, [] for the balancer's own",
    );
    if let DnsListen::Address(listen) = dns.listen
        && dns.upstream.contains(&listen)
    {
        section.reject(
            "upstream",
            listen.to_string(),
            "DNS servers other than dns.listen",
        );
    }
}

const DNS_LISTEN_FORM: &str = "a port (on the balancer's own addresses), or an address and port";

fn dns_listen(text: &str) -> Option<DnsListen> {
    match text.parse::<u16>() {
        Ok(0) => None,
        Ok(port) => Some(DnsListen::OwnAddresses(port)),
        Err(_) => {
            let socket: std::net::SocketAddr = text.parse().ok()?;
            (socket.port() > 0).then_some(DnsListen::Address(socket))
        }
    }
}
