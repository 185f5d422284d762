//! Enumerated values, and the syntax of names and addresses.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use vl3lb_common::schedule::Scheduler;
use vl3lb_common::{ClientAddress, Protocol};

/// The way of attaching to the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The fastest mode that handles all senders of this link.
    #[default]
    Auto,
    Native,
    Generic,
    Companion,
}

/// Whether the NIC reads and writes packet memory directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ZeroCopy {
    #[default]
    Auto,
    On,
    Off,
}

/// Whether established flows are forwarded in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FastPathMode {
    /// Wherever it works.
    #[default]
    Auto,
    Off,
}

/// The source of services and backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Discovery {
    /// The configuration file.
    #[default]
    Static,
    /// Services from the file and, with `kubernetes.services`, from the cluster; backends from pods.
    Kubernetes,
    /// Backends from the clients of a network service.
    Nsm,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    Text,
    Json,
}

/// The lowest level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The name in the configuration and in filters of tracing-subscriber.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

pub(super) const MODES: &[(&str, Mode)] = &[
    ("auto", Mode::Auto),
    ("native", Mode::Native),
    ("generic", Mode::Generic),
    ("companion", Mode::Companion),
];

/// YAML 1.1 reads an unquoted `on` as true.
pub(super) const ZERO_COPY: &[(&str, ZeroCopy)] = &[
    ("auto", ZeroCopy::Auto),
    ("on", ZeroCopy::On),
    ("off", ZeroCopy::Off),
];

pub(super) const FAST_PATH_MODES: &[(&str, FastPathMode)] =
    &[("auto", FastPathMode::Auto), ("off", FastPathMode::Off)];

pub(super) const DISCOVERIES: &[(&str, Discovery)] = &[
    ("static", Discovery::Static),
    ("kubernetes", Discovery::Kubernetes),
    ("nsm", Discovery::Nsm),
];

pub(super) const LOG_FORMATS: &[(&str, LogFormat)] = &[
    ("auto", LogFormat::Auto),
    ("text", LogFormat::Text),
    ("json", LogFormat::Json),
];

/// The names that NSM's commands accept. Their `panic` and `fatal` end the program; here they mean `error`.
pub(super) const LOG_LEVELS: &[(&str, LogLevel)] = &[
    ("panic", LogLevel::Error),
    ("fatal", LogLevel::Error),
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("warning", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

pub(super) const PROTOCOLS: &[(&str, Protocol)] = &[
    ("TCP", Protocol::Tcp),
    ("UDP", Protocol::Udp),
    ("SCTP", Protocol::Sctp),
];

pub(super) const SCHEDULERS: &[(&str, Scheduler)] = &[
    ("maglev", Scheduler::Maglev),
    ("round-robin", Scheduler::RoundRobin),
    ("least-connections", Scheduler::LeastConnections),
];

pub(super) const CLIENT_ADDRESSES: &[(&str, ClientAddress)] = &[
    ("none", ClientAddress::None),
    ("proxyV2", ClientAddress::ProxyV2),
    ("proxyV2First", ClientAddress::ProxyV2First),
    ("toa", ClientAddress::Toa),
];

/// Parses a choice, ignoring case.
pub(super) fn choice<T: Copy>(choices: &[(&str, T)], text: &str) -> Option<T> {
    choices
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
        .map(|&(_, choice)| choice)
}

/// The name of `choice`.
pub(super) fn spelled<'a, T: PartialEq>(choices: &[(&'a str, T)], choice: T) -> &'a str {
    let mut choices = choices.iter();
    choices.find(|(_, of)| *of == choice).map_or("", |(name, _)| name)
}

/// The names of all choices, for errors.
pub(super) fn listed<T>(choices: &[(&str, T)]) -> String {
    choices
        .iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(", ")
}

pub(crate) const LABEL_FORM: &str = "a DNS label: a-z, 0-9 and -, at most 63, - not at the ends";
pub(super) const ZONE_FORM: &str = "a domain name: labels of a-z, 0-9 and - with dots between, at most 189";
pub(super) const ADDRESS_FORM: &str = "an IPv4 or IPv6 unicast address that is not loopback";
pub(super) const INTERFACE_FORM: &str = "an interface name: 1-15 characters without / and blanks";

/// A DNS label (RFC 1123 section 2.1), in lower case as in Kubernetes.
pub(crate) fn is_label(text: &str) -> bool {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len())
        && text.chars().all(letters)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The name of a container's port (RFC 6335 section 5.1, Kubernetes).
pub(super) fn is_port_name(text: &str) -> bool {
    is_label(text)
        && text.len() <= 15
        && text.contains(|c: char| c.is_ascii_lowercase())
        && !text.contains("--")
}

/// Parses a domain name that leaves room for one more label (RFC 1035 section 2.3.4). A trailing dot is removed.
pub(super) fn zone(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    (text.len() <= 189 && text.split('.').all(is_label)).then(|| text.to_owned())
}

/// Parses an address that is valid on the vL3 interface.
pub(crate) fn unicast(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.trim().parse().ok()?;
    is_unicast(address).then_some(address)
}

/// Whether packets to and from the address are one host's elsewhere.
pub(crate) fn is_unicast(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let rejected =
        address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast || mapped;
    !rejected
}

/// The rules of the kernel's `dev_valid_name`.
pub(super) fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

/// Parses an address and port, or an address with the default `port`.
pub(super) fn socket_address(text: &str, port: u16) -> Option<SocketAddr> {
    let text = text.trim();
    let socket = text
        .parse()
        .or_else(|_| text.parse().map(|address| SocketAddr::new(address, port)))
        .ok()?;
    (socket.port() > 0).then_some(socket)
}
