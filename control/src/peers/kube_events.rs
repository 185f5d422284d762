//! Kubernetes Events: what an operator must know, on the Service that it concerns if there is one, else on the
//! balancer's pod.
//!
//! One Event for each change; Kubernetes counts repeats. Each balancer of the group reports what it observes, and
//! `reportingInstance` names it. Events that do not fit into `event_queue` are counted as dropped.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::api_calls::{Call, CallError, Resource, Role};
use super::context::Context;
use super::event_queue::EventQueue;
use super::identity::Identity;
use super::kube_services::KubeServices;
use crate::api::{self, EventCode};
use crate::discovery::{Accepted, Refused};
use crate::kubernetes::names::CONTROLLER;
use crate::observe::events::Subscription;

/// Bytes of a note (Kubernetes API, `events.k8s.io/v1`).
const LONGEST_NOTE: usize = 1000;

/// An Event to write.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct KubeEvent {
    kind: EventType,
    reason: &'static str,
    /// The part of the balancer that was at work.
    action: &'static str,
    note: String,
    regarding: Regarding,
}

/// The object that an Event concerns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Regarding {
    /// The balancer's pod.
    Balancer,
    Service {
        namespace: String,
        name: String,
        uid: String,
    },
}

/// Writes the Events of `events` and of refused Services. Never ends.
pub(super) async fn run(
    client: &Client,
    context: &Context,
    mut events: Subscription,
    mut services: KubeServices,
) {
    let mut writer = Writer::new(client, context);
    let mut queue = EventQueue::new();
    let mut known = HashSet::new();
    let push = |queue: &mut EventQueue<KubeEvent>, event: KubeEvent| {
        let dropped = queue.push(
            event.regarding.namespace(&context.identity),
            event.clone(),
            Instant::now(),
        );
        if dropped > 0 {
            debug!(
                "Kubernetes event {} or an older one is dropped: too many events",
                event.reason
            );
            context.calls.count_dropped(Resource::Events, dropped);
        }
    };
    loop {
        let due = queue.due();
        tokio::select! {
            batch = events.next() => {
                let accepted = services.accepted.borrow().clone();
                for event in batch.events.iter().filter_map(|event| convert(event, &accepted)) {
                    push(&mut queue, event);
                }
            }
            Ok(()) = services.refused.changed() => {
                let refused = services.refused.borrow_and_update().clone();
                for event in new_refusals(&refused, &mut known) {
                    push(&mut queue, event);
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let Some((namespace, event)) = queue.front(Instant::now()) else { continue };
                match writer.write(&event).await {
                    Ok(()) => queue.written(&namespace, Instant::now()),
                    // The namespace is gone.
                    Err(CallError::NotFound(_)) => {
                        context.calls.count_dropped(Resource::Events, 1);
                        queue.written(&namespace, Instant::now());
                    }
                    Err(_) => queue.failed(&namespace, Instant::now()),
                }
            }
        }
    }
}

/// Writes Events, repeated ones as one with a count.
struct Writer<'a> {
    client: &'a Client,
    context: &'a Context,
    recorder: Recorder,
}

impl<'a> Writer<'a> {
    fn new(client: &'a Client, context: &'a Context) -> Self {
        Self {
            client,
            context,
            recorder: recorder(client, &context.identity),
        }
    }

    async fn write(&mut self, event: &KubeEvent) -> Result<(), CallError> {
        let result = self.publish(event).await;
        if !matches!(result, Err(CallError::NotFound(_))) {
            return result;
        }
        // The Event whose count was to be raised may be gone: without the recorder's memory a new one is created.
        self.recorder = recorder(self.client, &self.context.identity);
        self.publish(event).await
    }

    async fn publish(&self, event: &KubeEvent) -> Result<(), CallError> {
        let reference = event.regarding.reference(&self.context.identity);
        let namespace = event.regarding.namespace(&self.context.identity);
        let attempt = format!("write events in namespace {namespace}");
        let event = Event {
            type_: event.kind,
            reason: event.reason.to_owned(),
            note: Some(event.note.clone()),
            action: event.action.to_owned(),
            secondary: None,
        };
        let call = Call::write(Role::Member, Resource::Events, &attempt);
        let publish = self.recorder.publish(&event, &reference);
        self.context.calls.run(call, publish).await
    }
}

fn recorder(client: &Client, identity: &Identity) -> Recorder {
    let reporter = Reporter {
        controller: CONTROLLER.to_owned(),
        instance: Some(identity.pod.clone()),
    };
    Recorder::new(client.clone(), reporter)
}

/// The Kubernetes Event for `event`, if it warrants one.
fn convert(event: &api::Event, accepted: &[Accepted]) -> Option<KubeEvent> {
    let (kind, reason, action) = match (event.code, event.from.as_deref(), event.to.as_deref()) {
        (EventCode::ServiceState, _, Some("down")) => {
            (EventType::Warning, "ServiceWithoutBackends", "Balancing")
        }
        (EventCode::ServiceState, Some("down"), _) => (EventType::Normal, "ServiceRecovered", "Balancing"),
        (EventCode::ConfigRejected, ..) => (EventType::Warning, "ConfigRejected", "Configuring"),
        (EventCode::InterfaceLost, ..) => (EventType::Warning, "InterfaceLost", "Attaching"),
        (EventCode::InterfaceBack, ..) => (EventType::Normal, "InterfaceBack", "Attaching"),
        (EventCode::CapacityShort, _, Some("full")) => (EventType::Warning, "CapacityExhausted", "Balancing"),
        _ => return None,
    };
    let service = event.service.as_ref();
    let regarding = accepted
        .iter()
        .find(|accepted| service.is_some_and(|service| accepted.services.contains(service)))
        .map_or(Regarding::Balancer, |accepted| Regarding::Service {
            namespace: accepted.namespace.clone(),
            name: accepted.name.clone(),
            uid: accepted.uid.clone(),
        });
    Some(KubeEvent {
        kind,
        reason,
        action,
        note: shortened(&event.text),
        regarding,
    })
}

/// Events for those of `refused` that are not in `known`; replaces `known`.
fn new_refusals(refused: &[Refused], known: &mut HashSet<KubeEvent>) -> Vec<KubeEvent> {
    let now: HashSet<KubeEvent> = refused.iter().map(KubeEvent::from).collect();
    let new = now.difference(known).cloned().collect();
    *known = now;
    new
}

impl From<&Refused> for KubeEvent {
    fn from(refused: &Refused) -> Self {
        Self {
            kind: EventType::Warning,
            reason: "ServiceRefused",
            action: "Admitting",
            note: shortened(&format!("{}: {}", refused.reason, refused.message)),
            regarding: Regarding::Service {
                namespace: refused.namespace.clone(),
                name: refused.name.clone(),
                uid: refused.uid.clone(),
            },
        }
    }
}

impl Regarding {
    fn namespace<'a>(&'a self, identity: &'a Identity) -> &'a str {
        match self {
            Self::Balancer => &identity.namespace,
            Self::Service { namespace, .. } => namespace,
        }
    }

    fn reference(&self, identity: &Identity) -> ObjectReference {
        let (kind, namespace, name, uid) = match self {
            Self::Balancer => ("Pod", &identity.namespace, &identity.pod, identity.uid.clone()),
            Self::Service { namespace, name, uid } => ("Service", namespace, name, Some(uid.clone())),
        };
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(kind.to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid,
            ..ObjectReference::default()
        }
    }
}

/// `text` within the limit of a note.
fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST_NOTE)].to_owned()
}

#[cfg(test)]
mod tests {
    use crate::api::{self, Severity, Time};

    use super::*;

    fn event(code: EventCode, service: Option<&str>, from: &str, to: &str) -> api::Event {
        api::Event {
            sequence: 1,
            time: Time::now(),
            severity: Severity::Warn,
            code,
            service: service.map(str::to_owned),
            backend: None,
            from: Some(from.to_owned()),
            to: Some(to.to_owned()),
            text: "text".to_owned(),
        }
    }

    fn accepted() -> Accepted {
        Accepted {
            group_ingress: Vec::new(),
            namespace: "web".to_owned(),
            name: "front".to_owned(),
            uid: "u1".to_owned(),
            load_balancer: true,
            services: vec!["front-http".to_owned(), "front-https".to_owned()],
        }
    }

    #[test]
    fn only_events_that_an_operator_must_know_are_written() {
        use EventCode::*;
        for (code, from, to, reason) in [
            (ServiceState, "ok", "down", Some("ServiceWithoutBackends")),
            (ServiceState, "down", "degraded", Some("ServiceRecovered")),
            (ServiceState, "ok", "degraded", None),
            (BackendState, "up", "down", None),
            (ConfigRejected, "", "", Some("ConfigRejected")),
            (ConfigRead, "", "", None),
            (InterfaceLost, "", "", Some("InterfaceLost")),
            (InterfaceBack, "", "", Some("InterfaceBack")),
            (CapacityShort, "ok", "filling", None),
            (CapacityShort, "ok", "full", Some("CapacityExhausted")),
            (CapacityBack, "full", "ok", None),
        ] {
            let event = convert(&event(code, None, from, to), &[]);
            assert_eq!(event.map(|event| event.reason), reason, "{code:?} {from} {to}");
        }
    }

    #[test]
    fn an_event_concerns_its_service_or_the_pod() {
        let regarding = |service| {
            let event = event(EventCode::ServiceState, service, "ok", "down");
            let reference = |event: KubeEvent| {
                let identity = Identity {
                    group: "finance".to_owned(),
                    namespace: "lb".to_owned(),
                    pod: "lb-1".to_owned(),
                    uid: None,
                    node: None,
                };
                let reference = event.regarding.reference(&identity);
                [reference.kind, reference.namespace, reference.name].map(Option::unwrap)
            };
            reference(convert(&event, &[accepted()]).unwrap())
        };
        assert_eq!(regarding(Some("front-https")), ["Service", "web", "front"]);
        assert_eq!(regarding(Some("finance")), ["Pod", "lb", "lb-1"]);
        assert_eq!(regarding(None), ["Pod", "lb", "lb-1"]);
    }

    #[test]
    fn a_refusal_is_written_again_only_if_it_changed() {
        let refused = |message: &str| Refused {
            namespace: "web".to_owned(),
            name: "front".to_owned(),
            uid: "u1".to_owned(),
            reason: "PortConflict",
            message: message.to_owned(),
        };
        let mut known = HashSet::new();
        let mut notes = |refused: &[Refused]| {
            let new = new_refusals(refused, &mut known);
            new.into_iter().map(|event| event.note).collect::<Vec<_>>()
        };
        assert_eq!(notes(&[refused("a")]), ["PortConflict: a"]);
        assert!(notes(&[refused("a")]).is_empty());
        assert_eq!(notes(&[refused("a"), refused("b")]), ["PortConflict: b"]);
        assert!(notes(&[]).is_empty());
        assert_eq!(notes(&[refused("a")]), ["PortConflict: a"], "it had ended");
    }

    #[test]
    fn notes_are_shortened_between_characters() {
        assert_eq!(shortened(&"ä".repeat(600)).len(), 1000);
        assert_eq!(shortened("short"), "short");
    }
}
