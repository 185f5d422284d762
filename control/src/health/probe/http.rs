//! A GET request over HTTP/1.1 (RFC 9110, RFC 9112), with or without TLS. The head of the response is the answer; its
//! content is not read.

use std::future::pending;
use std::net::SocketAddr;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Answer, tcp, tls};
use crate::config::HttpCheck;
use crate::error_chain::chain;

/// A longer head of a response is a failure.
const LONGEST_HEAD: usize = 64 << 10;
/// The name of HTTP/1.1 in TLS (RFC 7301 section 6).
const ALPN: &[u8] = b"http/1.1";
const AGENT: &str = concat!("vl3-lb/", env!("CARGO_PKG_VERSION"));

pub(super) async fn check(check: &HttpCheck, address: SocketAddr) -> Result<(), Answer> {
    let stream = tcp::connect(address).await?;
    match &check.tls {
        None => get(check, address, stream).await,
        Some(settings) => {
            let names = (check.host_name(), address.ip());
            let stream = tls::connect(stream, settings, names, ALPN).await?;
            get(check, address, stream).await
        }
    }
}

async fn get<S>(check: &HttpCheck, address: SocketAddr, stream: S) -> Result<(), Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut requests, connection) = http1::Builder::new()
        .max_buf_size(LONGEST_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let host = check.host.clone().unwrap_or_else(|| address.to_string());
    let request = Request::get(&check.path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .expect("the configuration has a path and a host");
    let response = requests.send_request(request);
    // The connection may end with the response, which is then read already.
    let driven = async {
        drop(connection.await);
        pending().await
    };
    let response = tokio::select! {
        response = response => response.map_err(failed)?,
        () = driven => return Err(Answer::unexpected("it closed the connection")),
    };
    let status = response.status().as_u16();
    if check.status.contains(status) {
        Ok(())
    } else {
        let allowed = check.status;
        Err(Answer::unexpected(format_args!(
            "status {status}, allowed {allowed}"
        )))
    }
}

/// The connection was lost, or the response is no HTTP.
fn failed(error: hyper::Error) -> Answer {
    let source = std::error::Error::source(&error);
    match source.and_then(|source| source.downcast_ref::<std::io::Error>()) {
        Some(source) => std::io::Error::from(source.kind()).into(),
        None => Answer::unexpected(chain(&error)),
    }
}
