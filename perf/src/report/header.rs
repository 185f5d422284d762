//! The beginning of every JSON document: tool, command and machine.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::environment::Environment;

/// Raised when a key changes its meaning or is removed.
const SCHEMA: u32 = 2;

/// The keys that documents of all commands have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(super) schema: u32,
    pub(super) tool: Tool,
    /// The command line.
    pub(crate) command: Vec<String>,
    pub(crate) environment: Environment,
}

/// This program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) version: String,
    /// The commit.
    pub(super) revision: String,
}

impl Header {
    /// Of this process.
    pub(crate) fn new(environment: Environment) -> Self {
        Self {
            schema: SCHEMA,
            tool: Tool {
                name: "vl3-perf".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                revision: env!("VL3LB_REVISION").to_owned(),
            },
            command: std::env::args().collect(),
            environment,
        }
    }
}

/// A report as a JSON document.
///
/// # Panics
///
/// A map of the report has keys that are neither strings nor numbers.
pub(crate) fn document(report: &impl Serialize) -> String {
    serde_json::to_string_pretty(report).expect("maps have strings as keys") + "\n"
}

/// RFC 3339 in UTC, in milliseconds.
pub(crate) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
