mod profile;
mod streams;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use axum::http;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::api::{self, EventCode, FlowEvent, FlowStreamLine};
use serde::de::DeserializeOwned;
use vl3lb_common::flow_feed::FlowChange;

use super::*;
use crate::config::{ApiFor, Listener};
use crate::observe::events::Event;
use crate::observe::report::fixture::{Live, flow, live};

fn on_loopback(port: u16, api_for: ApiFor) -> Listener {
    Listener {
        key: "admin.listen",
        address: ([127, 0, 0, 1], port).into(),
        api_for,
    }
}

/// What takes no profiles.
pub(super) fn no_profiles() -> Profiler {
    Profiler::new(false, std::path::Path::new("/nowhere/admin.sock"))
}

/// A running server.
struct Served {
    live: Live,
    folder: tempfile::TempDir,
    address: std::net::SocketAddr,
    /// Where only probes and metrics are.
    probes: std::net::SocketAddr,
    task: JoinHandle<std::io::Result<()>>,
}

impl Served {
    async fn start() -> Self {
        let live = live(2);
        tokio::spawn(Arc::clone(live.reporter.flow_events()).run());
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("deeper/admin.sock");
        let listeners = Listeners::open(
            &[on_loopback(0, ApiFor::All), on_loopback(0, ApiFor::Nobody)],
            &socket,
        )
        .await
        .unwrap();
        let addresses = listeners.addresses().unwrap();
        let [address, probes] = addresses[..] else {
            panic!("{addresses:?}")
        };
        let task = tokio::spawn(serve(
            listeners,
            Arc::clone(&live.reporter),
            Metrics::default(),
            no_profiles(),
        ));
        Self {
            live,
            folder,
            address,
            probes,
            task,
        }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("deeper/admin.sock")
    }

    async fn ask(&self, method: Method, path: &str) -> (StatusCode, String, String) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        exchange(TokioIo::new(stream), method, path).await
    }

    async fn send(&self, request: http::request::Builder) -> (http::response::Parts, String) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        send(TokioIo::new(stream), request).await
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let (status, _, body) = self.ask(Method::GET, path).await;
        (status, body)
    }

    async fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }
}

async fn exchange<IO>(io: IO, method: Method, path: &str) -> (StatusCode, String, String)
where
    IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost");
    let (head, body) = send(io, request).await;
    let content_type = head.headers.get("content-type");
    let content_type = content_type.map_or_else(String::new, |value| value.to_str().unwrap().to_owned());
    (head.status, content_type, body)
}

/// Head and body of the response.
async fn send<IO>(io: IO, request: http::request::Builder) -> (http::response::Parts, String)
where
    IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn metrics_are_openmetrics() {
    let served = Served::start().await;
    let (status, content_type, body) = served.ask(Method::GET, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(content_type, crate::metrics::CONTENT_TYPE);
    assert!(body.contains("vl3lb_ready 1\n") && body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn liveness_and_readiness_have_their_own_conditions() {
    let served = Served::start().await;
    assert_eq!(served.get("/healthz").await.0, StatusCode::OK);
    assert_eq!(served.get("/readyz").await.0, StatusCode::OK);
    served.live.reporter.drain();
    let (status, reason) = served.get("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reason.contains("shutting down"), "{reason}");
    assert_eq!(served.get("/healthz").await.0, StatusCode::OK);
    *served.live.recorder.now.lock().unwrap() = crate::observe::report::fixture::at(4000);
    assert_eq!(served.get("/healthz").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn lists_are_filtered_and_sorted() {
    let served = Served::start().await;
    let names = |answer: Value| -> Vec<String> {
        let items = answer["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let services = served.json("/api/v1/services").await;
    assert_eq!(services["apiVersion"], "v1");
    assert_eq!(services["generation"], 42);
    assert_eq!(names(services), ["ledger", "dns", "finance"]);
    assert_eq!(
        names(served.json("/api/v1/services?sort=name&state=!down").await),
        ["dns", "finance"]
    );
    let backends = served.json("/api/v1/backends?service=f*&state=draining").await;
    assert_eq!(backends["items"].as_array().unwrap().len(), 1);
    assert_eq!(backends["items"][0]["drain"]["flowsLeft"], 0);
    let status = served.json("/api/v1/status").await;
    assert_eq!(status["items"][0]["mode"]["attach"], "native");
}

#[tokio::test]
async fn unknown_names_parameters_and_paths_are_errors() {
    let served = Served::start().await;
    for (path, want, error) in [
        (
            "/api/v1/services?service=finanse",
            StatusCode::NOT_FOUND,
            "services: no service \"finanse\" (have: ledger, dns, finance)",
        ),
        (
            "/api/v1/flows?service=finanse",
            StatusCode::NOT_FOUND,
            "flows: no service \"finanse\" (have: ledger, dns, finance)",
        ),
        (
            "/api/v1/services?colour=red",
            StatusCode::BAD_REQUEST,
            "colour: unknown parameter (value red), allowed service, state, sort",
        ),
        (
            "/api/v1/flows?limit=many",
            StatusCode::BAD_REQUEST,
            "limit: many, allowed 0-100000",
        ),
        (
            "/api/v2/status",
            StatusCode::NOT_FOUND,
            "nothing at /api/v2/status",
        ),
    ] {
        let (status, body) = served.get(path).await;
        assert_eq!(status, want, "{path}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["error"], error);
    }
}

#[tokio::test]
async fn all_routes_are_read_only() {
    let served = Served::start().await;
    for path in ["/metrics", "/api/v1/status", "/api/v1/flows"] {
        for method in [Method::POST, Method::PUT, Method::DELETE] {
            assert_eq!(served.ask(method, path).await.0, StatusCode::METHOD_NOT_ALLOWED);
        }
        assert_eq!(served.ask(Method::HEAD, path).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn flows_are_limited_and_counted() {
    let served = Served::start().await;
    *served.live.recorder.flows.lock().unwrap() = vec![
        (0..150).map(|number| flow(0, number)).collect(),
        (150..160).map(|number| flow(1, number)).collect(),
    ];
    let answer = served.json("/api/v1/flows").await;
    assert_eq!(answer["items"].as_array().unwrap().len(), 100);
    assert_eq!(answer["matchedTotal"], 160);
    assert_eq!(answer["truncated"], true);
    assert_eq!(answer["consistency"], "per-flow");
    assert_eq!(answer["items"][0]["service"], "finance");
    let answer = served.json("/api/v1/flows?limit=0&worker=1").await;
    assert_eq!(answer["items"].as_array().unwrap().len(), 0);
    assert_eq!(answer["matchedTotal"], 10);
}

#[tokio::test]
async fn all_flows_are_a_line_each_and_a_trailer() {
    let served = Served::start().await;
    *served.live.recorder.flows.lock().unwrap() =
        vec![(0..1000).map(|number| flow(0, number)).collect(), Vec::new()];
    let read = async |path| {
        let (status, body) = served.get(path).await;
        assert_eq!(status, StatusCode::OK);
        let lines = body.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect::<Vec<FlowStreamLine>>()
    };
    let lines = read("/api/v1/flows?all=true").await;
    assert_eq!(lines.len(), 1001);
    let FlowStreamLine::End { end } = &lines[1000] else {
        panic!("{:?}", lines[1000])
    };
    assert_eq!((end.matched_total, end.truncated), (1000, false));
    assert!(
        lines[..1000]
            .iter()
            .all(|line| matches!(line, FlowStreamLine::Flow(_)))
    );
    let none = read("/api/v1/flows?all=true&worker=1").await;
    assert!(matches!(&none[..], [FlowStreamLine::End { .. }]), "{none:?}");
}

#[tokio::test]
async fn the_socket_is_private_and_removed_at_the_end() {
    let served = Served::start().await;
    let socket = served.socket();
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let stream = UnixStream::connect(&socket).await.unwrap();
    let (status, _, body) = exchange(TokioIo::new(stream), Method::GET, "/api/v1/status").await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains("finance-lb-7c9d"));
    served.task.abort();
    assert!(served.task.await.unwrap_err().is_cancelled());
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_socket_in_use_is_left_alone_and_a_stale_one_replaced() {
    let served = Served::start().await;
    let socket = served.socket();
    let listen = [on_loopback(0, ApiFor::All)];
    let error = Listeners::open(&listen, &socket).await.unwrap_err();
    assert!(
        error.to_string().contains("another balancer answers there"),
        "{error}"
    );
    assert!(socket.exists());
    let stale = served.folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    Listeners::open(&listen, &stale).await.unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_an_error_with_the_address() {
    let served = Served::start().await;
    let other = served.folder.path().join("other.sock");
    let error = Listeners::open(&[on_loopback(served.address.port(), ApiFor::All)], &other)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&served.address.to_string()) && error.contains("admin.listen"),
        "{error}"
    );
}

#[tokio::test]
async fn an_address_for_probes_has_no_page_and_no_api() {
    let served = Served::start().await;
    let at_probes = async |path| {
        let stream = TcpStream::connect(served.probes).await.unwrap();
        exchange(TokioIo::new(stream), Method::GET, path).await
    };
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(at_probes(path).await.0, StatusCode::OK, "{path}");
    }
    for path in [
        "/",
        "/state",
        "/api/v1/status",
        "/api/v1/flows",
        "/api/v1/events",
        "/unknown",
    ] {
        let (status, _, body) = at_probes(path).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {body}");
        assert!(
            body.contains("admin.listen") && body.contains("admin.api"),
            "{path}: {body}"
        );
        assert!(!body.contains("finance"), "{path}: {body}");
    }
    assert_eq!(served.get("/api/v1/status").await.0, StatusCode::OK);
}

fn texts(items: &Value) -> Vec<&str> {
    let items = items.as_array().unwrap();
    items.iter().map(|item| item["text"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn events_are_filtered_and_limited_to_the_newest() {
    let served = Served::start().await;
    let hour_ago = api::Time::now().before(std::time::Duration::from_secs(3600));
    let old = Event::new(EventCode::Started, "vl3-lb started".to_owned());
    served.live.events.append(hour_ago, [old]);
    served
        .live
        .events
        .emit_all(crate::observe::report::fixture::events());
    let all = served.json("/api/v1/events").await;
    assert_eq!(
        (&all["eventsTotal"], &all["truncated"]),
        (&8.into(), &false.into())
    );
    assert_eq!(all["items"][0]["code"], "started");
    let ledger = served.json("/api/v1/events?service=ledger&limit=2").await;
    assert_eq!(
        texts(&ledger["items"]),
        [
            "backend ledger/172.16.1.9:9000 draining -> up",
            "service ledger down -> ok: 2 of 2 backends up"
        ]
    );
    assert_eq!(ledger["truncated"], true);
    let recent = served.json("/api/v1/events?since=10m").await;
    assert_eq!(texts(&recent["items"]).len(), 7);
    let (status, body) = served.get("/api/v1/events?service=finanse").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{body}");
    let (status, body) = served.get("/api/v1/events?since=lately").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        body.contains("since: lately, allowed a duration such as"),
        "{body}"
    );
}

#[tokio::test]
async fn events_of_a_removed_service_are_listed() {
    let served = Served::start().await;
    let removed = Event::new(EventCode::ServiceRemoved, "service old removed".to_owned()).of_service("old");
    served.live.events.emit(removed);
    let old = served.json("/api/v1/events?service=old").await;
    assert_eq!(texts(&old["items"]), ["service old removed"]);
}

#[tokio::test]
async fn the_page_and_its_changing_part_are_served_with_a_policy_and_a_tag() {
    let served = Served::start().await;
    let (parts, html) = served.send(Request::get("/").header("Host", "localhost")).await;
    assert_eq!(parts.status, StatusCode::OK);
    assert!(html.starts_with("<!DOCTYPE html>"));
    let policy = parts.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );

    let (parts, html) = served
        .send(Request::get("/state").header("Host", "localhost"))
        .await;
    assert!(html.starts_with("<div id=\"state\""), "{html}");
    let tag = parts.headers["etag"].clone();
    // Half a second may have passed: then there is another state, with another tag.
    let again = Request::get("/state")
        .header("Host", "localhost")
        .header("If-None-Match", &tag);
    let (parts, html) = served.send(again).await;
    match parts.status {
        StatusCode::NOT_MODIFIED => assert_eq!((html.as_str(), &parts.headers["etag"]), ("", &tag)),
        _ => assert_ne!(parts.headers["etag"], tag),
    }
}

#[tokio::test]
async fn loopback_answers_only_for_its_own_names() {
    let served = Served::start().await;
    for (host, wanted) in [
        ("localhost:9090", StatusCode::OK),
        ("127.0.0.1", StatusCode::OK),
        ("evil.example", StatusCode::FORBIDDEN),
    ] {
        for path in ["/", "/api/v1/flows", "/metrics"] {
            let (parts, body) = served.send(Request::get(path).header("Host", host)).await;
            assert_eq!(parts.status, wanted, "{host} {path}: {body}");
        }
    }
}
