//! Counts in a file of the repository, and the changes since.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::report::header::document;
use crate::report::save;

/// Instructions per packet, by kind of packet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Baseline {
    /// The compiler of the counted program.
    pub(super) compiler: String,
    instructions_per_packet: BTreeMap<String, f64>,
}

/// The change of one kind of packet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    kind: String,
    /// `None` if the baseline does not have this kind.
    before: Option<f64>,
    now: f64,
    /// By more than the tolerance.
    pub(super) grown: bool,
}

impl Baseline {
    pub(super) fn new(compiler: &str) -> Self {
        Self {
            compiler: compiler.to_owned(),
            instructions_per_packet: BTreeMap::new(),
        }
    }

    pub(super) fn insert(&mut self, kind: String, count: f64) {
        self.instructions_per_packet.insert(kind, count);
    }

    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let attempt = format!("read {} (--update writes it)", path.display());
        let text = fs::read_to_string(path).map_err(Failure::system(attempt))?;
        serde_json::from_str(&text).map_err(|cause| Failure::Document {
            path: path.to_owned(),
            cause,
            remedy: "; --update writes it",
        })
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), Failure> {
        save(path, document(self))
    }

    /// A line for each kind.
    pub(super) fn to_text(&self) -> String {
        let counts = self.instructions_per_packet.iter();
        counts
            .map(|(kind, count)| format!("{kind}: {count} instructions per packet\n"))
            .collect()
    }

    /// The changes of all kinds. Growth up to `tolerance` percent is allowed.
    pub(super) fn compare(&self, now: &Self, tolerance: f64) -> Vec<Change> {
        let counts = now.instructions_per_packet.iter();
        counts
            .map(|(kind, &now)| {
                let before = self.instructions_per_packet.get(kind).copied();
                Change {
                    kind: kind.clone(),
                    before,
                    now,
                    grown: before.is_none_or(|before| now > before * (1.0 + tolerance / 100.0)),
                }
            })
            .collect()
    }
}

impl Change {
    /// One line.
    pub(super) fn to_text(&self) -> String {
        let Self {
            kind,
            before,
            now,
            grown,
        } = self;
        let verdict = if *grown { "MORE" } else { "ok" };
        match before {
            Some(before) => {
                let percent = (now / before - 1.0) * 100.0;
                format!(
                    "{kind}: {now} instructions per packet, {before} in the baseline ({percent:+.1}%) {verdict}\n"
                )
            }
            None => format!("{kind}: {now} instructions per packet, none in the baseline {verdict}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(counts: &[(&str, f64)]) -> Baseline {
        let mut baseline = Baseline::new("rustc 1");
        for &(kind, count) in counts {
            baseline.insert(kind.to_owned(), count);
        }
        baseline
    }

    #[test]
    fn only_growth_beyond_the_tolerance_is_reported() {
        let before = baseline(&[("request", 1000.0), ("reply", 1000.0), ("gone", 1.0)]);
        let now = baseline(&[("request", 1029.0), ("reply", 1031.0), ("new", 5.0)]);
        let grown: Vec<(String, bool)> = before
            .compare(&now, 3.0)
            .into_iter()
            .map(|change| (change.kind, change.grown))
            .collect();
        let expected = [("new", true), ("reply", true), ("request", false)];
        assert_eq!(grown, expected.map(|(kind, grown)| (kind.to_owned(), grown)));
        assert!(
            before
                .compare(&baseline(&[("request", 10.0)]), 3.0)
                .iter()
                .all(|change| !change.grown)
        );
    }

    #[test]
    fn a_change_is_shown_in_percent() {
        let change = &baseline(&[("reply", 1000.0)]).compare(&baseline(&[("reply", 1100.0)]), 3.0)[0];
        assert_eq!(
            change.to_text(),
            "reply: 1100 instructions per packet, 1000 in the baseline (+10.0%) MORE\n"
        );
    }

    #[test]
    fn a_baseline_is_read_as_it_was_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let written = baseline(&[("request", 911.5)]);
        written.write(file.path()).unwrap();
        assert_eq!(Baseline::read(file.path()).unwrap(), written);
        fs::write(file.path(), "{}").unwrap();
        let error = Baseline::read(file.path()).unwrap_err().to_string();
        assert!(error.contains("--update writes it"), "{error}");
    }
}
