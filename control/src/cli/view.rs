//! How a command writes its answer.

use std::io::{IsTerminal, Write};

use serde_json::Value;

use super::args::{ColorChoice, Global, Output};
use super::exit::{Failure, FailureKind};
use super::number::Digits;

/// The form of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    pub format: Output,
    pub headings: bool,
    pub color: bool,
    pub digits: Digits,
    /// Whether a person sees the output; context lines are for them.
    pub terminal: bool,
}

impl View {
    /// From the flags and where standard output goes.
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

    /// Whether the answer is shown to people in the long form.
    pub(super) fn wide(&self) -> bool {
        self.format == Output::Wide
    }
}

/// Whether the environment lets a terminal have colours (no-color.org).
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

/// Writes a line for people to standard error; one that cannot be written is lost.
pub(super) fn note(line: &str) {
    writeln!(std::io::stderr(), "{line}").ok();
}

/// Writes a JSON document: whole, or its items line by line.
pub(super) fn print_json(document: &[u8], format: Output) -> Result<(), Failure> {
    if format != Output::Jsonl {
        print(document)?;
        return print(b"\n");
    }
    let document: Value = serde_json::from_slice(document).map_err(|error| unreadable(&error))?;
    let mut lines = String::new();
    for item in document["items"].as_array().into_iter().flatten() {
        lines.push_str(&item.to_string());
        lines.push('\n');
    }
    print(lines.as_bytes())
}

/// An answer in a shape that this program does not know.
pub(super) fn unreadable(error: &serde_json::Error) -> Failure {
    Failure::new(
        FailureKind::Answered,
        format!("read the balancer's answer: {error}"),
    )
    .hint("is the balancer of another version? compare `vl3-lb --version` with `-o json` of status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_can_forbid_colours() {
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
