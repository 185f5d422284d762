//! Something that happened, before it has a number and a time.

use std::net::SocketAddr;

use crate::api::{Event, EventCode, ServiceState, Severity, Time};

use crate::state;

/// What is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    pub code: EventCode,
    pub severity: Severity,
    pub service: Option<String>,
    pub backend: Option<SocketAddr>,
    /// The old state and the new one.
    pub from: Option<String>,
    pub to: Option<String>,
    pub text: String,
}

impl Happening {
    /// Something of no service in particular, as it should be.
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

    /// Something that works with less from now on.
    pub fn warn(code: EventCode, text: String) -> Self {
        Self {
            severity: Severity::Warn,
            ..Self::new(code, text)
        }
    }

    /// With the old state and the new one.
    #[must_use]
    pub fn turn(self, from: &str, to: &str) -> Self {
        Self {
            from: Some(from.to_owned()),
            to: Some(to.to_owned()),
            ..self
        }
    }

    /// About a service.
    #[must_use]
    pub fn of(self, service: &str) -> Self {
        Self {
            service: Some(service.to_owned()),
            ..self
        }
    }

    /// The event, without its number.
    pub(super) fn at(self, time: Time) -> Event {
        Event {
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

impl From<&state::Event> for Happening {
    fn from(event: &state::Event) -> Self {
        let text = event.to_string();
        match event {
            state::Event::ServiceAdded { name } => Self::new(EventCode::ServiceAdded, text).of(name),
            state::Event::ServiceRemoved { name } => Self::new(EventCode::ServiceRemoved, text).of(name),
            state::Event::Service { name, from, to, .. } => Self {
                severity: match to {
                    ServiceState::Down => Severity::Error,
                    ServiceState::Degraded => Severity::Warn,
                    ServiceState::Ok => Severity::Info,
                },
                ..Self::new(EventCode::ServiceState, text)
                    .of(name)
                    .turn(from, to.name())
            },
            state::Event::Backend {
                service,
                backend,
                from,
                to,
                ..
            } => Self {
                // A backend that fails is one of several; a service without any is an error of its own.
                severity: if *to == "down" {
                    Severity::Warn
                } else {
                    Severity::Info
                },
                backend: Some(*backend),
                ..Self::new(EventCode::BackendState, text)
                    .of(service)
                    .turn(from, to)
            },
        }
    }
}
