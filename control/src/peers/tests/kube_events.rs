//! What Kubernetes is told as Events.

use std::sync::Arc;

use crate::api::EventCode;
use serde_json::Value;

use super::Balancer;
use super::server::ApiServer;
use crate::discovery::{Accepted, Refused};
use crate::observe::events::Event;

/// A service that has no backends any more.
fn down(service: &str) -> Event {
    let text = format!("service {service}: no backend up");
    Event::warn(EventCode::ServiceState, text)
        .of_service(service)
        .transition("ok", "down")
}

/// Waits until there are so many Events.
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
    let mut told: Vec<_> = events(&server, 3)
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
    told.sort_unstable();
    assert_eq!(
        told,
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
async fn repeated_events_become_one_and_what_cannot_be_told_waits() {
    let server = ApiServer::start().await;
    server.refuse("create", "events", 403);
    let a = Balancer::start(&server, "lb-a", [172, 16, 1, 1]);
    a.events.emit(down("finance"));
    server
        .wait("two attempts", |server| {
            (server.requests("create", "events").len() >= 2).then_some(())
        })
        .await;
    let reason = a.trouble("write events in namespace web").unwrap();
    assert!(reason.contains("Role"), "{reason}");
    server.refuse("create", "events", 0);
    events(&server, 1).await;
    a.events.emit(down("finance"));
    server
        .wait("a count", |server| {
            let events = server.objects("events");
            (events[0]["series"]["count"] == 2).then_some(())
        })
        .await;
    // Somebody deletes it, and it is told anew.
    let name = server.objects("events")[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    server.remove("events", "web", &name);
    a.events.emit(down("finance"));
    assert_eq!(events(&server, 1).await[0]["series"], Value::Null);
}
