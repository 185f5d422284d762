//! Tells Kubernetes what an operator must know, as Events: on the Service that it is about if the
//! balancer's service came from one, else on the balancer's pod.
//!
//! Once for each change, a bounded number, and those that repeat become one with a count. Several
//! balancers each tell what they see; `reportingInstance` says who it was.

use std::collections::{HashSet, VecDeque};

use crate::api::{self, EventCode};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::time::{Instant, sleep_until};
use tracing::debug;
use vl3lb_common::Duration;

use super::api_calls::{Backoff, Resource, WriteError};
use super::{Identity, KubeServices, Shared};
use crate::discovery::{Accepted, Refused};
use crate::kubernetes::names::CONTROLLER;
use crate::observe::events::Subscription;

/// Events at once, and one more after each [`REFILL`].
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_secs(10);
/// Events that wait because the API server is away; older ones make room.
const WAITING: usize = 64;
/// Bytes of a note (Kubernetes API, `events.k8s.io/v1`).
const LONGEST_NOTE: usize = 1000;
/// How long until a failed write is tried again at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// One Event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct KubeEvent {
    kind: EventType,
    reason: &'static str,
    /// What the balancer did about it.
    action: &'static str,
    note: String,
    about: About,
}

/// The object that an Event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum About {
    /// The balancer's pod.
    Balancer,
    Service {
        namespace: String,
        name: String,
        uid: String,
    },
}

/// Tells for ever what `follower` hears, and which Services are refused.
pub(super) async fn run(
    client: &Client,
    shared: &Shared,
    mut follower: Subscription,
    mut services: KubeServices,
) {
    let reporter = Reporter {
        controller: CONTROLLER.to_owned(),
        instance: Some(shared.identity.pod.clone()),
    };
    let mut recorder = Recorder::new(client.clone(), reporter.clone());
    let mut waiting = VecDeque::new();
    let mut budget = Budget::new(Instant::now());
    let mut backoff = Backoff::default();
    let mut earliest = Instant::now();
    let mut known = HashSet::new();
    loop {
        tokio::select! {
            batch = follower.next() => {
                let accepted = services.accepted.borrow().clone();
                waiting.extend(batch.events.iter().filter_map(|event| read(event, &accepted)));
            }
            Ok(()) = services.refused.changed() => {
                let refused = services.refused.borrow_and_update().clone();
                waiting.extend(news(&refused, &mut known));
            }
            () = sleep_until(earliest), if !waiting.is_empty() => {
                let Some(notice) = waiting.front() else { continue };
                if !budget.spend(Instant::now()) {
                    debug!("event {} is left out: there are too many", notice.reason);
                    waiting.pop_front();
                    continue;
                }
                match publish(&recorder, shared, notice).await {
                    Ok(()) => {
                        waiting.pop_front();
                        backoff.succeeded();
                    }
                    // The Event that was to be counted up is gone by now.
                    Err(WriteError::Absent) => recorder = Recorder::new(client.clone(), reporter.clone()),
                    Err(_) => earliest = Instant::now() + backoff.failed(LONGEST_PAUSE),
                }
            }
        }
        let surplus = waiting.len().saturating_sub(WAITING);
        waiting.drain(..surplus);
    }
}

async fn publish(recorder: &Recorder, shared: &Shared, notice: &KubeEvent) -> Result<(), WriteError> {
    let reference = notice.about.reference(&shared.identity);
    let namespace = reference.namespace.as_deref().unwrap_or_default();
    let attempt = format!("write events in namespace {namespace}");
    let event = Event {
        type_: notice.kind,
        reason: notice.reason.to_owned(),
        note: Some(notice.note.clone()),
        action: notice.action.to_owned(),
        secondary: None,
    };
    let publish = recorder.publish(&event, &reference);
    shared.calls.attempt(Resource::Events, &attempt, publish).await
}

/// What Kubernetes is to know of `event`, if anything.
fn read(event: &api::Event, accepted: &[Accepted]) -> Option<KubeEvent> {
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
    let about = accepted
        .iter()
        .find(|accepted| service.is_some_and(|service| accepted.services.contains(service)))
        .map_or(About::Balancer, |accepted| About::Service {
            namespace: accepted.namespace.clone(),
            name: accepted.name.clone(),
            uid: accepted.uid.clone(),
        });
    Some(KubeEvent {
        kind,
        reason,
        action,
        note: shortened(&event.text),
        about,
    })
}

/// Notices of those of `refused` that were not `known`, which are then.
fn news(refused: &[Refused], known: &mut HashSet<KubeEvent>) -> Vec<KubeEvent> {
    let now: HashSet<KubeEvent> = refused.iter().map(KubeEvent::from).collect();
    let news = now.difference(known).cloned().collect();
    *known = now;
    news
}

impl From<&Refused> for KubeEvent {
    fn from(refused: &Refused) -> Self {
        Self {
            kind: EventType::Warning,
            reason: "ServiceRefused",
            action: "Admitting",
            note: shortened(&format!("{}: {}", refused.reason, refused.message)),
            about: About::Service {
                namespace: refused.namespace.clone(),
                name: refused.name.clone(),
                uid: refused.uid.clone(),
            },
        }
    }
}

impl About {
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

/// `text`, cut to what a note may have.
fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST_NOTE)].to_owned()
}

/// How many Events may be written. Pure.
#[derive(Debug)]
struct Budget {
    left: u32,
    /// When `left` was right.
    since: Instant,
}

impl Budget {
    const fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    /// Takes one, if there is one.
    fn spend(&mut self, now: Instant) -> bool {
        while self.left < BURST && now >= self.since + REFILL {
            self.left += 1;
            self.since += REFILL;
        }
        if self.left == BURST {
            self.since = now;
        }
        let has = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has
    }
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
            text: "it happened".to_owned(),
        }
    }

    fn accepted() -> Accepted {
        Accepted {
            namespace: "web".to_owned(),
            name: "front".to_owned(),
            uid: "u1".to_owned(),
            load_balancer: true,
            services: vec!["front-http".to_owned(), "front-https".to_owned()],
        }
    }

    #[test]
    fn what_an_operator_must_know_is_told_and_nothing_else() {
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
            let notice = read(&event(code, None, from, to), &[]);
            assert_eq!(notice.map(|notice| notice.reason), reason, "{code:?} {from} {to}");
        }
    }

    #[test]
    fn it_is_told_of_the_service_that_it_is_about() {
        let about = |service| {
            let event = event(EventCode::ServiceState, service, "ok", "down");
            let reference = |notice: KubeEvent| {
                let identity = Identity {
                    group: "finance".to_owned(),
                    namespace: "lb".to_owned(),
                    pod: "lb-1".to_owned(),
                    uid: None,
                    node: None,
                };
                let reference = notice.about.reference(&identity);
                [reference.kind, reference.namespace, reference.name].map(Option::unwrap)
            };
            reference(read(&event, &[accepted()]).unwrap())
        };
        assert_eq!(about(Some("front-https")), ["Service", "web", "front"]);
        assert_eq!(about(Some("finance")), ["Pod", "lb", "lb-1"]);
        assert_eq!(about(None), ["Pod", "lb", "lb-1"]);
    }

    #[test]
    fn a_refusal_is_told_once_until_it_is_another_one() {
        let refused = |message: &str| Refused {
            namespace: "web".to_owned(),
            name: "front".to_owned(),
            uid: "u1".to_owned(),
            reason: "PortConflict",
            message: message.to_owned(),
        };
        let mut known = HashSet::new();
        let mut notes = |refused: &[Refused]| {
            let news = news(refused, &mut known);
            news.into_iter().map(|notice| notice.note).collect::<Vec<_>>()
        };
        assert_eq!(notes(&[refused("a")]), ["PortConflict: a"]);
        assert!(notes(&[refused("a")]).is_empty());
        assert_eq!(notes(&[refused("a"), refused("b")]), ["PortConflict: b"]);
        assert!(notes(&[]).is_empty());
        assert_eq!(
            notes(&[refused("a")]),
            ["PortConflict: a"],
            "it was gone meanwhile"
        );
    }

    #[test]
    fn notes_are_cut_between_letters() {
        assert_eq!(shortened(&"ä".repeat(600)).len(), 1000);
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn events_are_bounded_and_come_back_with_time() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut spent = |seconds| {
            let now = start + Duration::from_secs(seconds);
            (0..100).filter(|_| budget.spend(now)).count()
        };
        assert_eq!(spent(1), 20);
        assert_eq!(spent(10), 0);
        assert_eq!(spent(11), 1);
        assert_eq!(spent(36), 2);
        assert_eq!(spent(10_000), 20);
    }
}
