//! Watch of a small collection: all objects first, then each change. Failures are recorded and retried for ever.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::api_calls::{ApiCalls, CallError, Role};
use crate::error_chain::chain;
use crate::kubernetes::error::{ConnectError, is_expired, status};
use crate::kubernetes::watch::{self, Signal};

/// A change of the collection.
#[derive(Debug)]
pub(super) enum Change<K> {
    /// The complete collection.
    All(Vec<K>),
    /// A new or modified object.
    Set(K),
    Removed(K),
}

/// Watches the objects of `namespace` that the label selector `labels` selects; `kind` names them in messages.
///
/// Errors: certificates or a token that cannot be read.
pub(super) fn stream<K>(
    config: &kube::Config,
    namespace: &str,
    labels: &str,
    kind: &str,
    calls: Arc<ApiCalls>,
) -> Result<BoxStream<'static, Change<K>>, ConnectError>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let signals = watch::stream(config, labels, |client| Api::<K>::namespaced(client, namespace))?;
    let attempt = format!("watch {kind} in namespace {namespace}");
    let state = (signals, Vec::new());
    let changes = stream::unfold(state, move |(mut signals, mut list)| {
        let (calls, attempt) = (Arc::clone(&calls), attempt.clone());
        async move {
            loop {
                let change = match signals.next().await? {
                    Signal::Started => {
                        calls.record(Role::Member, &attempt, None);
                        continue;
                    }
                    Signal::Event(Ok(Event::Init)) => continue,
                    Signal::Event(Ok(Event::InitApply(object))) => {
                        list.push(object);
                        continue;
                    }
                    Signal::Event(Ok(Event::InitDone)) => Change::All(std::mem::take(&mut list)),
                    Signal::Event(Ok(Event::Apply(object))) => Change::Set(object),
                    Signal::Event(Ok(Event::Delete(object))) => Change::Removed(object),
                    Signal::Event(Err(error)) => {
                        list.clear();
                        if !is_expired(&error) {
                            calls.record(Role::Member, &attempt, Some(reason(&error)));
                        }
                        continue;
                    }
                };
                calls.record(Role::Member, &attempt, None);
                return Some((change, (signals, list)));
            }
        }
    });
    Ok(changes.boxed())
}

/// The reason of a failed watch in the words of a failed call.
fn reason(error: &watcher::Error) -> String {
    match status(error) {
        Some(status) => CallError::from(Box::new(status.clone())).to_string(),
        None => chain(std::error::Error::source(error).unwrap_or(error)),
    }
}
