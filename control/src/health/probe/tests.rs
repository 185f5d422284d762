//! Each kind of check against a server in this process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::HealthCheck;

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);

/// The kind of check that the configuration reads from this.
fn kind(check: &Value) -> CheckKind {
    let check = HealthCheck::parse(&check.to_string()).unwrap();
    check.unwrap().kind
}

async fn ask(check: Value, address: SocketAddr) -> (CheckResult, String) {
    let answer = NetworkProbe.ask(&kind(&check), address, LONG).await;
    (answer.result, answer.text)
}

fn good() -> (CheckResult, String) {
    (CheckResult::Ok, "ok".to_owned())
}

fn unexpected(text: &str) -> (CheckResult, String) {
    (CheckResult::Unexpected, format!("unexpected: {text}"))
}

/// A server that reads a request and writes `response`, with TLS if it has a certificate. Returns its address, and the last
/// request after it.
async fn http_server(
    response: &'static str,
    tls: Option<Arc<ServerConfig>>,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (requests, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            if let Some(tls) = &tls {
                // The client may not like the certificate.
                let Ok(mut stream) = TlsAcceptor::from(Arc::clone(tls)).accept(stream).await else {
                    continue;
                };
                let length = stream.read(&mut request).await.unwrap_or(0);
                stream.write_all(response.as_bytes()).await.ok();
                request.truncate(length);
            } else {
                let mut stream = stream;
                let length = stream.read(&mut request).await.unwrap_or(0);
                stream.write_all(response.as_bytes()).await.ok();
                request.truncate(length);
            }
            requests.send(String::from_utf8(request).unwrap()).ok();
        }
    });
    (address, receiver)
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test]
async fn the_status_of_a_response_decides() {
    let cases = [
        (OK, json!({}), good()),
        ("HTTP/1.0 302 Found\r\n\r\n", json!({}), good()),
        (
            "HTTP/1.1 503 Service Unavailable\r\n\r\n",
            json!({}),
            unexpected("status 503, allowed 200-399"),
        ),
        ("HTTP/1.1 503 x\r\n\r\n", json!({"status": "500-599"}), good()),
        (OK, json!({"status": 204}), unexpected("status 200, allowed 204")),
        (
            "",
            json!({}),
            unexpected("connection closed before message completed"),
        ),
    ];
    for (response, settings, want) in cases {
        let (address, _requests) = http_server(response, None).await;
        let got = ask(json!({"http": settings}), address).await;
        assert_eq!(got, want, "{response}");
    }
    let (address, _requests) = http_server("220 smtp\r\n", None).await;
    let (result, text) = ask(json!({"http": {}}), address).await;
    assert_eq!(result, CheckResult::Unexpected, "{text}");
}

#[tokio::test]
async fn a_request_has_the_path_and_the_host_of_the_configuration() {
    let (address, mut requests) = http_server(OK, None).await;
    let check = json!({"http": {"path": "/ready?deep=1", "host": "finance.example:8080"}});
    assert_eq!(ask(check, address).await, good());
    let request = requests.recv().await.unwrap().to_lowercase();
    assert!(request.starts_with("get /ready?deep=1 http/1.1\r\n"), "{request}");
    assert!(
        request.contains("\r\nhost: finance.example:8080\r\n"),
        "{request}"
    );
    assert_eq!(ask(json!({"http": {}}), address).await, good());
    let request = requests.recv().await.unwrap().to_lowercase();
    assert!(request.starts_with("get / http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nhost: {address}\r\n")), "{request}");
}

/// An authority in PEM, and the configuration of a server with a certificate of it.
fn authority(name: &str, names: &[&str]) -> (String, Arc<ServerConfig>) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, name);
    let authority = parameters.self_signed(&key).unwrap();
    let pem = pem_of(authority.der());
    let issuer = Issuer::new(parameters, key);
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let leaf = CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    (pem, Arc::new(config))
}

fn pem_of(certificate: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

#[tokio::test]
async fn a_certificate_is_verified_unless_that_is_switched_off() {
    let (pem, server) = authority("ours", &["finance.example", "127.0.0.1"]);
    let (other, _) = authority("other", &["finance.example"]);
    let (address, mut requests) = http_server(OK, Some(server)).await;
    let https = |host: &str, tls: Value| json!({"http": {"host": host, "tls": tls}});
    for check in [
        https("finance.example", json!({"ca": pem})),
        https("finance.example:8443", json!({"ca": pem})),
        https("other.example", json!({"ca": pem, "name": "finance.example"})),
        https("other.example", json!({"verify": false})),
        json!({"http": {"tls": {"ca": format!("{other}{pem}")}}}),
    ] {
        assert_eq!(kind(&check).name(), "https");
        assert_eq!(ask(check.clone(), address).await, good(), "{check}");
        assert!(requests.recv().await.unwrap().starts_with("GET / "));
    }
    for (check, fault) in [
        (https("finance.example", json!({"ca": other})), "UnknownIssuer"),
        (https("other.example", json!({"ca": pem})), "not valid for name"),
    ] {
        let (result, text) = ask(check, address).await;
        assert_eq!(result, CheckResult::Unexpected);
        assert!(
            text.starts_with("unexpected: tls: invalid peer certificate: ") && text.contains(fault),
            "{text}"
        );
    }
    let (plain, _requests) = http_server(OK, None).await;
    let (result, text) = ask(json!({"http": {"tls": {"verify": false}}}), plain).await;
    assert_eq!(result, CheckResult::Unexpected);
    assert!(text.starts_with("unexpected: tls: "), "{text}");
}

/// A gRPC server that answers each call with this message, if there is one, and then these trailers. It serves one
/// connection after the other.
async fn grpc_server(message: Option<&'static [u8]>, status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let respond = move |request: Request<Incoming>| async move {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        let data = message.map(|message| Frame::data(Bytes::from_static(message)));
        let frames = data.into_iter().chain([Frame::trailers(trailers)]);
        let body = StreamBody::new(stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
        let response = Response::builder().header("content-type", "application/grpc");
        Ok::<_, std::convert::Infallible>(response.body(body).unwrap())
    };
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(respond);
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    address
}

#[tokio::test]
async fn a_grpc_server_is_healthy_while_it_serves() {
    for (message, status, want) in [
        (Some(&[0, 0, 0, 0, 2, 8, 1][..]), "0", good()),
        (Some(&[0, 0, 0, 0, 2, 8, 2]), "0", unexpected("NOT_SERVING")),
        (Some(&[0, 0, 0, 0, 2, 8, 3]), "0", unexpected("SERVICE_UNKNOWN")),
        (Some(&[0, 0, 0, 0, 0]), "0", unexpected("status UNKNOWN")),
        (None, "5", unexpected("the server does not know the service")),
        (None, "12", unexpected("the server has no grpc.health.v1")),
        (None, "14", unexpected("Unavailable")),
    ] {
        let address = grpc_server(message, status).await;
        let got = ask(json!({"grpc": {"service": "finance.Ledger"}}), address).await;
        assert_eq!(got, want, "{message:?} {status}");
    }
    let (web, _requests) = http_server(OK, None).await;
    let (result, text) = ask(json!({"grpc": {}}), web).await;
    assert_eq!(result, CheckResult::Unexpected, "{text}");
}

#[tokio::test]
async fn a_datagram_is_answered_as_expected() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = server.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut buffer = [0; 100];
        loop {
            let (length, client) = server.recv_from(&mut buffer).await.unwrap();
            if buffer[..length] != *b"silence" {
                server.send_to(b"+PONG\r\n", client).await.unwrap();
            }
        }
    });
    for (expect, want) in [
        ("", good()),
        ("+PONG", good()),
        ("hex:2b50", good()),
        (
            "-ERR",
            unexpected(r#"an answer of 7 bytes that begins with "+PONG\r\n""#),
        ),
    ] {
        let check = json!({"udp": {"payload": "PING\r\n", "expect": expect}});
        assert_eq!(ask(check, address).await, want, "{expect}");
    }
    let silent = kind(&json!({"udp": {"payload": "silence"}}));
    let answer = NetworkProbe.ask(&silent, address, SHORT).await;
    assert_eq!(answer.text, "timeout: no answer in 200ms");
    serving.abort();
    serving.await.unwrap_err();
    let (result, _) = ask(json!({"udp": {"payload": "hex:00"}}), address).await;
    assert_eq!(result, CheckResult::Refused);
}

#[tokio::test]
async fn a_host_that_replies_to_echo_requests_is_healthy() {
    for own in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let (result, text) = ask(json!({"ping": {}}), (own, 0).into()).await;
        // Of an unprivileged user.
        let is_forbidden = result == CheckResult::Error && text.contains("CAP_NET_RAW");
        assert!(result == CheckResult::Ok || is_forbidden, "{own}: {text}");
    }
}

/// A backend that accepts and never answers holds no task and no connection longer than the limit.
#[tokio::test]
async fn a_backend_that_never_answers_times_out_in_every_kind() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    for check in [
        json!({"http": {}}),
        json!({"http": {"tls": {"verify": false}}}),
        json!({"grpc": {}}),
        json!({"grpc": {"tls": {"verify": false}}}),
    ] {
        let asking = NetworkProbe.ask(&kind(&check), address, SHORT).await;
        assert_eq!(asking.text, "timeout: no answer in 200ms", "{check}");
        let (mut accepted, _) = listener.accept().await.unwrap();
        let mut rest = Vec::new();
        let ended = accepted.read_to_end(&mut rest).await;
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset, "{check}");
    }
}

#[test]
fn errors_of_the_balancer_itself_are_no_verdict() {
    for (raw, want) in [
        (rustix::io::Errno::HOSTUNREACH, CheckResult::Unreachable),
        (rustix::io::Errno::NETUNREACH, CheckResult::Unreachable),
        (rustix::io::Errno::TIMEDOUT, CheckResult::Timeout),
        (rustix::io::Errno::MFILE, CheckResult::Error),
        (rustix::io::Errno::ADDRNOTAVAIL, CheckResult::Error),
        (rustix::io::Errno::PERM, CheckResult::Error),
    ] {
        assert_eq!(Answer::from(io::Error::from(raw)).result, want, "{raw:?}");
    }
}
