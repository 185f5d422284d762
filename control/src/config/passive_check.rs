//! The `passiveCheck` of a service: backends that fail the flows of clients get none for a while.

use serde::Serialize;
use serde_json::Value;
use vl3lb_common::Duration;

use super::error::ConfigError;
use super::node::{self, Section};
use super::{document, duration};

/// When and how long a backend is held off that fails new flows: by RST, by silence, or by ICMP unreachable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PassiveCheck {
    /// Consecutive new flows that it fails.
    pub failures: u32,
    /// How long it is held off the first time; each time in a row twice as long.
    #[serde(serialize_with = "duration::serialize")]
    pub hold_off: Duration,
    /// At most so long.
    #[serde(serialize_with = "duration::serialize")]
    pub max_hold_off: Duration,
}

impl Default for PassiveCheck {
    fn default() -> Self {
        Self {
            failures: 5,
            hold_off: Duration::from_secs(10),
            max_hold_off: Duration::from_secs(300),
        }
    }
}

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const HOLD_OFFS: &str = "a duration from 1s to 24h, such as 10s";

impl PassiveCheck {
    /// Reads the text of an annotation, which is the value of `passiveCheck` in YAML.
    ///
    /// # Errors
    /// All faults on one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value = document::read_yaml(text).map_err(|_| "no YAML".to_owned())?;
        let mut errors = Vec::new();
        match Self::read("passiveCheck", &value, &mut errors) {
            Some(check) if errors.is_empty() => Ok(check),
            _ => Err(super::join_errors(&errors)),
        }
    }

    /// Reads the mapping at `path`.
    pub(super) fn read(path: &str, value: &Value, errors: &mut Vec<ConfigError>) -> Option<Self> {
        let known = ["failures", "holdOff", "maxHoldOff"];
        let mut section = Section::new(path, Some(value), &known, errors);
        if !value.is_object() {
            return None;
        }
        let default = Self::default();
        let failures = section.optional("failures", "1-1000", |value| {
            u32::try_from(node::number(value, 1..=1000)?).ok()
        });
        let hold_off = section.optional("holdOff", HOLD_OFFS, |value| {
            let time = duration::parse(&node::text(value)?).ok()?;
            (SHORTEST..=LONGEST).contains(&time).then_some(time)
        });
        let hold_off = hold_off.unwrap_or(default.hold_off);
        let allowed = format!("a duration from holdOff, {}, to 24h", duration::format(hold_off));
        let max_hold_off = section.optional("maxHoldOff", &allowed, |value| {
            let time = duration::parse(&node::text(value)?).ok()?;
            (hold_off..=LONGEST).contains(&time).then_some(time)
        });
        Some(Self {
            failures: failures.unwrap_or(default.failures),
            hold_off,
            max_hold_off: max_hold_off.unwrap_or_else(|| default.max_hold_off.max(hold_off)),
        })
    }
}
