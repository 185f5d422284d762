//! Output: formats, colours, and where to write.

use std::io::{IsTerminal, Write};

use serde_json::Value;

use super::args::{ColorChoice, Global, Output};
use super::client::read;
use super::exit::Failure;
use crate::number::Digits;

/// The form of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    pub format: Output,
    pub headings: bool,
    pub color: bool,
    pub digits: Digits,
    /// Whether the output is a terminal, which also gets context lines.
    pub terminal: bool,
}

impl View {
    /// From the flags and the kind of standard output.
    pub(super) fn new(global: &Global) -> Self {
        let format = global.format();
        let terminal = std::io::stdout().is_terminal();
        let tables = matches!(format, Output::Table | Output::Wide);
        let color = match global.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && colors_wanted(|name| std::env::var(name).ok()),
        };
        Self {
            format,
            headings: !global.no_headers,
            color: color && tables,
            digits: if global.exact {
                Digits::Exact
            } else {
                Digits::Short
            },
            terminal,
        }
    }

    /// Whether tables have the additional columns.
    pub(super) fn wide(&self) -> bool {
        self.format == Output::Wide
    }
}

/// Whether the environment allows colours on a terminal (no-color.org).
fn colors_wanted(env: impl Fn(&str) -> Option<String>) -> bool {
    env("NO_COLOR").is_none_or(|value| value.is_empty()) && env("TERM").is_none_or(|term| term != "dumb")
}

/// Writes to standard output.
///
/// Errors: a closed pipe is [`FailureKind::OutputClosed`].
pub(super) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// Writes a line to standard error. An error is ignored.
pub(super) fn note(line: &str) {
    writeln!(std::io::stderr(), "{line}").ok();
}

/// Writes a JSON document, or its items, one per line.
pub(super) fn print_json(document: &[u8], format: Output) -> Result<(), Failure> {
    if format != Output::Jsonl {
        print(document)?;
        return print(b"\n");
    }
    let document: Value = read(document)?;
    let mut lines = String::new();
    for item in document["items"].as_array().into_iter().flatten() {
        lines.push_str(&item.to_string());
        lines.push('\n');
    }
    print(lines.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_can_disable_colours() {
        for (name, value, want) in [
            ("NO_COLOR", "1", false),
            ("NO_COLOR", "", true),
            ("TERM", "dumb", false),
            ("TERM", "xterm", true),
        ] {
            let env = |asked: &str| (asked == name).then(|| value.to_owned());
            assert_eq!(colors_wanted(env), want, "{name}={value}");
        }
    }
}
