//! The kinds of health checks, each under a key of its own.

use hyper::http::uri::{Authority, PathAndQuery};
use serde::Serialize;
use serde_json::Value;

use super::payload::{self, Payload};
use super::tls::Tls;
use crate::config::error::ConfigError;
use crate::config::node::{self, Section};
use crate::config::port;

/// How one backend is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CheckKind {
    /// Opens a TCP connection and closes it again.
    Tcp(TcpCheck),
    /// Sends a GET request.
    Http(HttpCheck),
    /// Calls `grpc.health.v1.Health/Check`.
    Grpc(GrpcCheck),
    /// Sends a datagram and waits for an answer.
    Udp(UdpCheck),
    /// Sends an ICMP echo request.
    Ping(PingCheck),
}

/// A check by a TCP connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TcpCheck {
    /// `None`: the backend's own port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A check by an HTTP/1.1 request (RFC 9110).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HttpCheck {
    /// `None`: the backend's own port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// With a query, if there is one.
    pub path: String,
    /// The Host field; `None`: the backend's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    pub status: StatusRange,
    /// `None`: without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// A check by the protocol of gRPC servers (`grpc.health.v1`, grpc/doc/health-checking.md).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GrpcCheck {
    /// `None`: the backend's own port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The name of the gRPC service to ask about; empty: the whole server.
    pub service: String,
    /// `None`: without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// A check by a datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UdpCheck {
    /// `None`: the backend's own port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The datagram.
    pub payload: Payload,
    /// How the answer begins; empty: any answer will do.
    pub expect: Payload,
}

/// A check by ICMP echo (RFC 792, RFC 4443), which has no settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PingCheck {}

/// The HTTP status codes of a healthy backend, `200-399` in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange {
    first: u16,
    last: u16,
}

impl StatusRange {
    /// Success and redirection.
    pub const DEFAULT: Self = Self {
        first: 200,
        last: 399,
    };

    /// Whether `status` is one of them.
    pub const fn contains(self, status: u16) -> bool {
        self.first <= status && status <= self.last
    }

    /// Reads `204` or `200-299`.
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let code = |text: &str| {
            let code: u16 = text.trim().parse().ok()?;
            (100..=599).contains(&code).then_some(code)
        };
        let (first, last) = (code(first)?, code(last)?);
        (first <= last).then_some(Self { first, last })
    }
}

impl std::fmt::Display for StatusRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

impl Serialize for StatusRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl CheckKind {
    /// A TCP connection to the backend's own port.
    pub const TCP: Self = Self::Tcp(TcpCheck { port: None });

    /// The name in views, JSON and texts.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Http(HttpCheck { tls: None, .. }) => "http",
            Self::Http(_) => "https",
            Self::Grpc(_) => "grpc",
            Self::Udp(_) => "udp",
            Self::Ping(_) => "ping",
        }
    }

    /// The checked port; `None`: each backend's own, or none at all.
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(TcpCheck { port })
            | Self::Http(HttpCheck { port, .. })
            | Self::Grpc(GrpcCheck { port, .. })
            | Self::Udp(UdpCheck { port, .. }) => *port,
            Self::Ping(_) => None,
        }
    }

    /// The object of the check in one word, for views: a path or a gRPC service.
    pub fn object(&self) -> Option<&str> {
        match self {
            Self::Http(check) => Some(&check.path),
            Self::Grpc(check) => Some(&*check.service).filter(|service| !service.is_empty()),
            Self::Tcp(_) | Self::Udp(_) | Self::Ping(_) => None,
        }
    }

    /// The keys of the kinds.
    pub(super) const KEYS: [&'static str; 5] = ["tcp", "http", "grpc", "udp", "ping"];

    /// Reads the kind in `check`, which must have exactly one.
    pub(super) fn read(check: &mut Section<'_>) -> Option<Self> {
        let given: Vec<&str> = Self::KEYS
            .into_iter()
            .filter(|key| check.value(key).is_some())
            .collect();
        let key = match given[..] {
            [] => {
                check.required("tcp", KINDS, |_| Some(()))?;
                return None;
            }
            [key] => key,
            [first, second, ..] => {
                let value = check.value(second).map(node::shown).unwrap_or_default();
                check.reject(second, value, format!("one kind of check, and {first} is one"));
                return None;
            }
        };
        let allowed = match key {
            "tcp" => KINDS,
            "ping" => "{}, since it has no settings",
            _ => "a mapping of its settings",
        };
        check.required(key, allowed, |value| {
            let settings = value.as_object()?;
            (key != "ping" || settings.is_empty()).then_some(())
        })?;
        let (value, path) = (check.value(key), check.path(key));
        let errors = check.errors();
        match key {
            "tcp" => {
                let mut section = Section::new(&*path, value, &["port"], errors);
                Some(Self::Tcp(TcpCheck {
                    port: read_port(&mut section),
                }))
            }
            "http" => HttpCheck::read(&path, value, errors).map(Self::Http),
            "grpc" => GrpcCheck::read(&path, value, errors).map(Self::Grpc),
            "udp" => UdpCheck::read(&path, value, errors).map(Self::Udp),
            _ => Some(Self::Ping(PingCheck {})),
        }
    }
}

const KINDS: &str = "tcp: {} for the backends' own port, or tcp: {port: 1-65535}; or http, grpc, udp, ping";
const PATHS: &str = "a path such as /healthz, at most 1024 letters";
const LONGEST_PATH: usize = 1024;
const STATUSES: &str = "a status code or a range of them, 100-599, such as 200-299";
const HOSTS: &str = "a host name, with a port if it is not the scheme's own";
const GRPC_SERVICES: &str = "the name of a gRPC service such as finance.Ledger";

impl HttpCheck {
    fn read(path: &str, value: Option<&Value>, errors: &mut Vec<ConfigError>) -> Option<Self> {
        let mut section = Section::new(path, value, &["port", "path", "host", "status", "tls"], errors);
        let port = read_port(&mut section);
        let target = section.optional_text("path", PATHS, |text| {
            let is_path = text.starts_with('/') && text.len() <= LONGEST_PATH && !text.contains('#');
            (is_path && text.parse::<PathAndQuery>().is_ok()).then(|| text.to_owned())
        });
        let host = section.optional_text("host", HOSTS, |text| {
            let authority: Authority = text.parse().ok()?;
            (!text.contains('@') && !authority.host().is_empty()).then(|| text.to_owned())
        });
        let status = section.optional("status", STATUSES, |value| {
            StatusRange::parse(&node::text(value)?)
        });
        let tls = Tls::read(&mut section);
        Some(Self {
            port,
            path: target.unwrap_or_else(|| "/".to_owned()),
            host,
            status: status.unwrap_or(StatusRange::DEFAULT),
            tls: tls?,
        })
    }

    /// The host name alone, which the certificate is for; `None`: the backend's address.
    pub fn host_name(&self) -> Option<&str> {
        let host = self.host.as_deref()?;
        let end = host
            .rfind(':')
            .filter(|&colon| colon > host.rfind(']').unwrap_or(0));
        Some(&host[..end.unwrap_or(host.len())])
    }
}

impl GrpcCheck {
    fn read(path: &str, value: Option<&Value>, errors: &mut Vec<ConfigError>) -> Option<Self> {
        let mut section = Section::new(path, value, &["port", "service", "tls"], errors);
        let port = read_port(&mut section);
        let service = section.optional_text("service", GRPC_SERVICES, |text| {
            let is_name = |letter: char| letter.is_ascii_alphanumeric() || "._-/".contains(letter);
            (text.len() <= 255 && text.chars().all(is_name)).then(|| text.to_owned())
        });
        let tls = Tls::read(&mut section);
        Some(Self {
            port,
            service: service.unwrap_or_default(),
            tls: tls?,
        })
    }
}

impl UdpCheck {
    fn read(path: &str, value: Option<&Value>, errors: &mut Vec<ConfigError>) -> Option<Self> {
        let mut section = Section::new(path, value, &["port", "payload", "expect"], errors);
        let port = read_port(&mut section);
        let datagram = section.required_text("payload", payload::FORM, |text| {
            Payload::parse(text).filter(|payload| !payload.is_empty())
        });
        let expect = section.optional_text("expect", payload::FORM, Payload::parse);
        Some(Self {
            port,
            payload: datagram?,
            expect: expect.unwrap_or_default(),
        })
    }
}

fn read_port(section: &mut Section<'_>) -> Option<u16> {
    section.optional("port", port::FORM, port::read)
}
