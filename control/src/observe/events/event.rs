//! A change of state, before it has a number and a time.

use std::net::SocketAddr;

use crate::api::{self, EventCode, Severity, Time};
use crate::one_line::one_line;

/// A change of state, for the log and for readers of events. With number and time, it is an
/// [`api::Event`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub code: EventCode,
    pub severity: Severity,
    pub service: Option<String>,
    pub backend: Option<SocketAddr>,
    /// The old state and the new one.
    pub from: Option<String>,
    pub to: Option<String>,
    pub text: String,
}

impl Event {
    /// An event of severity info, about no service in particular.
    pub const fn new(code: EventCode, text: String) -> Self {
        Self {
            code,
            severity: Severity::Info,
            service: None,
            backend: None,
            from: None,
            to: None,
            text,
        }
    }

    /// An event of severity warn, about no service in particular.
    pub fn warn(code: EventCode, text: String) -> Self {
        Self {
            severity: Severity::Warn,
            ..Self::new(code, text)
        }
    }

    /// An event of severity error, about no service in particular.
    pub fn error(code: EventCode, text: String) -> Self {
        Self {
            severity: Severity::Error,
            ..Self::new(code, text)
        }
    }

    /// Sets the old state and the new one.
    #[must_use]
    pub fn transition(self, from: &str, to: &str) -> Self {
        Self {
            from: Some(from.to_owned()),
            to: Some(to.to_owned()),
            ..self
        }
    }

    /// Sets the service that it is about.
    #[must_use]
    pub fn of_service(self, service: &str) -> Self {
        Self {
            service: Some(service.to_owned()),
            ..self
        }
    }

    /// With the control characters of its texts escaped: they may be those of others.
    pub(super) fn on_one_line(self) -> Self {
        Self {
            from: self.from.map(one_line),
            to: self.to.map(one_line),
            text: one_line(self.text),
            ..self
        }
    }

    /// The event as readers see it; its number is still 0.
    pub(super) fn at(self, time: Time) -> api::Event {
        api::Event {
            sequence: 0,
            time,
            severity: self.severity,
            code: self.code,
            service: self.service,
            backend: self.backend,
            from: self.from,
            to: self.to,
            text: self.text,
        }
    }
}
