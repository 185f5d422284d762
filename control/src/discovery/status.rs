//! The state of a source, for status and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::Origin;
use crate::api::NsmDiscovery;

/// The state of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatus {
    pub origin: Origin,
    /// Whether the last set is complete and current.
    pub synced: bool,
    /// When the set in use was last known to be current; `None` before the first set.
    pub loaded: Option<SystemTime>,
    /// When the last event or error came from the source.
    pub last_event: Option<SystemTime>,
    /// Why the source cannot be read or its newest state is refused.
    pub error: Option<String>,
    /// The parts that the set in use lacks.
    pub missing: Vec<Missing>,
    /// Services, pods and endpoints that the set in use lacks, by the reason: one word in CamelCase.
    pub left_out: BTreeMap<&'static str, u64>,
    /// Sets read, or changes where the source reports changes.
    pub events: u64,
    /// Sets that were refused or could not be read.
    pub errors: ErrorCounts,
    /// The streams of the source `nsm`; `None` for others.
    pub nsm: Option<Arc<NsmDiscovery>>,
}

impl SourceStatus {
    /// A source before its first event.
    pub const fn new(origin: Origin) -> Self {
        Self {
            origin,
            synced: false,
            loaded: None,
            last_event: None,
            error: None,
            missing: Vec::new(),
            left_out: BTreeMap::new(),
            events: 0,
            errors: ErrorCounts::NONE,
            nsm: None,
        }
    }
}

/// Objects that a source may not read. Its sets lack services and backends that depend on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The plural name of the resource, as in RBAC rules.
    pub kind: String,
    /// `None`: all namespaces, or objects of the cluster.
    pub namespace: Option<String>,
    /// The place in words.
    pub place: String,
    /// The error with the attempt and the remedy.
    pub reason: Option<String>,
    pub since: SystemTime,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "{reason}"),
            None => write!(f, "{} in {} cannot be listed", self.kind, self.place),
        }
    }
}

/// Why a source fails. Each reason has its own remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorReason {
    /// No answer, or a broken one: look at the network and the server.
    Unreachable,
    /// Not allowed: look at the Role.
    Forbidden,
    /// The credentials are refused: look at the token.
    Expired,
    /// Another error of the server: see its text.
    Refused,
    /// The content is invalid: correct it.
    Invalid,
    /// A file cannot be read: look at its path and mode.
    Io,
}

impl ErrorReason {
    /// All reasons, in the order of the variants.
    pub const ALL: [Self; 6] = [
        Self::Unreachable,
        Self::Forbidden,
        Self::Expired,
        Self::Refused,
        Self::Invalid,
        Self::Io,
    ];

    /// The value in JSON and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Forbidden => "forbidden",
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Io => "io",
        }
    }
}

/// Failures of a source by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrorCounts([u64; ErrorReason::ALL.len()]);

impl ErrorCounts {
    /// No failure.
    pub const NONE: Self = Self([0; ErrorReason::ALL.len()]);

    /// Counts one.
    pub const fn count(&mut self, reason: ErrorReason) {
        self.0[reason as usize] += 1;
    }

    /// Adds the counts of `more`.
    pub fn add(&mut self, more: Self) {
        for (count, more) in self.0.iter_mut().zip(more.0) {
            *count += more;
        }
    }

    /// The sum over all reasons.
    pub fn total(self) -> u64 {
        self.0.iter().sum()
    }

    /// Each reason with its count, including zeros.
    pub fn by_reason(self) -> impl Iterator<Item = (ErrorReason, u64)> {
        ErrorReason::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_count_of_its_own() {
        let mut counts = ErrorCounts::NONE;
        for (times, reason) in (1_u64..).zip(ErrorReason::ALL) {
            for _ in 0..times {
                counts.count(reason);
            }
        }
        let mut twice = counts;
        twice.add(counts);
        for (times, (reason, count)) in (1_u64..).zip(twice.by_reason()) {
            assert_eq!(count, 2 * times, "{}", reason.name());
        }
        assert_eq!(twice.total(), 42);
    }
}
