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

/// On one line: control characters of the input are escaped, as they could forge lines of a log and steer a terminal.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.field)?;
        f.write_str(": ")?;
        write_escaped(f, &self.value)?;
        f.write_str(", allowed ")?;
        write_escaped(f, &self.allowed)
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for part in text.split_inclusive(char::is_control) {
        let mut letters = part.chars();
        match letters.next_back().filter(|last| last.is_control()) {
            Some(control) => write!(f, "{}{}", letters.as_str(), control.escape_default())?,
            None => f.write_str(part)?,
        }
    }
    Ok(())
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
