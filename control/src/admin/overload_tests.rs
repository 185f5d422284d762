//! Clients that open too much, send too little or read too slowly.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::reports::Reports;
use super::server::connection;
use super::tests::no_profiles;
use super::{Admin, Listeners, MAX_STREAMS, routes, serve};
use crate::config::{ApiFor, Listener, Metrics};
use crate::connections::{Limits, Slots, Source};
use crate::observe::report::fixture::{Live, flow, live};

/// Far longer than any deadline of the server, which real time does not reach.
const LONG: Duration = Duration::from_secs(600);

/// A connection in memory, on the clock of the test.
fn connect(live: &Live) -> DuplexStream {
    let (client, server) = duplex(4096);
    let slots = Slots::new(Limits::of_process());
    let slot = slots.admit(Source::Local);
    let requests = slot.requests();
    let routes = routes(Admin::new(
        Arc::clone(&live.reporter),
        Metrics::default(),
        no_profiles(),
    ));
    tokio::spawn(async move {
        connection(server, routes, requests).await;
        drop(slot);
    });
    client
}

async fn request(client: &mut (impl tokio::io::AsyncWrite + Unpin), path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
}

/// Reads until the answer has `text`.
async fn expect(client: &mut (impl tokio::io::AsyncRead + Unpin), text: &str) {
    let mut answer = String::new();
    while !answer.contains(text) {
        let mut part = [0; 1024];
        let length = client.read(&mut part).await.unwrap();
        assert_ne!(length, 0, "{text} is missing: {answer}");
        answer += std::str::from_utf8(&part[..length]).unwrap();
    }
}

#[tokio::test]
async fn probes_are_answered_while_idle_connections_are_at_the_limit() {
    let live = live(1);
    let folder = tempfile::tempdir().unwrap();
    let listener = Listener {
        key: "admin.listen",
        address: ([127, 0, 0, 1], 0).into(),
        api_for: ApiFor::All,
    };
    let listeners = Listeners::open(&[listener], &folder.path().join("admin.sock"))
        .await
        .unwrap();
    let address = listeners.addresses().unwrap()[0];
    let task = tokio::spawn(serve(
        listeners,
        Arc::clone(&live.reporter),
        Metrics::default(),
        no_profiles(),
    ));
    let limit = Limits::of_process().per_source;
    let mut idle = Vec::new();
    for _ in 0..limit + 20 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let mut probe = TcpStream::connect(address).await.unwrap();
    request(&mut probe, "/healthz").await;
    expect(&mut probe, "200 OK").await;
    // The oldest are closed: their reads end.
    for client in &mut idle[..20] {
        let read = timeout(LONG, client.read(&mut [0])).await;
        assert_eq!(read.expect("the connection is closed").unwrap(), 0);
    }
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_is_closed() {
    let live = live(1);
    for sent in ["", "GET /healthz HTTP/1.1\r\nhost: lo"] {
        let mut client = connect(&live);
        client.write_all(sent.as_bytes()).await.unwrap();
        let begin = Instant::now();
        let read = timeout(LONG, client.read(&mut [0])).await;
        assert_eq!(read.expect("the connection is closed").unwrap(), 0, "{sent:?}");
        assert!(begin.elapsed() > Duration::from_secs(60), "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_its_last_response() {
    let live = live(1);
    let mut client = connect(&live);
    request(&mut client, "/healthz").await;
    expect(&mut client, "ok\n").await;
    let read = timeout(LONG, client.read(&mut [0])).await;
    assert_eq!(read.expect("the connection is closed").unwrap(), 0);
}

/// Twenty thousand flows: some megabytes, which no buffer holds.
fn fill(live: &Live) {
    *live.recorder.flows.lock().unwrap() = vec![(0..20_000).map(|number| flow(0, number)).collect()];
}

#[tokio::test]
async fn stalled_streams_keep_nobody_out() {
    let live = live(1);
    fill(&live);
    let routes = routes(Admin::new(
        Arc::clone(&live.reporter),
        Metrics::default(),
        no_profiles(),
    ));
    let slots = Slots::new(Limits::of_process());
    let open = || {
        let (client, server) = duplex(4096);
        let slot = slots.admit(Source::Local);
        let (routes, requests) = (routes.clone(), slot.requests());
        tokio::spawn(async move {
            let _slot = slot;
            connection(server, routes, requests).await;
        });
        client
    };
    let mut stalled = Vec::new();
    for _ in 0..MAX_STREAMS {
        let mut client = open();
        request(&mut client, "/api/v1/flows?all=true").await;
        expect(&mut client, "\"client\"").await;
        stalled.push(client);
    }
    let mut other = open();
    request(&mut other, "/api/v1/flows?limit=1").await;
    expect(&mut other, "\"matchedTotal\":20000").await;
    request(&mut other, "/api/v1/flows?all=true").await;
    expect(&mut other, "503").await;
    // One that ends makes room.
    drop(stalled.pop());
    let again = async {
        loop {
            let mut client = open();
            request(&mut client, "/api/v1/flows?all=true").await;
            let mut status = [0; 12];
            client.read_exact(&mut status).await.unwrap();
            if status.ends_with(b"200") {
                return;
            }
        }
    };
    timeout(LONG, again).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stalled_reader_is_disconnected() {
    let live = live(1);
    fill(&live);
    let mut client = connect(&live);
    request(&mut client, "/api/v1/flows?all=true").await;
    tokio::time::sleep(LONG).await;
    let mut rest = Vec::new();
    timeout(LONG, client.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(rest).unwrap();
    assert!(text.contains("200 OK") && !text.contains("\"end\""), "cut short");
}

#[tokio::test]
async fn requests_at_once_share_a_report() {
    let live = live(1);
    let reports = Reports::new(Arc::clone(&live.reporter));
    // All of them wait before the first report is begun.
    let building = Arc::clone(&reports.last).lock_owned().await;
    let mut requests = Box::pin(join_all((0..10).map(|_| reports.get())));
    assert!(requests.as_mut().now_or_never().is_none());
    drop(building);
    let shared = requests.await;
    let mut distinct: Vec<_> = shared
        .iter()
        .map(|report| Arc::as_ptr(report.as_ref().unwrap()))
        .collect();
    distinct.dedup();
    assert_eq!(distinct.len(), 1);
    let later = reports.get().await.unwrap();
    assert!(
        !Arc::ptr_eq(&later, shared[9].as_ref().unwrap()),
        "a later request gets a new one"
    );
}

#[tokio::test]
async fn work_that_is_given_up_keeps_its_turn() {
    let live = live(1);
    let admin = Admin::new(Arc::clone(&live.reporter), Metrics::default(), no_profiles());
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let given_up = admin.blocking("wait", move || wait.recv().ok());
    let given_up = timeout(Duration::from_millis(10), given_up);
    assert!(given_up.await.is_err());
    assert_eq!(admin.blocking.available_permits(), super::BLOCKING - 1);
    drop(release);
    timeout(LONG, async {
        while admin.blocking.available_permits() < super::BLOCKING {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}
