//! Failures of commands and their exit status.

use std::fmt;

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// The attempt, its object and the cause. Empty if it was printed already.
    pub error: String,
    /// The next command or change.
    pub hint: Option<String>,
}

/// Kinds of failure; each has its own exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The balancer answered with an error, or a named object does not exist.
    Answered,
    /// Arguments or configuration were refused.
    Refused,
    /// The balancer cannot be reached.
    Unreachable,
    /// `status --check`: reachable, but not ready or degraded.
    Degraded,
    /// Ctrl-C.
    Interrupted,
    /// SIGTERM or SIGHUP, where the command takes them.
    Terminated,
    /// The reader of the output closed it: success.
    OutputClosed,
}

impl FailureKind {
    /// The exit status.
    pub const fn code(self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Answered => 1,
            Self::Refused => 2,
            Self::Unreachable => 3,
            Self::Degraded => 4,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

impl Failure {
    /// A failure without a hint.
    pub fn new(kind: FailureKind, error: impl Into<String>) -> Self {
        Self {
            kind,
            error: error.into(),
            hint: None,
        }
    }

    /// Adds the next command or change.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.error.is_empty() {
            writeln!(f, "error: {}", self.error)?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "hint: {hint}")?;
        }
        Ok(())
    }
}

impl From<clap::Error> for Failure {
    /// Invalid arguments.
    fn from(error: clap::Error) -> Self {
        Self::new(FailureKind::Refused, error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    /// An error of a write to the output.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::new(FailureKind::OutputClosed, "")
        } else {
            Self::new(FailureKind::Answered, format!("write output: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_prints_its_error_and_hint() {
        let failure = Failure::new(FailureKind::Answered, "services: no service \"finanse\"")
            .hint("vl3-lb services lists them");
        assert_eq!(
            failure.to_string(),
            "error: services: no service \"finanse\"\nhint: vl3-lb services lists them\n"
        );
    }

    #[test]
    fn a_closed_pipe_is_success() {
        let failure = Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!(failure.kind.code(), 0);
        assert_eq!(failure.to_string(), "");
        let full = Failure::from(std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert_eq!(full.kind.code(), 1);
    }
}
