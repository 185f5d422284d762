//! The way to the API server: its address and credentials, and a client for each watch that says when
//! the server answers.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper::{Request, Response};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tower::{Layer, Service};
use vl3lb_common::Duration;

use super::failure::chain;

/// The server ends a watch after this time and a new one begins, so a connection that died without a
/// word is noticed soon, and the age of what is known is never much more.
pub(crate) const WATCH: Duration = Duration::from_secs(60);
/// Lists and answers that come to a halt for so long are given up. Longer than a quiet watch.
const READ: Duration = Duration::from_secs(70);
const CONNECT: Duration = Duration::from_secs(10);
/// Two watches begin at least this far apart: a server or proxy that ends each at once is no error to
/// the watcher, and would be asked without a pause.
const PAUSE: Duration = Duration::from_secs(1);

/// Which API server.
#[derive(Debug)]
pub(crate) enum Server {
    /// As the environment says: a kubeconfig, else the pod's service account.
    Inferred,
    Given(Box<kube::Config>),
}

impl Server {
    /// Address, credentials and time limits. A service account's token is read again every minute by
    /// the client, so an expired one is replaced.
    ///
    /// Errors: neither a kubeconfig nor a service account can be read.
    pub(crate) async fn config(&self) -> Result<kube::Config, String> {
        let mut config = match self {
            Self::Inferred => kube::Config::infer()
                .await
                .map_err(|error| format!("find the Kubernetes API server: {}", chain(&error)))?,
            Self::Given(config) => (**config).clone(),
        };
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(READ);
        config.reset_reader_on_write = true;
        // Failures are told and paused for here.
        config.default_retry = false;
        Ok(config)
    }
}

/// A client for one watch, which sends `watch` to `answered` each time that one has begun.
///
/// Errors: certificates or a token that cannot be read.
pub(crate) fn client(
    config: &kube::Config,
    watch: usize,
    answered: mpsc::UnboundedSender<usize>,
) -> Result<Client, String> {
    let builder = ClientBuilder::try_from(config.clone())
        .map_err(|error| format!("prepare for {}: {}", config.cluster_url, chain(&error)))?;
    Ok(builder.with_layer(&Attending { watch, answered }).build())
}

/// Attends to a client's watches.
struct Attending {
    watch: usize,
    answered: mpsc::UnboundedSender<usize>,
}

impl<S> Layer<S> for Attending {
    type Service = Attended<S>;

    fn layer(&self, inner: S) -> Attended<S> {
        Attended {
            inner,
            watch: self.watch,
            answered: self.answered.clone(),
            earliest: None,
        }
    }
}

/// A client whose watches are attended to.
struct Attended<S> {
    inner: S,
    watch: usize,
    answered: mpsc::UnboundedSender<usize>,
    /// When the next watch may begin.
    earliest: Option<Instant>,
}

impl<S, B> Service<Request<Body>> for Attended<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send,
    B: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let is_watch = query.split('&').any(|pair| pair == "watch=true");
        let response = self.inner.call(request);
        if !is_watch {
            return Box::pin(response);
        }
        let now = Instant::now();
        let begin = self.earliest.map_or(now, |earliest| earliest.max(now));
        self.earliest = Some(begin + PAUSE);
        let (watch, answered) = (self.watch, self.answered.clone());
        Box::pin(async move {
            let response = response.await?;
            if response.status().is_success() {
                sleep_until(begin).await;
                // Nobody listens any more while watches are being replaced.
                answered.send(watch).ok();
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::service_fn;

    use super::*;

    #[tokio::test]
    async fn a_client_speaks_tls() {
        // Would fail without a cryptography provider, or with two of them.
        let config = kube::Config::new("https://127.0.0.1:1".parse().unwrap());
        let (answered, _answers) = mpsc::unbounded_channel();
        assert!(client(&config, 0, answered).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_ends_each_watch_at_once_is_not_hammered() {
        let (answered, mut answers) = mpsc::unbounded_channel();
        let inner = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(())) });
        let mut client = Attending { watch: 7, answered }.layer(inner);
        let request = |uri| Request::get(uri).body(Body::empty()).unwrap();
        let start = Instant::now();
        for round in 0..3 {
            client
                .call(request("/api/v1/pods?&watch=true&timeoutSeconds=60"))
                .await
                .unwrap();
            assert_eq!(answers.recv().await, Some(7));
            assert_eq!(start.elapsed().as_secs(), round);
        }
        client.call(request("/api/v1/pods?&limit=500")).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 2, "lists do not wait");
        assert!(answers.is_empty(), "and do not count");
    }
}
