//! The rules of a service for new flows, beside its scheduler.

use std::num::NonZeroU32;

use serde::Serialize;
use vl3lb_common::Duration;

use super::duration;
use super::names;
use super::node::{self, Section};
use super::passive_check::PassiveCheck;

/// The rules of a service for new flows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct FlowRules {
    /// The time in which the share of a backend that comes up grows to its weight; zero: it has it at once.
    #[serde(serialize_with = "duration::serialize")]
    pub slow_start: Duration,
    /// Flows of one backend at most, all workers together; `None`: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_flows_per_backend: Option<NonZeroU32>,
    pub when_all_down: WhenAllDown,
    /// `None`: failures of new flows are counted, and decide nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive_check: Option<PassiveCheck>,
}

/// What new flows get when all backends of a service are down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenAllDown {
    /// They are refused.
    #[default]
    FailClosed,
    /// Any of the backends, as if it were up: the checks may be at fault.
    FailOpen,
}

const WHEN_ALL_DOWN: &[(&str, WhenAllDown)] = &[
    ("fail-closed", WhenAllDown::FailClosed),
    ("fail-open", WhenAllDown::FailOpen),
];
const LONGEST_SLOW_START: Duration = Duration::from_secs(3600);
const MAX_FLOWS: std::ops::RangeInclusive<u32> = 1..=1 << 28;

impl FlowRules {
    /// The keys of a service that are rules.
    pub(super) const KEYS: [&'static str; 4] =
        ["slowStart", "maxFlowsPerBackend", "whenAllDown", "passiveCheck"];

    /// Reads them from a service.
    pub(super) fn read(service: &mut Section<'_>) -> Self {
        let slow = service.optional("slowStart", &slow_starts(), |value| {
            slow_start(&node::text(value)?)
        });
        let max = service.optional("maxFlowsPerBackend", MAX_FLOWS_FORM, |value| {
            let range = u64::from(*MAX_FLOWS.start())..=u64::from(*MAX_FLOWS.end());
            u32::try_from(node::number(value, range)?)
                .ok()
                .and_then(NonZeroU32::new)
        });
        let passive = service.value("passiveCheck").and_then(|value| {
            let path = service.path("passiveCheck");
            PassiveCheck::read(&path, value, service.errors())
        });
        let when = service.optional("whenAllDown", &when_all_down_names(), |value| {
            when_all_down(value.as_str()?)
        });
        Self {
            slow_start: slow.unwrap_or_default(),
            max_flows_per_backend: max,
            when_all_down: when.unwrap_or_default(),
            passive_check: passive,
        }
    }
}

/// The valid limits, for errors.
pub const MAX_FLOWS_FORM: &str = "1-268435456";

/// Parses the limit of flows of an annotation.
pub fn max_flows(text: &str) -> Option<NonZeroU32> {
    let limit: u32 = text.parse().ok()?;
    MAX_FLOWS
        .contains(&limit)
        .then(|| NonZeroU32::new(limit))
        .flatten()
}

/// Parses the time of a slow start.
pub fn slow_start(text: &str) -> Option<Duration> {
    duration::parse(text)
        .ok()
        .filter(|time| *time <= LONGEST_SLOW_START)
}

/// The valid times of a slow start, for errors.
pub fn slow_starts() -> String {
    format!(
        "{}, up to {}",
        duration::FORM,
        duration::format(LONGEST_SLOW_START)
    )
}

/// Parses the behaviour of a service whose backends are all down.
pub fn when_all_down(text: &str) -> Option<WhenAllDown> {
    names::choice(WHEN_ALL_DOWN, text)
}

/// The names of the behaviours, for errors.
pub fn when_all_down_names() -> String {
    names::listed(WHEN_ALL_DOWN)
}
