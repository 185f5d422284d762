//! The client of the admin socket: HTTP over a Unix socket.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::exit::{Failure, FailureKind};

/// The admin socket of a balancer with the default configuration.
pub(super) const DEFAULT_SOCKET: &str = "/run/vl3-lb/admin.sock";

/// A balancer's admin socket.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub socket: PathBuf,
    /// Limit of the wait for an answer, and for each next part of it.
    pub timeout: Duration,
}

/// The body of an error.
#[derive(Debug, Deserialize)]
struct ErrorBody {
    error: String,
    hint: Option<String>,
}

impl Client {
    /// The whole answer to a request.
    pub(super) async fn get(&self, path: &str, query: &[(String, String)]) -> Result<Bytes, Failure> {
        let body = self.open(path, query).await?;
        match tokio::time::timeout(self.timeout, body.collect()).await {
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
            Ok(Err(error)) => Err(self.unreachable(&error.to_string())),
            Err(_) => Err(self.late()),
        }
    }

    /// The answer to a request, line by line.
    pub(super) async fn lines(&self, path: &str, query: &[(String, String)]) -> Result<Lines, Failure> {
        Ok(Lines {
            body: self.open(path, query).await?,
            rest: Vec::new(),
            idle_limit: Some(self.timeout),
            client: self.clone(),
        })
    }

    async fn open(&self, path: &str, query: &[(String, String)]) -> Result<Incoming, Failure> {
        let response = tokio::time::timeout(self.timeout, self.request(path, query))
            .await
            .map_err(|_| self.late())??;
        if response.status() == StatusCode::OK {
            return Ok(response.into_body());
        }
        let status = response.status();
        let body = response.into_body().collect().await.map(|body| body.to_bytes());
        let body = body
            .ok()
            .and_then(|body| serde_json::from_slice::<ErrorBody>(&body).ok());
        Err(match body {
            Some(ErrorBody { error, hint }) => Failure {
                kind: FailureKind::Answered,
                error,
                hint,
            },
            None => Failure::new(
                FailureKind::Answered,
                format!("{path}: the balancer answered {status}"),
            ),
        })
    }

    async fn request(&self, path: &str, query: &[(String, String)]) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => self.absent(),
                _ => self.unreachable(&error.to_string()),
            })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(&error.to_string()))?;
        // Ends with the answer or with the sender; errors show up there.
        tokio::spawn(connection);
        let encoded = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(query)
            .finish();
        let request = Request::get(format!("{path}?{encoded}"))
            .header(hyper::header::HOST, "localhost")
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure::new(FailureKind::Refused, format!("query {path}: {error}")))?;
        sender
            .send_request(request)
            .await
            .map_err(|error| self.unreachable(&error.to_string()))
    }

    fn absent(&self) -> Failure {
        Failure::new(
            FailureKind::Unreachable,
            format!(
                "balancer not running or still starting ({})",
                self.socket.display()
            ),
        )
        .hint("`vl3-lb run --config FILE` starts a balancer; `--socket PATH` selects another socket")
    }

    fn unreachable(&self, cause: &str) -> Failure {
        Failure::new(
            FailureKind::Unreachable,
            format!("query the balancer at {}: {cause}", self.socket.display()),
        )
    }

    /// An endless answer has ended.
    fn gone(&self) -> Failure {
        Failure::new(
            FailureKind::Unreachable,
            format!("the balancer at {} has ended the stream", self.socket.display()),
        )
        .hint("`vl3-lb status` shows whether it runs")
    }

    /// A stream has ended before its trailer.
    pub(super) fn cut_short(&self) -> Failure {
        Failure::new(
            FailureKind::Unreachable,
            format!(
                "the answer of the balancer at {} was cut short",
                self.socket.display()
            ),
        )
        .hint("the balancer ends a stream that is not read for 30s; read it faster, or filter the flows")
    }

    fn late(&self) -> Failure {
        Failure::new(
            FailureKind::Unreachable,
            format!(
                "query the balancer at {}: no answer within {:?}",
                self.socket.display(),
                self.timeout
            ),
        )
        .hint("`--timeout 30s` waits longer")
    }
}

/// Decodes a JSON answer.
pub(super) fn read<T: DeserializeOwned>(document: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(document).map_err(|error| unreadable(&error))
}

/// An answer that this version of the program cannot decode.
pub(super) fn unreadable(error: &serde_json::Error) -> Failure {
    Failure::new(
        FailureKind::Answered,
        format!("read the balancer's answer: {error}"),
    )
    .hint("does the balancer have another version? compare `vl3-lb --version` with that of `status --json`")
}

/// The lines of a part, without their line feeds.
pub(super) fn lines_of(part: &[u8]) -> impl Iterator<Item = &[u8]> {
    part.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

/// An answer that is read line by line.
#[derive(Debug)]
pub(super) struct Lines {
    body: Incoming,
    rest: Vec<u8>,
    /// Limit of the wait for the next part; `None` for an endless answer.
    idle_limit: Option<Duration>,
    client: Client,
}

impl Lines {
    /// Makes it an endless answer: parts have no time limit, and its end is the end of the balancer.
    pub(super) fn endless(self) -> Self {
        Self {
            idle_limit: None,
            ..self
        }
    }

    /// Waits so long for each next part.
    pub(super) fn with_idle_limit(self, limit: Duration) -> Self {
        Self {
            idle_limit: Some(limit),
            ..self
        }
    }

    /// The complete lines that arrived, each with its line feed; `None` at the end of the answer.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            let frame = match self.idle_limit {
                Some(idle_limit) => tokio::time::timeout(idle_limit, self.body.frame())
                    .await
                    .map_err(|_| self.client.late())?,
                None => self.body.frame().await,
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                None if self.idle_limit.is_some() => return Ok(None),
                Some(Err(error)) if self.idle_limit.is_some() => {
                    return Err(self.client.unreachable(&error.to_string()));
                }
                None | Some(Err(_)) => return Err(self.client.gone()),
            };
            if let Some(data) = frame.data_ref() {
                self.rest.extend_from_slice(data);
            }
            if let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') {
                let rest = self.rest.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.rest, rest)));
            }
        }
    }
}
