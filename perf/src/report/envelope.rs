//! What every JSON document begins with: which tool was run how, where, and what for.

use serde_json::{Map, Value, json};

use super::environment::Environment;

/// Raised when a key changes its meaning or goes away.
const SCHEMA: u32 = 1;

/// The part that documents of all commands have in common; each adds `runs`, `summary` and `verdict`.
pub(crate) fn envelope(
    command: &[String],
    environment: &Environment,
    parameters: &Value,
) -> Map<String, Value> {
    let fields = [
        ("schema", json!(SCHEMA)),
        (
            "tool",
            json!({
                "name": "vl3-perf",
                "version": env!("CARGO_PKG_VERSION"),
                "revision": env!("VL3LB_REVISION"),
            }),
        ),
        ("command", json!(command)),
        ("environment", json!(environment)),
        ("parameters", parameters.clone()),
    ];
    fields
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// The document as text.
pub(crate) fn text(document: Map<String, Value>) -> String {
    format!("{:#}\n", Value::Object(document))
}

/// When something began, as RFC 3339 in UTC.
pub(crate) fn time(time: std::time::SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
