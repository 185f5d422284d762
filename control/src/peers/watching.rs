//! Watches of kinds that few objects are of: all of them first, then each change.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::api_calls::{ApiCalls, forbidden};
use crate::kubernetes::error::{ConnectError, chain, is_expired, status};
use crate::kubernetes::watch::{self, Signal};

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
/// with growing, random pauses. They are called `what` there.
///
/// Errors: certificates or a token that cannot be read.
pub(super) fn follow<K>(
    config: &kube::Config,
    namespace: &str,
    label: &str,
    what: &str,
    writes: Arc<ApiCalls>,
) -> Result<BoxStream<'static, Change<K>>, ConnectError>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let signals = watch::stream(config, label, |client| Api::<K>::namespaced(client, namespace))?;
    let attempt = format!("watch {what} in namespace {namespace}");
    let state = (signals, Vec::new());
    let changes = stream::unfold(state, move |(mut signals, mut list)| {
        let (writes, attempt) = (Arc::clone(&writes), attempt.clone());
        async move {
            loop {
                let change = match signals.next().await? {
                    Signal::Started => {
                        writes.note(&attempt, None);
                        continue;
                    }
                    Signal::Event(Ok(Event::Init)) => continue,
                    Signal::Event(Ok(Event::InitApply(object))) => {
                        list.push(object);
                        continue;
                    }
                    Signal::Event(Ok(Event::InitDone)) => Change::All(std::mem::take(&mut list)),
                    Signal::Event(Ok(Event::Apply(object))) => Change::Set(object),
                    Signal::Event(Ok(Event::Delete(object))) => Change::Gone(object),
                    Signal::Event(Err(error)) => {
                        list.clear();
                        if let Some(reason) = reason(&error) {
                            writes.note(&attempt, Some(reason));
                        }
                        continue;
                    }
                };
                writes.note(&attempt, None);
                return Some((change, (signals, list)));
            }
        }
    });
    Ok(changes.boxed())
}

/// Why a watch failed; `None` if it is no fault.
fn reason(error: &watcher::Error) -> Option<String> {
    match status(error) {
        Some(_) if is_expired(error) => None,
        Some(status) if status.code == 403 => Some(forbidden(&status.message)),
        Some(status) => Some(format!("{} {}", status.code, status.message)),
        None => Some(chain(std::error::Error::source(error).unwrap_or(error))),
    }
}
