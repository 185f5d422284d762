//! The watch stream: a full list first, then each change, with retries for ever.

use std::fmt::Debug;

use futures_util::stream::{self, BoxStream, PollNext};
use futures_util::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use vl3lb_common::Duration;

use super::client::watch_client;
use super::error::{ConnectError, is_expired};

/// The server ends a watch after this time and the next one begins, so that a connection that died silently is
/// detected, and the age of what is known stays bounded.
const TIMEOUT: Duration = Duration::from_secs(60);

/// One item of a watch stream.
#[derive(Debug)]
pub(crate) enum Signal<K> {
    /// The server accepted a watch request: it is reachable, although there may be no changes.
    Started,
    Event(watcher::Result<Event<K>>),
}

/// Lists and watches the objects that the label selector `labels` selects (empty: all) on a connection of its own.
/// Never ends. `api` chooses kind and namespace.
///
/// After a failure it pauses before it retries; pauses grow with consecutive failures and are random, so that
/// balancers do not reconnect in step.
///
/// Errors: certificates or a token that cannot be read.
pub(crate) fn stream<K>(
    config: &kube::Config,
    labels: &str,
    api: impl FnOnce(Client) -> Api<K>,
) -> Result<BoxStream<'static, Signal<K>>, ConnectError>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let (started, mut starts) = mpsc::unbounded_channel();
    let api = api(watch_client(config, started)?);
    let seconds = u32::try_from(TIMEOUT.as_secs()).expect("a minute's seconds fit");
    let params = watcher::Config::default().labels(labels).timeout(seconds);
    let starts = stream::poll_fn(move |context| starts.poll_recv(context)).map(|()| Signal::Started);
    let events = events(api, params).map(Signal::Event);
    // A start comes before the events of its watch.
    Ok(stream::select_with_strategy(starts, events, |(): &mut ()| PollNext::Left).boxed())
}

/// The watcher announces a list before it requests it. That is left out: it would count as a success between two
/// failures, and the pauses would never grow. A watcher that cannot resume is replaced.
fn events<K>(api: Api<K>, params: watcher::Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let start = move || watcher(api.clone(), params.clone()).boxed();
    stream::unfold((None, start), async |(running, start)| {
        let mut running: BoxStream<'static, _> = running.unwrap_or_else(&start);
        loop {
            let event = running.next().await?;
            if matches!(event, Ok(Event::Init)) {
                continue;
            }
            let again = event.as_ref().err().is_some_and(needs_list);
            return Some((event, ((!again).then_some(running), start)));
        }
    })
    .default_backoff()
}

/// Whether a watch can never resume where the last one ended.
fn needs_list(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(_)) && is_expired(error)
}
