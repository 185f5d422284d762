//! Managers and registries that fail: the backends stay, the failure is shown, and calls are made again.

use tonic::Status;

use super::source::{Following, LOCAL, manager, server};
use super::*;
use crate::discovery::SourceStatus;

#[tokio::test]
async fn lost_streams_keep_backends_and_are_opened_again() {
    let manager = manager();
    manager.request("nse-0", [server(1), server(2)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1", "172.16.1.2"]).await;
    for (round, end) in [None, Some(Status::unavailable("shutting down"))]
        .into_iter()
        .enumerate()
    {
        following.synced().await;
        following.has_changed();
        let (_, opened) = manager.monitors("nse-0");
        manager.end_streams(end);
        following.status(|status| status.error.is_some()).await;
        following.synced().await;
        assert!(!following.has_changed(), "no set in round {round}");
        assert_eq!(manager.monitors("nse-0"), (1, opened + 1));
        let number = 3 + u8::try_from(round).unwrap();
        manager.request("nse-0", [server(number)]);
        let all = ["172.16.1.1", "172.16.1.2", "172.16.1.3", "172.16.1.4"];
        following.backends(&all[..usize::from(number)]).await;
    }
    let events = following.event_texts();
    let count = |text: &str| events.iter().filter(|event| event.contains(text)).count();
    assert_eq!(
        count("the server ended the stream; keeping what is known, retrying"),
        2,
        "{events:?}"
    );
    assert_eq!(
        count("monitor connections: Unavailable: shutting down"),
        1,
        "{events:?}"
    );
    assert_eq!(count("answers again"), 4, "{events:?}");
}

#[tokio::test]
async fn a_restarted_manager_that_knows_no_client_takes_no_backend_away() {
    let manager = manager();
    manager.request("nse-0", [server(1), server(2)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1", "172.16.1.2"]).await;
    following.synced().await;
    following.has_changed();
    let before = manager.monitors("nse-0").1;
    manager.restart();
    following.status(|status| status.error.is_some()).await;
    following.synced().await;
    assert_eq!(manager.monitors("nse-0"), (1, before + 1));
    manager.request("nse-0", [server(1), server(2)]);
    following.synced().await;
    assert!(!following.has_changed(), "no set");
}

#[tokio::test]
async fn a_registry_that_ends_its_stream_is_asked_again() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1"]).await;
    // What happened meanwhile is in the next list.
    manager.forget("nse-0");
    manager.register("nse-1", LOCAL);
    manager.end_streams(None);
    manager.request("nse-1", [Wire::new("server-9", "nse-1", &["172.16.2.9/32"])]);
    following.backends(&["172.16.1.1", "172.16.2.9"]).await;
    let discovery = following
        .status(|status| status.nsm.as_ref().is_some_and(|nsm| !nsm.endpoints[0].listed))
        .await;
    assert!(discovery.nsm.unwrap().endpoints[1].listed);
}

#[tokio::test]
async fn a_manager_that_cannot_be_reached_does_not_hold_up_the_others() {
    let manager = manager();
    manager.register("nse-1", "tcp://10.0.0.2:5001");
    manager.request("nse-0", [server(1)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1"]).await;
    let status = following.status(|status| status.error.is_some()).await;
    assert!(!status.synced);
    let error = status.error.unwrap();
    assert!(
        error
            .starts_with("monitor of endpoint nse-1 at tcp://10.0.0.2:5001: connect to tcp://10.0.0.2:5001:"),
        "{error}"
    );
}

#[tokio::test]
async fn calls_without_an_answer_end_and_are_made_again() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    manager.hang(true, true);
    let mut following = Following::start(&manager);
    let status = following.status(|status| status.error.is_some()).await;
    let error = status.error.unwrap();
    assert!(
        error.ends_with("find endpoints: no answer within 300ms"),
        "{error}"
    );
    manager.hang(false, true);
    let monitored = |status: &SourceStatus| {
        let error = status.error.as_deref().unwrap_or_default();
        error.contains("monitor connections: no answer within 300ms")
    };
    following.status(monitored).await;
    assert!(following.desired.borrow().is_none(), "nothing is known");
    manager.hang(false, false);
    following.backends(&["172.16.1.1"]).await;
    following.synced().await;
}

#[tokio::test]
async fn a_refusal_is_shown_and_counted() {
    let manager = manager();
    manager.refuse(Some(Status::permission_denied(
        "no sufficient privileges: eyJhbGciOiJFUzI1NiJ9.e30.c2ln",
    )));
    let mut following = Following::start(&manager);
    let status = following.status(|status| status.error.is_some()).await;
    let error = status.error.unwrap();
    assert!(
        error.ends_with("find endpoints: PermissionDenied: no sufficient privileges: TOKEN"),
        "{error}"
    );
    let forbidden = status
        .errors
        .by_reason()
        .find(|(reason, _)| reason.name() == "forbidden");
    assert!(forbidden.is_some_and(|(_, count)| count > 0));
    manager.refuse(None);
    following.backends(&[]).await;
}

#[tokio::test]
async fn a_list_larger_than_the_usual_limit_is_read() {
    let manager = manager();
    let padding = "x".repeat(450);
    let client = |number: u32| {
        let address = format!("172.16.{}.{}/32", number / 250, number % 250 + 1);
        let mut wire = Wire::new(&format!("server-{number}"), "nse-0", &[&address]);
        for segment in &mut wire.0.path.as_mut().unwrap().path_segments {
            segment.token.push_str(&padding);
        }
        wire
    };
    manager.request("nse-0", (0..3000).map(client));
    let mut following = Following::start(&manager);
    let count = |desired: &Option<Arc<Desired>>| {
        desired
            .as_ref()
            .map_or(0, |desired| desired.services[0].backends.len())
    };
    let all = following.desired.wait_for(|desired| count(desired) == 3000);
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn malformed_events_are_counted_and_harm_nothing() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1"]).await;
    manager.register("", LOCAL);
    manager.register("nse-2", "ftp://somewhere");
    let mut pathless = server(2);
    pathless.0.path = None;
    manager.request(
        "nse-0",
        [
            pathless,
            Wire::new("server-3", "nse-0", &[]),
            Wire::new("x", "nse-9", &["10.0.0.1"]),
        ],
    );
    manager.send("nse-0", 7, [("x".to_owned(), server(4).0)].into());
    manager.send(
        "nse-0",
        2,
        [("unknown".to_owned(), proto::Connection::default())].into(),
    );
    manager.request("nse-0", [server(5)]);
    following.backends(&["172.16.1.1", "172.16.1.5"]).await;
    let discovery = following.synced().await;
    let counts: Vec<_> = discovery
        .skipped_connections_total
        .iter()
        .map(|count| format!("{} {}", count.reason, count.total))
        .collect();
    assert_eq!(
        counts,
        ["no_path 1", "other_endpoint 1", "other_service 0", "no_address 1"]
    );
    assert_eq!(discovery.unknown_events_total, 1);
    // A connection that is known, and has no address any more.
    manager.request("nse-0", [Wire::new("server-5", "nse-0", &[])]);
    following.backends(&["172.16.1.1"]).await;
}
