//! Kubernetes Events.

use std::sync::Arc;

use crate::api::EventCode;
use serde_json::Value;

use super::Balancer;
use crate::discovery::{Accepted, Refused};
use crate::kubernetes::testing::{ApiServer, Reply};
use crate::observe::events::Event;

/// The event of a service without backends.
fn down(service: &str) -> Event {
    let text = format!("service {service}: no backend up");
    Event::warn(EventCode::ServiceState, text)
        .of_service(service)
        .transition("ok", "down")
}

/// Waits until there are `count` Events.
async fn events(server: &ApiServer, count: usize) -> Vec<Value> {
    let found = |server: &ApiServer| {
        let events = server.objects("events");
        (events.len() >= count).then_some(events)
    };
    server.wait(&format!("{count} events"), found).await
}

#[tokio::test]
async fn an_event_is_about_the_service_or_the_balancer() {
    let server = ApiServer::start().await;
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    a.accepted.send_replace(Arc::new(vec![Accepted {
        group_ingress: Vec::new(),
        namespace: "shop".to_owned(),
        name: "front".to_owned(),
        uid: "uid-front".to_owned(),
        load_balancer: false,
        services: vec!["front".to_owned()],
    }]));
    a.events.emit(down("front"));
    a.events.emit(down("finance"));
    a.refused.send_replace(Arc::new(vec![Refused {
        namespace: "shop".to_owned(),
        name: "back".to_owned(),
        uid: "uid-back".to_owned(),
        reason: "PortConflict",
        message: "TCP 8080 is that of service finance".to_owned(),
    }]));
    let mut observed: Vec<_> = events(&server, 3)
        .await
        .iter()
        .map(|event| {
            let regarding = &event["regarding"];
            let texts = [
                &regarding["kind"],
                &regarding["name"],
                &event["reason"],
                &event["type"],
            ];
            texts.map(|text| text.as_str().unwrap().to_owned()).join(" ")
        })
        .collect();
    observed.sort_unstable();
    assert_eq!(
        observed,
        [
            "Pod lb-a ServiceWithoutBackends Warning",
            "Service back ServiceRefused Warning",
            "Service front ServiceWithoutBackends Warning",
        ]
    );
    let event = &server.objects("events")[0];
    assert_eq!(event["reportingController"], "vl3-lb.io");
    assert_eq!(event["reportingInstance"], "lb-a");
}

#[tokio::test]
async fn repeated_events_become_one_and_a_rejected_event_waits() {
    let server = ApiServer::start().await;
    server.reply("create", "/events", Reply::Refused(403));
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    a.events.emit(down("finance"));
    server
        .wait("two attempts", |server| {
            (server.names("create", "events").len() >= 2).then_some(())
        })
        .await;
    let reason = a.trouble("write events in namespace web").unwrap();
    assert!(reason.contains("Role"), "{reason}");
    server.reply("create", "/events", Reply::Good);
    events(&server, 1).await;
    a.events.emit(down("finance"));
    server
        .wait("a count", |server| {
            let events = server.objects("events");
            (events[0]["series"]["count"] == 2).then_some(())
        })
        .await;
    // Another client deletes it, and it is created again.
    let name = server.objects("events")[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    server.delete("events", "web", &name);
    a.events.emit(down("finance"));
    assert_eq!(events(&server, 1).await[0]["series"], Value::Null);
}

/// A Service of Kubernetes in `namespace` that became the service of its name.
fn accepted(namespace: &str, name: &str) -> Accepted {
    Accepted {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        load_balancer: false,
        services: vec![name.to_owned()],
        group_ingress: Vec::new(),
    }
}

/// How many Events were dropped.
fn dropped(balancer: &Balancer) -> u64 {
    let writes = balancer.membership.report().writes.into_iter();
    let mut dropped = writes.filter(|count| (&*count.resource, &*count.result) == ("events", "dropped"));
    dropped.next().unwrap().writes_total
}

#[tokio::test]
async fn a_namespace_that_rejects_events_delays_no_other() {
    let server = ApiServer::start().await;
    server.reply("create", "/shop/events", Reply::Refused(403));
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let services = vec![accepted("shop", "front"), accepted("web", "back")];
    a.accepted.send_replace(Arc::new(services));
    a.events.emit(down("front"));
    server
        .wait("an attempt", |server| {
            (!server.names("create", "events").is_empty()).then_some(())
        })
        .await;
    a.events.emit(down("back"));
    let written = events(&server, 1).await;
    assert_eq!(written[0]["regarding"]["name"], "back");
    assert!(a.trouble("write events in namespace shop").is_some());
    server.reply("create", "/shop/events", Reply::Good);
    events(&server, 2).await;
    server
        .wait("the failure to end", |_| {
            a.trouble("write events in namespace shop")
                .is_none()
                .then_some(())
        })
        .await;
    assert_eq!(dropped(&a), 0);
}

#[tokio::test]
async fn an_event_of_a_deleted_namespace_is_dropped_and_counted() {
    let server = ApiServer::start().await;
    server.reply("create", "/shop/events", Reply::Refused(404));
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    let services = vec![accepted("shop", "front"), accepted("web", "back")];
    a.accepted.send_replace(Arc::new(services));
    a.events.emit(down("front"));
    server
        .wait("the event to be dropped", |_| (dropped(&a) == 1).then_some(()))
        .await;
    a.events.emit(down("back"));
    events(&server, 1).await;
    assert!(
        server.names("create", "events").len() <= 3,
        "not repeated for ever"
    );
}
