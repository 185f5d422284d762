//! Streams: followed events and flows, captures.

use super::*;

/// Opens a stream.
async fn follow(served: &Served, path: &str) -> Incoming {
    let stream = UnixStream::connect(served.socket()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "localhost")
        .body(Empty::<Bytes>::new())
        .unwrap();
    sender.send_request(request).await.unwrap().into_body()
}

/// The next lines of a stream.
async fn lines<T: DeserializeOwned>(body: &mut Incoming) -> Vec<T> {
    let frame = body.frame().await.unwrap().unwrap();
    let lines = frame.into_data().unwrap();
    let lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

#[tokio::test]
async fn followed_events_are_a_line_each() {
    let served = Served::start().await;
    served
        .live
        .events
        .emit_all(crate::observe::report::fixture::events());
    let mut body = follow(&served, "/api/v1/events?follow=true&service=ledger").await;
    let mut numbers = async || {
        let events = lines::<api::Event>(&mut body).await;
        events.iter().map(|event| event.sequence).collect::<Vec<_>>()
    };
    assert_eq!(
        numbers().await,
        [1, 2, 3, 4, 5, 6],
        "the refused file is of no service"
    );
    served
        .live
        .events
        .emit(Event::new(EventCode::ServiceRemoved, String::new()).of_service("ledger"));
    assert_eq!(numbers().await, [8]);
}

#[tokio::test]
async fn followed_flows_are_a_line_each_until_the_limit_or_the_reader_ends() {
    let served = Served::start().await;
    let feed = &served.live.recorder.flow_feeds[1];
    let push = |number| {
        feed.push(FlowChange {
            at: crate::observe::report::fixture::at(3600),
            closed: None,
            flow: flow(1, number),
        });
    };
    let mut few = follow(&served, "/api/v1/flows?follow=true&limit=2&client=172.16.1.100").await;
    let mut others = follow(&served, "/api/v1/flows?follow=true&client=!172.16.1.0/24").await;
    let status = served.json("/api/v1/status").await;
    assert_eq!(status["items"][0]["flowFollowers"], 2);
    (0..3).for_each(push);
    let mut ports = Vec::new();
    while ports.len() < 2 {
        for event in lines::<FlowEvent>(&mut few).await {
            let FlowEvent::Open { flow, .. } = event else {
                panic!("{event:?}")
            };
            ports.push(flow.client_port);
        }
    }
    assert_eq!(ports, [40_000, 40_001]);
    assert!(few.frame().await.is_none(), "the answer ends at its limit");
    let next = std::pin::pin!(others.frame());
    assert!(futures_util::poll!(next).is_pending());
    drop(others);
    while feed.is_subscribed() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let (_, metrics) = served.get("/metrics").await;
    assert!(metrics.contains("vl3lb_flow_followers 0\n"), "{metrics}");
}

#[tokio::test]
async fn following_excludes_sort_and_all_and_has_a_limit_of_readers() {
    let served = Served::start().await;
    for with in ["sort=age", "all=true"] {
        let (status, body) = served.get(&format!("/api/v1/flows?follow=true&{with}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{with}");
        assert!(
            body.contains("follow: true, allowed false with sort or all"),
            "{body}"
        );
    }
    let mut readers = Vec::new();
    for _ in 0..crate::observe::flow_events::MAX_SUBSCRIBERS {
        readers.push(follow(&served, "/api/v1/flows?follow=true").await);
    }
    let (status, body) = served.get("/api/v1/flows?follow=true").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
}

#[tokio::test]
async fn captures_are_on_the_socket_alone_and_refuse_what_they_do_not_know() {
    let served = Served::start().await;
    tokio::spawn(Arc::clone(served.live.reporter.captures()).run());
    let path = "/api/v1/capture?duration=10ms&service=finance&drops=any&sample=2";
    assert_eq!(served.get(path).await.0, StatusCode::NOT_FOUND);
    let local = async |path: &str| {
        let stream = UnixStream::connect(served.socket()).await.unwrap();
        exchange(TokioIo::new(stream), Method::GET, path).await
    };
    let (status, _, body) = local(path).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let lines: Vec<Value> = body
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["event"], "start");
    assert_eq!(lines[0]["filter"], "service=finance drops=any sample=2");
    assert_eq!(lines.last().unwrap()["event"], "end");
    for (query, want, error) in [
        (
            "service=finanse",
            StatusCode::NOT_FOUND,
            "capture: no service \"finanse\"",
        ),
        (
            "snaplen=20",
            StatusCode::BAD_REQUEST,
            "snaplen: 20, allowed 54-9216",
        ),
        (
            "sample=0",
            StatusCode::BAD_REQUEST,
            "sample: 0, allowed 1-4294967295",
        ),
        (
            "count=none",
            StatusCode::BAD_REQUEST,
            "count: none, allowed 1 or more",
        ),
        (
            "duration=2h",
            StatusCode::BAD_REQUEST,
            "duration: 2h, allowed 1ms-1h",
        ),
        (
            "at=rest",
            StatusCode::BAD_REQUEST,
            "at: rest, allowed in, out, both",
        ),
        (
            "drops=bored",
            StatusCode::BAD_REQUEST,
            "drops: bored, allowed any",
        ),
        ("colour=red", StatusCode::BAD_REQUEST, "colour: unknown parameter"),
    ] {
        let (status, _, body) = local(&format!("/api/v1/capture?{query}")).await;
        assert_eq!(status, want, "{query}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(body["error"].as_str().unwrap().starts_with(error), "{body}");
    }
}
