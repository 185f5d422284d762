//! The `healthCheck` of a service.

mod kind;
mod payload;
mod tls;

use serde::{Serialize, Serializer};
use serde_json::Value;
use vl3lb_common::{Duration, Protocol};

use super::document;
use super::duration;
use super::error::ConfigError;
use super::node::{self, Section};
use super::port;

pub use kind::{CheckKind, GrpcCheck, HttpCheck, PingCheck, StatusRange, TcpCheck, UdpCheck};
pub use payload::Payload;
pub use tls::Tls;

/// The health check of each backend of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HealthCheck {
    #[serde(flatten)]
    pub kind: CheckKind,
    /// Time between the starts of two checks.
    #[serde(serialize_with = "duration::serialize")]
    pub interval: Duration,
    /// Limit of one check; at most `interval`.
    #[serde(serialize_with = "duration::serialize")]
    pub timeout: Duration,
    /// Consecutive successful checks that bring a backend up.
    pub rise: u32,
    /// Consecutive failed checks that take a backend down.
    pub fall: u32,
}

impl HealthCheck {
    /// A check of the backend's port, with the default times and counts.
    pub const fn tcp() -> Self {
        Self {
            kind: CheckKind::TCP,
            interval: INTERVAL,
            timeout: TIMEOUT,
            rise: 2,
            fall: 3,
        }
    }

    /// Reads the value at `path`: `Some(None)` if there are to be no checks, `None` if it is invalid.
    pub(super) fn read_or_off(
        path: &str,
        value: &Value,
        errors: &mut Vec<ConfigError>,
    ) -> Option<Option<Self>> {
        match value {
            Value::Bool(false) => Some(None),
            Value::String(text) if text.eq_ignore_ascii_case(OFF) => Some(None),
            _ => Self::read(path, value, errors).map(Some),
        }
    }

    /// Reads the text of an annotation, which is the value of `healthCheck` in YAML: `Ok(None)` if there are to be no checks.
    ///
    /// # Errors
    /// All faults on one line.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let value = document::read_yaml(text).map_err(|_| "no YAML".to_owned())?;
        let mut errors = Vec::new();
        let check = Self::read_or_off("healthCheck", &value, &mut errors);
        match check {
            Some(check) if errors.is_empty() => Ok(check),
            _ => Err(super::join_errors(&errors)),
        }
    }

    /// Reads the mapping at `path`; `None` without a valid kind.
    fn read(path: &str, value: &Value, errors: &mut Vec<ConfigError>) -> Option<Self> {
        let mut section = Section::new(path, Some(value), &KNOWN, errors);
        let kind = CheckKind::read(&mut section);
        let interval = section
            .optional("interval", INTERVALS, |value| {
                let interval = duration::parse(&node::text(value)?).ok()?;
                (SHORTEST..=LONGEST).contains(&interval).then_some(interval)
            })
            .unwrap_or(INTERVAL);
        let timeouts = format!(
            "more than 0s and at most interval, {}",
            duration::format(interval)
        );
        let timeout = section.optional("timeout", &timeouts, |value| {
            let timeout = duration::parse(&node::text(value)?).ok()?;
            (!timeout.is_zero() && timeout <= interval).then_some(timeout)
        });
        let mut count = |key| {
            section.optional(key, COUNTS, |value| {
                node::number(value, 1..=100).and_then(|count| u32::try_from(count).ok())
            })
        };
        let (rise, fall) = (count("rise"), count("fall"));
        let default = Self::tcp();
        Some(Self {
            kind: kind?,
            interval,
            timeout: timeout.unwrap_or_else(|| TIMEOUT.min(interval)),
            rise: rise.unwrap_or(default.rise),
            fall: fall.unwrap_or(default.fall),
        })
    }

    /// Whether backends of a service of this protocol can answer it: at their own port they answer that protocol only. No
    /// check but ping is for SCTP.
    pub const fn suits(&self, protocol: Protocol) -> bool {
        match (&self.kind, protocol) {
            (CheckKind::Ping(_), _)
            | (CheckKind::Udp(_), Protocol::Udp)
            | (CheckKind::Tcp(_) | CheckKind::Http(_) | CheckKind::Grpc(_), Protocol::Tcp) => true,
            (kind, _) => kind.port().is_some(),
        }
    }

    /// An error for a check that needs a port, since the service's port has another protocol. `path` is the check's.
    pub(super) fn check_protocol(&self, path: &str, protocol: Protocol, errors: &mut Vec<ConfigError>) {
        if !self.suits(protocol) {
            let (key, other) = match &self.kind {
                CheckKind::Http(_) => ("http", Protocol::Tcp),
                CheckKind::Grpc(_) => ("grpc", Protocol::Tcp),
                CheckKind::Udp(_) => ("udp", Protocol::Udp),
                CheckKind::Tcp(_) | CheckKind::Ping(_) => ("tcp", Protocol::Tcp),
            };
            errors.push(ConfigError::new(
                format!("{path}.{key}.port"),
                "missing",
                format!(
                    "{}: the port at which the backends of a {protocol} service answer {other}",
                    port::FORM
                ),
            ));
        }
    }
}

const KNOWN: [&str; 9] = [
    "tcp", "http", "grpc", "udp", "ping", "interval", "timeout", "rise", "fall",
];

/// No checks, where they are the default.
const OFF: &str = "off";

/// As the file says it.
pub(super) fn serialize<S: Serializer>(
    check: &Option<HealthCheck>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match check {
        Some(check) => check.serialize(serializer),
        None => serializer.serialize_str(OFF),
    }
}

const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3600);
const INTERVALS: &str = "a duration from 100ms to 1h, such as 2s";
const COUNTS: &str = "1-100";
