//! Why a measurement gave no result.

use std::fmt;

/// What was attempted, on what, and why it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    /// The measurement could not run: exit status 1.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::with_code(text, 1)
    }

    /// The arguments contradict each other, or name what does not exist: exit status 2, as in clap.
    pub(crate) fn arguments(text: impl Into<String>) -> Self {
        Self::with_code(text, 2)
    }

    /// The target does not answer: exit status 3.
    pub(crate) fn unreachable(text: impl Into<String>) -> Self {
        Self::with_code(text, 3)
    }

    fn with_code(text: impl Into<String>, code: u8) -> Self {
        Self {
            text: text.into(),
            code,
        }
    }

    /// The exit status.
    pub(crate) const fn code(&self) -> u8 {
        self.code
    }
}

impl From<vl3lb_testbed::TestbedError> for Failure {
    fn from(error: vl3lb_testbed::TestbedError) -> Self {
        Self::new(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
