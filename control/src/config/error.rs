//! An invalid setting.

use std::fmt;

/// One invalid setting: `services[1].port: 70000, allowed 1-65535`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Path of the key in the file, or name of the environment variable or file.
    pub field: String,
    /// The value as written.
    pub value: String,
    /// The valid values.
    pub allowed: String,
}

impl ConfigError {
    /// `value` is not allowed at `field`.
    pub fn new(field: impl Into<String>, value: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            value: value.into(),
            allowed: allowed.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, allowed {}", self.field, self.value, self.allowed)
    }
}

impl std::error::Error for ConfigError {}

/// All errors on one line, for the log.
pub fn join_errors(errors: &[ConfigError]) -> String {
    errors
        .iter()
        .map(ConfigError::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
