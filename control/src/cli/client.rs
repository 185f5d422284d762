//! Asking a running balancer through its admin socket: HTTP over a Unix socket.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;

use super::exit::{Failure, FailureKind};

/// A balancer's admin socket.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub socket: PathBuf,
    /// Longest wait for an answer to begin, and between two parts of it.
    pub timeout: Duration,
}

/// What the balancer says when it refuses.
#[derive(Debug, Deserialize)]
struct Refusal {
    error: String,
    hint: Option<String>,
}

impl Client {
    /// The whole answer to a question.
    pub(super) async fn get(&self, path: &str, query: &[(String, String)]) -> Result<Bytes, Failure> {
        let body = self.open(path, query).await?;
        match tokio::time::timeout(self.timeout, body.collect()).await {
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
            Ok(Err(error)) => Err(self.unreachable(&error.to_string())),
            Err(_) => Err(self.late()),
        }
    }

    /// The answer to a question line by line.
    pub(super) async fn lines(&self, path: &str, query: &[(String, String)]) -> Result<Lines, Failure> {
        Ok(Lines {
            body: self.open(path, query).await?,
            rest: Vec::new(),
            patience: Some(self.timeout),
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
        let refusal = body
            .ok()
            .and_then(|body| serde_json::from_slice::<Refusal>(&body).ok());
        Err(match refusal {
            Some(Refusal { error, hint }) => Failure {
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
            .map_err(|error| Failure::new(FailureKind::Refused, format!("ask for {path}: {error}")))?;
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
        .hint("`vl3-lb run --config FILE` starts one, `--socket PATH` names another socket")
    }

    fn unreachable(&self, cause: &str) -> Failure {
        Failure::new(
            FailureKind::Unreachable,
            format!("ask the balancer at {}: {cause}", self.socket.display()),
        )
    }

    /// An answer without end has ended.
    fn gone(&self) -> Failure {
        Failure::new(
            FailureKind::Unreachable,
            format!(
                "the balancer at {} has ended, and its answer with it",
                self.socket.display()
            ),
        )
        .hint("`vl3-lb status` says whether there is one again")
    }

    fn late(&self) -> Failure {
        Failure::new(
            FailureKind::Unreachable,
            format!(
                "ask the balancer at {}: no answer within {:?}",
                self.socket.display(),
                self.timeout
            ),
        )
        .hint("`--timeout 30s` waits longer")
    }
}

/// An answer that is read line by line.
#[derive(Debug)]
pub(super) struct Lines {
    body: Incoming,
    rest: Vec<u8>,
    /// Longest wait between two parts; `None`: the answer has no end.
    patience: Option<Duration>,
    client: Client,
}

impl Lines {
    /// The answer has no end: each part takes as long as it takes, and if it does end, the balancer has.
    pub(super) fn without_end(self) -> Self {
        Self {
            patience: None,
            ..self
        }
    }

    /// The complete lines that arrived, each with its line feed; `None` at the end of the answer.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            let frame = match self.patience {
                Some(patience) => tokio::time::timeout(patience, self.body.frame())
                    .await
                    .map_err(|_| self.client.late())?,
                None => self.body.frame().await,
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                None if self.patience.is_some() => return Ok(None),
                Some(Err(error)) if self.patience.is_some() => {
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
