//! The events of a change of state of a service or backend.

use crate::api::{EventCode, ServiceState, Severity};
use crate::observe::events::Event;
use crate::state;

impl From<&state::Event> for Event {
    fn from(event: &state::Event) -> Self {
        let text = event.to_string();
        match event {
            state::Event::ServiceAdded { name } => Self::new(EventCode::ServiceAdded, text).of_service(name),
            state::Event::ServiceRemoved { name } => {
                Self::new(EventCode::ServiceRemoved, text).of_service(name)
            }
            state::Event::Service { name, from, to, .. } => Self {
                severity: match to {
                    ServiceState::Down => Severity::Error,
                    ServiceState::Degraded => Severity::Warn,
                    ServiceState::Ok => Severity::Info,
                },
                ..Self::new(EventCode::ServiceState, text)
                    .of_service(name)
                    .transition(from, to.name())
            },
            state::Event::Backend {
                service,
                backend,
                from,
                to,
                ..
            } => Self {
                // One of several backends; a service without backends has its own error.
                severity: if *to == "down" {
                    Severity::Warn
                } else {
                    Severity::Info
                },
                backend: Some(*backend),
                ..Self::new(EventCode::BackendState, text)
                    .of_service(service)
                    .transition(from, to)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::report::fixture;

    #[test]
    fn a_down_backend_is_a_warning() {
        let backend = |to| {
            Event::from(&state::Event::Backend {
                service: "ledger".to_owned(),
                backend: "172.16.1.9:9000".parse().unwrap(),
                from: "up",
                to,
                reason: "tcp connect refused (2 of 2)".into(),
            })
        };
        let down = backend("down");
        assert_eq!(
            down.text,
            "backend ledger/172.16.1.9:9000 up -> down: tcp connect refused (2 of 2)"
        );
        assert_eq!(down.severity, Severity::Warn);
        assert_eq!(
            (down.from.as_deref(), down.to.as_deref()),
            (Some("up"), Some("down"))
        );
        assert_eq!(backend("draining").severity, Severity::Info);
    }

    #[test]
    fn a_service_without_backends_is_an_error() {
        let severities: Vec<_> = fixture::changes()
            .iter()
            .map(Event::from)
            .filter(|event| event.code == EventCode::ServiceState)
            .map(|event| (event.severity, event.text))
            .collect();
        assert_eq!(
            severities,
            [
                (
                    Severity::Error,
                    "service ledger ok -> down: no backend up (0 of 2); new flows are refused".to_owned()
                ),
                (
                    Severity::Info,
                    "service ledger down -> ok: 2 of 2 backends up".to_owned()
                ),
            ]
        );
    }
}
