//! Port numbers.

use serde_json::Value;

use super::node;

/// The valid ports, for errors.
pub(super) const FORM: &str = "1-65535";

/// Reads a YAML number.
pub(super) fn read(value: &Value) -> Option<u16> {
    node::number(value, 1..=65_535).and_then(|port| u16::try_from(port).ok())
}

/// Reads the text of an environment variable.
pub(super) fn parse(text: &str) -> Option<u16> {
    text.parse().ok().filter(|&port| port > 0)
}
