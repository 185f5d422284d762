//! A value that is not allowed, as people are told about it.

use std::fmt;

/// One thing that is wrong with a configuration: `services[1].port: 70000, allowed 1-65535`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Path of the key in the file, or name of the environment variable or file.
    pub field: String,
    /// What stands there, as it was written.
    pub value: String,
    /// What may stand there.
    pub allowed: String,
}

impl Refusal {
    /// Refuses `value` at `field`.
    pub fn new(field: impl Into<String>, value: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            value: value.into(),
            allowed: allowed.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, allowed {}", self.field, self.value, self.allowed)
    }
}

impl std::error::Error for Refusal {}

/// Several refusals on one line, for a log.
pub fn join(refusals: &[Refusal]) -> String {
    refusals
        .iter()
        .map(Refusal::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
