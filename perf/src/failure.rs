//! Why a measurement gave no result.

use std::fmt;

/// What was attempted, on what, and why it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The exit status: 1, the measurement could not run. Wrong arguments end with 2, in clap.
    pub(crate) const fn code(&self) -> u8 {
        1
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
