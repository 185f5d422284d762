//! Fuzz target: changed HTTP requests, whole, in pieces and cut, over connections in memory. See `vl3lb_testbed::fuzz`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;
use vl3lb_testbed::mutation::{change_bytes, change_text};

use super::server::connection;
use super::tests::no_profiles;
use super::{Admin, routes};
use crate::config::{ConfigError, Metrics};
use crate::connections::{Limits, Slots, Source};
use crate::observe::report::fixture::{Live, flow, live};

/// Seeds that have failed.
const CORPUS: &[u64] = &[];
/// Requests of one seed, by way of a connection and straight to the routes.
const REQUESTS: u64 = 40;
/// Longer than every deadline of the server, by its clock.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);
/// More than the longest answer to these requests.
const LONGEST_ANSWER: usize = 4 << 20;

const HEADS: [&str; 7] = [
    "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "HEAD /metrics HTTP/1.1\r\nhost: localhost\r\naccept: application/openmetrics-text\r\nconnection: close\r\n\r\n",
    "GET /api/v1/services?service=f*&state=!down&sort=flows HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
    "POST /api/v1/status HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "GET /api/v1/flows?limit=3&worker=0&client=172.16.1.0/24&all=false HTTP/1.0\r\n\r\n",
    "GET /api/v1/lookup?service=finance&client=172.16.1.100:40000 HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /api/v1/events?since=1h&limit=2 HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\nupgrade: h2c\r\n\r\n",
];

const PATHS: [&str; 9] = [
    "/metrics",
    "/healthz",
    "/readyz",
    "/api/v1/status",
    "/api/v1/services",
    "/api/v1/backends",
    "/api/v1/flows",
    "/api/v1/events",
    "/api/v1/lookup",
];

const PARAMETERS: [&str; 25] = [
    "service=finance",
    "service=f*",
    "service=!*n*n*n*",
    "state=ok",
    "state=!down",
    "node=node-1",
    "sort=flows",
    "sort=name",
    "limit=0",
    "limit=100000",
    "limit=18446744073709551616",
    "worker=1",
    "client=172.16.1.0/24",
    "client=::/0",
    "client=172.16.1.100:40000",
    "backend=172.16.1.2",
    "backend=172.16.1.2:8081",
    "port=8080",
    "nat-port=!31877",
    "proto=tcp",
    "all=true",
    "follow=false",
    "since=1h",
    "older=99999999999999999999h",
    "idle=%00%zz%",
];

#[test]
fn any_request_is_answered_or_refused_with_its_parameter() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    vl3lb_testbed::fuzz::run("admin", 4, CORPUS, |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let live = live(2);
        *live.recorder.flows.lock().unwrap() =
            vec![(0..9).map(|number| flow(0, number)).collect(), Vec::new()];
        runtime.block_on(async {
            for _ in 0..REQUESTS {
                by_connection(&mut rng, &live).await;
                by_route(&mut rng, &live).await;
            }
        });
        2 * REQUESTS
    });
}

/// Changed bytes, one to three requests of them, sent in pieces with pauses. The connection ends in time, and all that
/// came back are HTTP answers.
async fn by_connection(rng: &mut StdRng, live: &Live) {
    let mut bytes = Vec::new();
    for _ in 0..rng.random_range(1..=3) {
        bytes.extend_from_slice(HEADS[rng.random_range(0..HEADS.len())].as_bytes());
    }
    for _ in 0..rng.random_range(0..5) {
        change_bytes(rng, &mut bytes);
    }
    if rng.random_range(0..50) == 0 {
        // A head without an end.
        let at = rng.random_range(0..=bytes.len());
        bytes.splice(at..at, vec![b'a'; 600_000]);
    }
    let begin = Instant::now();
    let (client, mut server_ends) = connect(live);
    let (mut reader, mut writer) = tokio::io::split(client);
    let pieces = pieces(rng, &bytes);
    let is_left_open: bool = rng.random();
    let writing = async {
        for (piece, pause) in pieces {
            if writer.write_all(&piece).await.is_err() {
                return;
            }
            sleep(pause).await;
        }
        if !is_left_open {
            writer.shutdown().await.ok();
        }
    };
    let reading = async {
        let mut answer = Vec::new();
        // A server that resets the connection has answered before.
        (&mut reader)
            .take(LONGEST_ANSWER as u64)
            .read_to_end(&mut answer)
            .await
            .ok();
        answer
    };
    let both = timeout(ANSWER_LIMIT, async { tokio::join!(writing, reading) });
    let Ok(((), answer)) = both.await else {
        panic!(
            "not over after {:?}: {:?}",
            begin.elapsed(),
            String::from_utf8_lossy(&bytes)
        );
    };
    assert!(answer.len() < LONGEST_ANSWER, "{}", answer.len());
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    assert!(
        !answer.starts_with(b"HTTP/1.1 500"),
        "{:?}",
        String::from_utf8_lossy(&bytes)
    );
    (&mut server_ends)
        .await
        .expect("the server's task has not panicked");
}

fn connect(live: &Live) -> (DuplexStream, tokio::task::JoinHandle<()>) {
    let (client, server) = duplex(4096);
    let slots = Slots::new(Limits::of_process());
    let slot = slots.admit(Source::Local);
    let requests = slot.requests();
    let routes = routes(Admin::new(
        Arc::clone(&live.reporter),
        Metrics::default(),
        no_profiles(),
    ));
    let task = tokio::spawn(async move {
        connection(server, routes, requests).await;
        drop(slot);
    });
    (client, task)
}

/// `bytes` in pieces, and the pause after each.
fn pieces(rng: &mut StdRng, bytes: &[u8]) -> Vec<(Vec<u8>, Duration)> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let most = if rng.random() {
            rest.len()
        } else {
            rest.len().min(80)
        };
        let (piece, later) = rest.split_at(rng.random_range(1..=most));
        let pause = if rng.random_range(0..4) == 0 {
            rng.random_range(0..3_000)
        } else {
            0
        };
        pieces.push((piece.to_vec(), Duration::from_millis(pause)));
        rest = later;
    }
    pieces
}

/// A good head with changed parameters: the answer is JSON, and an error names what is wrong.
async fn by_route(rng: &mut StdRng, live: &Live) {
    let mut target = PATHS[rng.random_range(0..PATHS.len())].to_owned();
    for number in 0..rng.random_range(0..4) {
        let mut parameter = PARAMETERS[rng.random_range(0..PARAMETERS.len())].to_owned();
        if rng.random() {
            change_text(rng, &mut parameter);
        }
        target.push(if number == 0 { '?' } else { '&' });
        target.push_str(&parameter);
    }
    let Ok(request) = Request::builder().uri(&target).body(Body::empty()) else {
        return;
    };
    // Without what a fragment hides.
    let query = request.uri().query().unwrap_or_default().to_owned();
    let begin = Instant::now();
    let admin = Admin::new(Arc::clone(&live.reporter), Metrics::default(), no_profiles());
    let response = routes(admin).oneshot(request).await;
    let (head, body) = response.expect("routes cannot fail").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    assert!(
        begin.elapsed() < ANSWER_LIMIT && body.len() < LONGEST_ANSWER,
        "{target}"
    );
    match head.status {
        StatusCode::OK => {}
        StatusCode::BAD_REQUEST => {
            let error: Value = serde_json::from_slice(&body).expect("an error in JSON");
            let text = error["error"].as_str().expect("its text");
            let mut names = form_urlencoded::parse(query.as_bytes());
            let is_missing = text.contains(": missing, allowed ");
            assert!(
                is_missing || names.any(|(name, _)| text.starts_with(&shown(&name))),
                "{text:?} of {target}"
            );
            assert!(text.contains(", allowed "), "{text:?} of {target}");
        }
        StatusCode::NOT_FOUND => {
            serde_json::from_slice::<Value>(&body).expect("an error in JSON");
        }
        other => panic!("{other} of {target}"),
    }
}

/// The name of a parameter as errors show it.
fn shown(name: &str) -> String {
    let error = ConfigError::new(name, "", "").to_string();
    error.trim_end_matches(": , allowed ").to_owned()
}
