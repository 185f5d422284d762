//! An invalid setting.

use std::fmt;

use crate::one_line::OneLine;

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

/// On one line.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            value,
            allowed,
        } = self;
        let (field, value, allowed) = (OneLine(field), OneLine(value), OneLine(allowed));
        write!(f, "{field}: {value}, allowed {allowed}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_the_input_are_escaped() {
        let error = ConfigError::new("dns.a\nb", "x\u{1b}[2Jy\u{9b}", "größe, \"z\"\t");
        assert_eq!(
            error.to_string(),
            "dns.a\\nb: x\\u{1b}[2Jy\\u{9b}, allowed größe, \"z\"\\t"
        );
    }
}
