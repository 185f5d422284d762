//! A Workload API that gives any answer.

use std::path::{Path, PathBuf};
use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};
use tower::Service;

use super::authority::{Authority, Issued};
use crate::nsm::proto::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use crate::nsm::proto::workload::{X509svid, X509svidRequest, X509svidResponse};

/// A Workload API on a Unix socket. It ends when it is dropped, and all connections with it.
pub(crate) struct FakeWorkloadApi {
    path: PathBuf,
    answer: watch::Sender<Answer>,
    server: tokio::task::AbortHandle,
}

#[derive(Debug, Clone, Default)]
enum Answer {
    /// No message yet.
    #[default]
    Silence,
    Message(X509svidResponse),
    /// What an agent says to a process that is not registered.
    NotRegistered,
    /// A clean end of the stream.
    End,
}

/// A message with one SVID and the bundles of these authorities.
pub(crate) fn message(svid: &Issued, authorities: &[&Authority]) -> X509svidResponse {
    let domain = svid
        .id
        .trim_start_matches("spiffe://")
        .split('/')
        .next()
        .unwrap_or_default();
    let mut message = X509svidResponse {
        svids: vec![X509svid {
            spiffe_id: svid.id.clone(),
            x509_svid: svid.certificate.to_vec(),
            x509_svid_key: svid.key.clone(),
            ..X509svid::default()
        }],
        ..X509svidResponse::default()
    };
    for authority in authorities {
        let bundle = if authority.trust_domain == domain {
            &mut message.svids[0].bundle
        } else {
            let key = format!("spiffe://{}", authority.trust_domain);
            message.federated_bundles.entry(key).or_default()
        };
        bundle.extend_from_slice(&authority.certificate);
    }
    message
}

impl FakeWorkloadApi {
    /// Listens, and is silent at first. Call it in a tokio runtime.
    pub(crate) fn start(path: &Path) -> Self {
        std::fs::remove_file(path).ok();
        let listener = UnixListener::bind(path).expect("a socket");
        let (answer, answers) = watch::channel(Answer::default());
        let server = tokio::spawn(async move {
            // The connections end with this task.
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let service = SpiffeWorkloadApiServer::new(Agent {
                    answers: answers.clone(),
                });
                let service =
                    hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                        service.clone().call(request)
                    });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move { connection.await.ok() });
            }
        })
        .abort_handle();
        Self {
            path: path.to_owned(),
            answer,
            server,
        }
    }

    /// The value of SPIFFE_ENDPOINT_SOCKET.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Sends this to all streams, open ones and later ones.
    pub(crate) fn send(&self, message: X509svidResponse) {
        self.answer.send_replace(Answer::Message(message));
    }

    /// Ends all streams, also later ones, as for a process that is not registered.
    pub(crate) fn reject(&self) {
        self.answer.send_replace(Answer::NotRegistered);
    }

    /// Ends all streams, also later ones.
    pub(crate) fn end(&self) {
        self.answer.send_replace(Answer::End);
    }
}

impl Drop for FakeWorkloadApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Agent {
    answers: watch::Receiver<Answer>,
}

#[async_trait::async_trait]
impl SpiffeWorkloadApi for Agent {
    type FetchX509SVIDStream = Pin<Box<dyn Stream<Item = Result<X509svidResponse, Status>> + Send>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        if request
            .metadata()
            .get("workload.spiffe.io")
            .is_none_or(|value| value != "true")
        {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        let mut answers = self.answers.clone();
        answers.mark_changed();
        let answers = stream::unfold(answers, |mut answers| async move {
            loop {
                answers.changed().await.ok()?;
                let answer = answers.borrow_and_update().clone();
                match answer {
                    Answer::Silence => {}
                    Answer::Message(message) => return Some((Ok(message), answers)),
                    Answer::NotRegistered => {
                        return Some((Err(Status::permission_denied("no identity issued")), answers));
                    }
                    Answer::End => return None,
                }
            }
        });
        Ok(Response::new(answers.boxed()))
    }
}
