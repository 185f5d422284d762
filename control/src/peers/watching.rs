//! Watches of kinds that few objects are of: all of them first, then each change.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::api_calls::{ApiCalls, forbidden};
use crate::discovery::kubernetes::connection::{WATCH, client};
use crate::discovery::kubernetes::failure::{chain, needs_list, status};

/// What a watch tells.
#[derive(Debug)]
pub(super) enum Change<K> {
    /// Everything that is there.
    All(Vec<K>),
    /// Something that is new or different.
    Set(K),
    Gone(K),
}

/// Follows the objects of `namespace` that have `label`, for ever: after failures, which `writes` is told,
/// with growing, random backoff. They are called `what` there.
///
/// Errors: certificates or a token that cannot be read.
pub(super) fn follow<K>(
    config: &kube::Config,
    namespace: &str,
    label: &str,
    what: &str,
    writes: Arc<ApiCalls>,
) -> Result<BoxStream<'static, Change<K>>, String>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let (begun, _) = mpsc::unbounded_channel();
    let api = Api::<K>::namespaced(client(config, 0, begun)?, namespace);
    let seconds = u32::try_from(WATCH.as_secs()).expect("a minute's seconds fit");
    let params = watcher::Config::default().labels(label).timeout(seconds);
    let attempt = format!("watch {what} in namespace {namespace}");
    let state = (events(api, params).boxed(), Vec::new());
    let changes = stream::unfold(state, move |(mut events, mut list)| {
        let (writes, attempt) = (Arc::clone(&writes), attempt.clone());
        async move {
            loop {
                let change = match events.next().await? {
                    Ok(Event::Init) => continue,
                    Ok(Event::InitApply(object)) => {
                        list.push(object);
                        continue;
                    }
                    Ok(Event::InitDone) => Change::All(std::mem::take(&mut list)),
                    Ok(Event::Apply(object)) => Change::Set(object),
                    Ok(Event::Delete(object)) => Change::Gone(object),
                    Err(error) => {
                        list.clear();
                        if let Some(reason) = reason(&error) {
                            writes.note(&attempt, Some(reason));
                        }
                        continue;
                    }
                };
                writes.note(&attempt, None);
                return Some((change, (events, list)));
            }
        }
    });
    Ok(changes.boxed())
}

/// Why a watch failed. `None` if it is no fault: the server has forgotten the state that was asked about,
/// and a new list follows.
fn reason(error: &watcher::Error) -> Option<String> {
    match status(error) {
        Some(status) if status.code == 410 => None,
        Some(status) if status.code == 403 => Some(forbidden(&status.message)),
        Some(status) => Some(format!("{} {}", status.code, status.message)),
        None => Some(chain(std::error::Error::source(error).unwrap_or(error))),
    }
}

/// What a watcher says, with backoff after failures: longer ones after several, and random, so that
/// balancers do not come back all at once. A watcher that cannot go on is replaced.
///
/// The watcher says that it begins a list before it has asked for it. That is left out: it would count
/// as a success between two failures, and the backoff would never grow.
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
