//! Connections to the API server: address, credentials and time limits, and a client for each watch.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper::{Request, Response};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tower::{Layer, Service};
use vl3lb_common::Duration;

use super::error::ConnectError;

/// A response that makes no progress for this long is given up. Longer than a quiet watch lasts.
const READ: Duration = Duration::from_secs(70);
const CONNECT: Duration = Duration::from_secs(10);
/// Time between the starts of two watches, at least. A server or proxy that ends each watch at once is no error to
/// the watcher, which would start the next one without a pause.
const PAUSE: Duration = Duration::from_secs(1);

/// Which API server to use.
#[derive(Debug)]
pub(crate) enum Server {
    /// That of a kubeconfig (KUBECONFIG), else of the pod's service account.
    Inferred,
    Given(Box<kube::Config>),
}

impl Server {
    /// Address, credentials and time limits. The client re-reads a service account's token every minute, so an
    /// expired token is replaced.
    ///
    /// Errors: neither a kubeconfig nor a service account can be read.
    pub(crate) async fn config(&self) -> Result<kube::Config, ConnectError> {
        let mut config = match self {
            Self::Inferred => kube::Config::infer()
                .await
                .map_err(|source| ConnectError::Config {
                    source: Box::new(source),
                })?,
            Self::Given(config) => (**config).clone(),
        };
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(READ);
        config.reset_reader_on_write = true;
        // Callers report failures and pause.
        config.default_retry = false;
        Ok(config)
    }
}

/// A client with the credentials of `config`.
///
/// Errors: certificates or a token that cannot be read.
pub(crate) fn client(config: &kube::Config) -> Result<Client, ConnectError> {
    let builder = ClientBuilder::try_from(config.clone());
    Ok(builder.map_err(|source| unusable(config, source))?.build())
}

/// A client for one watch, which sends to `started` each time that the server accepts a watch request.
///
/// Errors: certificates or a token that cannot be read.
pub(super) fn watch_client(
    config: &kube::Config,
    started: mpsc::UnboundedSender<()>,
) -> Result<Client, ConnectError> {
    let builder = ClientBuilder::try_from(config.clone()).map_err(|source| unusable(config, source))?;
    Ok(builder.with_layer(&WatchPacing { started }).build())
}

fn unusable(config: &kube::Config, source: kube::Error) -> ConnectError {
    ConnectError::Client {
        url: config.cluster_url.to_string(),
        source: Box::new(source),
    }
}

/// Spaces out the starts of watches, and reports them.
struct WatchPacing {
    started: mpsc::UnboundedSender<()>,
}

impl<S> Layer<S> for WatchPacing {
    type Service = Paced<S>;

    fn layer(&self, inner: S) -> Paced<S> {
        Paced {
            inner,
            started: self.started.clone(),
            earliest: None,
        }
    }
}

/// An HTTP service whose watches are paced.
struct Paced<S> {
    inner: S,
    started: mpsc::UnboundedSender<()>,
    /// When the next watch may start.
    earliest: Option<Instant>,
}

impl<S, B> Service<Request<Body>> for Paced<S>
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
        let started = self.started.clone();
        Box::pin(async move {
            let response = response.await?;
            if response.status().is_success() {
                sleep_until(begin).await;
                // The receiver is gone while the stream is being dropped.
                started.send(()).ok();
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
        assert!(client(&config).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_ends_each_watch_at_once_is_not_hammered() {
        let (started, mut starts) = mpsc::unbounded_channel();
        let inner = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(())) });
        let mut client = WatchPacing { started }.layer(inner);
        let request = |uri| Request::get(uri).body(Body::empty()).unwrap();
        let start = Instant::now();
        for round in 0..3 {
            client
                .call(request("/api/v1/pods?&watch=true&timeoutSeconds=60"))
                .await
                .unwrap();
            assert_eq!(starts.recv().await, Some(()));
            assert_eq!(start.elapsed().as_secs(), round);
        }
        client.call(request("/api/v1/pods?&limit=500")).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 2, "lists do not wait");
        assert!(starts.is_empty(), "and do not count");
    }
}
