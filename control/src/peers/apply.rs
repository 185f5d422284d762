//! Brings what stands in Kubernetes in line with what should, object by object.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;
use vl3lb_common::Duration;

use super::Shared;
use super::api_calls::{Backoff, Resource, WriteError};
use super::desired::{Key, Kind, Objects};
use super::lease::GROUP;
use crate::discovery::StaleStatus;
use crate::kubernetes::names::{CONTROLLER, MANAGED_BY, MANAGER};

/// What was written is written again after this time, in case somebody changed it.
const AGAIN: Duration = Duration::from_secs(300);
/// A failed write is tried again after this time at the latest.
const LONGEST: Duration = Duration::from_secs(30);

/// What this balancer has written as the leader, since it is.
#[derive(Debug, Default)]
pub(super) struct Applier {
    written: BTreeMap<Key, Written>,
    /// Whether it is known what slices leaders before have left.
    listed: bool,
    /// Services with a status that leaders before have left, as far as they were taken note of.
    left: Arc<Vec<StaleStatus>>,
}

/// The state of an object.
#[derive(Debug)]
struct Written {
    /// What was applied last; `None` if that did not work, or by somebody else.
    object: Option<Value>,
    /// When to write it next, if it does not change.
    next: Instant,
    backoff: Backoff,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
enum Write {
    Apply(Value),
    /// Takes away what a leader once wrote.
    Remove,
}

impl Applier {
    /// What there is to write at `now` for `wanted` to be. Pure.
    fn due(&self, wanted: &Objects, now: Instant) -> Vec<(Key, Write)> {
        let apply = wanted.iter().filter_map(|(key, object)| {
            let is_due = match self.written.get(key) {
                None => true,
                Some(written) if written.object.as_ref() == Some(object) => written.next <= now,
                // A change is written at once, a failure is not tried again at once.
                Some(written) => written.object.is_some() || written.next <= now,
            };
            is_due.then(|| (key.clone(), Write::Apply(object.clone())))
        });
        let gone = self.written.iter().filter(|(key, written)| {
            !wanted.contains_key(*key) && (written.object.is_some() || written.next <= now)
        });
        apply
            .chain(gone.map(|(key, _)| (key.clone(), Write::Remove)))
            .collect()
    }

    /// How long until something is due, if nothing changes.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        let next = self.written.values().map(|written| written.next).min();
        next.map(|next| next.saturating_duration_since(now))
    }

    /// ApiCalls what is due, as long as `may_write`.
    pub(super) async fn write(
        &mut self,
        client: &Client,
        shared: &Shared,
        wanted: &Objects,
        may_write: impl Fn() -> bool,
    ) {
        self.list(client, shared).await;
        for (key, write) in self.due(wanted, Instant::now()) {
            if !may_write() {
                return;
            }
            let done = perform(client, shared, &key, &write).await;
            self.note(key, write, done, Instant::now());
        }
    }

    /// Looks for slices that leaders before have left.
    async fn list(&mut self, client: &Client, shared: &Shared) {
        if self.listed {
            return;
        }
        let identity = &shared.identity;
        let api = Api::<EndpointSlice>::namespaced(client.clone(), &identity.namespace);
        let labels = format!("{MANAGED_BY}={CONTROLLER},{GROUP}={}", identity.group);
        let attempt = format!("list endpointslices in namespace {}", identity.namespace);
        match api.list(&ListParams::default().labels(&labels)).await {
            Ok(slices) => {
                shared.calls.note(&attempt, None);
                self.listed = true;
                self.find(
                    slices
                        .iter()
                        .map(|slice| (Kind::EndpointSlice, identity.namespace.clone(), slice.name_any())),
                );
            }
            Err(error) => {
                let reason = match WriteError::from(error) {
                    WriteError::Forbidden(message) => super::api_calls::forbidden(&message),
                    WriteError::Failed(message) => message,
                    WriteError::Conflict | WriteError::Absent => {
                        "the API server does not know them".to_owned()
                    }
                };
                shared.calls.note(&attempt, Some(reason));
            }
        }
    }

    /// Takes note of Services that are not served, and whose status a leader before has written: of those
    /// that are new among them, for what was removed may be told for a moment still.
    pub(super) fn find_left(&mut self, left: &Arc<Vec<StaleStatus>>) {
        let known = std::mem::replace(&mut self.left, Arc::clone(left));
        let new = left.iter().filter(|service| !known.contains(service));
        self.find(
            new.map(|StaleStatus { namespace, name }| (Kind::ServiceStatus, namespace.clone(), name.clone())),
        );
    }

    /// Takes note of objects that somebody wrote before.
    fn find(&mut self, keys: impl Iterator<Item = Key>) {
        let now = Instant::now();
        for key in keys {
            self.written.entry(key).or_insert_with(|| Written {
                object: None,
                next: now,
                backoff: Backoff::default(),
            });
        }
    }

    fn note(&mut self, key: Key, write: Write, done: Result<(), WriteError>, now: Instant) {
        let object = match (write, &done) {
            (Write::Remove, Ok(()) | Err(WriteError::Absent)) => {
                self.written.remove(&key);
                return;
            }
            (Write::Apply(object), Ok(())) => Some(object),
            (Write::Apply(_) | Write::Remove, _) => None,
        };
        let written = self.written.entry(key).or_insert_with(|| Written {
            object: None,
            next: now,
            backoff: Backoff::default(),
        });
        written.next = now
            + match &object {
                Some(_) => {
                    written.backoff.succeeded();
                    AGAIN
                }
                None => written.backoff.failed(LONGEST),
            };
        written.object = object;
    }
}

/// Does one write.
async fn perform(client: &Client, shared: &Shared, key: &Key, write: &Write) -> Result<(), WriteError> {
    let (kind, namespace, name) = key;
    let params = PatchParams::apply(MANAGER).force();
    match kind {
        Kind::ServiceStatus => {
            let object = match write {
                Write::Apply(object) => object.clone(),
                Write::Remove => json!({
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": name, "namespace": namespace},
                    "status": {"loadBalancer": {"ingress": []}},
                }),
            };
            let api = Api::<Service>::namespaced(client.clone(), namespace);
            let attempt = format!("apply the status of service {name} in namespace {namespace}");
            let patch = Patch::Apply(&object);
            let patch = api.patch_status(name, &params, &patch);
            shared
                .calls
                .attempt(Resource::ServicesStatus, &attempt, patch)
                .await
                .map(drop)
        }
        Kind::EndpointSlice => {
            let api = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
            let resource = Resource::EndpointSlices;
            let attempt = format!("write endpointslice {name} in namespace {namespace}");
            match write {
                Write::Apply(object) => {
                    let patch = Patch::Apply(object);
                    let patch = api.patch(name, &params, &patch);
                    shared.calls.attempt(resource, &attempt, patch).await.map(drop)
                }
                Write::Remove => {
                    let params = DeleteParams::default();
                    let delete = api.delete(name, &params);
                    shared.calls.attempt(resource, &attempt, delete).await.map(drop)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        (Kind::EndpointSlice, "web".to_owned(), name.to_owned())
    }

    fn wanted(objects: &[(&str, u32)]) -> Objects {
        let objects = objects.iter();
        objects.map(|(name, value)| (key(name), json!(value))).collect()
    }

    /// Does everything that is due with the result `done`, and says what that was.
    fn turn(
        applier: &mut Applier,
        wanted: &Objects,
        now: Instant,
        done: &Result<(), WriteError>,
    ) -> Vec<String> {
        let due = applier.due(wanted, now);
        let told = due.iter().map(|(key, write)| match write {
            Write::Apply(object) => format!("{} = {object}", key.2),
            Write::Remove => format!("{} removed", key.2),
        });
        let told = told.collect();
        for (key, write) in due {
            applier.note(key, write, done.clone(), now);
        }
        told
    }

    #[test]
    fn only_what_changed_is_written_and_from_time_to_time_everything() {
        let mut applier = Applier::default();
        let mut now = Instant::now();
        let mut turn = |objects: &[(&str, u32)], seconds| {
            now += Duration::from_secs(seconds);
            turn(&mut applier, &wanted(objects), now, &Ok(()))
        };
        assert_eq!(turn(&[("a", 1), ("b", 1)], 0), ["a = 1", "b = 1"]);
        assert!(turn(&[("a", 1), ("b", 1)], 1).is_empty());
        assert_eq!(turn(&[("a", 2), ("b", 1)], 1), ["a = 2"]);
        assert_eq!(turn(&[("a", 2)], 1), ["b removed"]);
        assert!(turn(&[("a", 2)], 1).is_empty());
        assert_eq!(turn(&[("a", 2)], 300), ["a = 2"]);
    }

    #[test]
    fn what_fails_is_tried_again_after_a_pause_that_grows() {
        let mut applier = Applier::default();
        let start = Instant::now();
        let failed = Err(WriteError::Failed("no".to_owned()));
        let mut attempts = Vec::new();
        for second in 0..20 {
            let now = start + Duration::from_secs(second);
            // Also when what is wanted changes meanwhile.
            let wanted = wanted(&[("a", u32::try_from(second).unwrap())]);
            if !turn(&mut applier, &wanted, now, &failed).is_empty() {
                attempts.push(second);
            }
        }
        assert_eq!(attempts, [0, 1, 3, 7, 15]);
        assert_eq!(
            applier.next(start + Duration::from_secs(21)),
            Some(Duration::from_secs(10))
        );
    }

    #[test]
    fn what_leaders_before_have_left_is_removed_unless_it_is_wanted() {
        let mut applier = Applier::default();
        applier.find(["a", "b"].into_iter().map(key));
        let wanted = wanted(&[("a", 1)]);
        let now = Instant::now();
        let absent = Err(WriteError::Absent);
        assert_eq!(turn(&mut applier, &wanted, now, &absent), ["a = 1", "b removed"]);
        let later = now + Duration::from_secs(2);
        assert_eq!(turn(&mut applier, &wanted, later, &Ok(())), ["a = 1"]);
    }
}
