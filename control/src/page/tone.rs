//! Whether something is good or bad, as a colour, a glyph and a class.

use crate::api::{BackendState, ServiceState, Severity, Verdict};

/// Good or bad. Nothing shows it by colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Warn,
    Bad,
    Info,
}

impl Tone {
    pub(super) const fn of_verdict(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Ready => Self::Good,
            Verdict::Degraded | Verdict::Draining => Self::Warn,
            Verdict::NotReady => Self::Bad,
        }
    }

    pub(super) const fn of_severity(severity: Severity) -> Self {
        match severity {
            Severity::Error => Self::Bad,
            Severity::Warn => Self::Warn,
            Severity::Info => Self::Info,
        }
    }

    pub(super) const fn of_service(state: ServiceState) -> Self {
        match state {
            ServiceState::Ok => Self::Good,
            ServiceState::Degraded => Self::Warn,
            ServiceState::Down => Self::Bad,
        }
    }

    pub(super) const fn of_backend(state: BackendState) -> Self {
        match state {
            BackendState::Up => Self::Good,
            BackendState::Draining | BackendState::Unknown => Self::Warn,
            BackendState::Down => Self::Bad,
        }
    }

    /// The class of elements.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Info => "info",
        }
    }

    /// Stands beside the word.
    pub(super) const fn glyph(self) -> &'static str {
        match self {
            Self::Good => "\u{2713}",
            Self::Warn => "!",
            Self::Bad => "x",
            Self::Info => "i",
        }
    }

    /// Six hexadecimal digits; the same as in `page.css`.
    pub(super) const fn color(self) -> &'static str {
        match self {
            Self::Good => "009e73",
            Self::Warn => "e69f00",
            Self::Bad => "d55e00",
            Self::Info => "56b4e9",
        }
    }

    /// The page's icon as a data URI.
    pub(super) fn icon(self) -> String {
        format!(
            "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' \
             r='7' fill='%23{}'/%3E%3C/svg%3E",
            self.color()
        )
    }
}
