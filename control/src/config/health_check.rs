//! The `healthCheck` of a service.

use serde::{Serialize, Serializer};
use serde_json::Value;
use vl3lb_common::{Duration, Protocol};

use super::duration;
use super::error::ConfigError;
use super::node::{self, Section};
use super::port;

/// The health check of each backend of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HealthCheck {
    /// Opens a TCP connection and closes it again.
    pub tcp: TcpCheck,
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

/// A check by a TCP connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TcpCheck {
    /// `None`: the backend's own port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl HealthCheck {
    /// A check of the backend's port, with the default times and counts.
    pub const fn tcp() -> Self {
        Self {
            tcp: TcpCheck { port: None },
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

    /// Reads the mapping at `path`; `None` without a valid `tcp`.
    fn read(path: &str, value: &Value, errors: &mut Vec<ConfigError>) -> Option<Self> {
        let known = ["tcp", "interval", "timeout", "rise", "fall"];
        let mut section = Section::new(path, Some(value), &known, errors);
        let tcp = read_tcp(&mut section);
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
            tcp: tcp?,
            interval,
            timeout: timeout.unwrap_or_else(|| TIMEOUT.min(interval)),
            rise: rise.unwrap_or(default.rise),
            fall: fall.unwrap_or(default.fall),
        })
    }

    /// A check of a UDP service needs a port, since the service's port does not answer TCP. `path` is the check's.
    pub(super) fn check_protocol(&self, path: &str, protocol: Protocol, errors: &mut Vec<ConfigError>) {
        if protocol == Protocol::Udp && self.tcp.port.is_none() {
            errors.push(ConfigError::new(
                format!("{path}.tcp.port"),
                "missing",
                format!(
                    "{}: the port at which the backends of a UDP service answer TCP",
                    port::FORM
                ),
            ));
        }
    }
}

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
const KINDS: &str = "tcp: {} for the backends' own port, or tcp: {port: 1-65535}";

fn read_tcp(section: &mut Section<'_>) -> Option<TcpCheck> {
    section.required("tcp", KINDS, |value| value.is_object().then_some(()))?;
    let value = section.value("tcp");
    let path = section.path("tcp");
    let mut tcp = Section::new(&*path, value, &["port"], section.errors());
    let port = tcp.optional("port", port::FORM, port::read);
    Some(TcpCheck { port })
}
