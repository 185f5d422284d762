//! Reconciles objects in Kubernetes with the desired ones, one write at a time.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tokio::time::Instant;
use vl3lb_common::Duration;

use super::api_calls::{Backoff, Call, CallError, Resource, Role};
use super::context::Context;
use super::desired::{Key, Kind, Object, Objects, withdrawal};
use super::identity::Identity;
use super::lease::GROUP;
use crate::discovery::StaleStatus;
use crate::kubernetes::names::{CONTROLLER, MANAGED_BY, MANAGER};

/// An unchanged object is written again after this time, in case another writer changed it.
const REFRESH: Duration = Duration::from_secs(300);
/// The longest pause between two attempts at an object.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The objects that this balancer has written in its term as the leader, and those that earlier leaders left.
#[derive(Debug)]
pub(super) struct Applier {
    written: BTreeMap<Key, Written>,
    slices: SliceList,
    /// Stale statuses that are known already.
    stale: Vec<StaleStatus>,
}

/// The list of slices that earlier leaders left.
#[derive(Debug)]
struct SliceList {
    /// When to request it; `None` once it is known.
    due: Option<Instant>,
    backoff: Backoff,
}

/// The state of an object.
#[derive(Debug)]
struct Written {
    /// The last written content; `None` if the write failed, or an earlier leader wrote it.
    value: Option<Value>,
    /// The content that withdraws it; `None`: it is deleted.
    withdrawal: Option<Value>,
    /// When to write it next, if it does not change.
    next: Instant,
    backoff: Backoff,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
enum Write {
    Apply(Object),
    Withdraw(Option<Value>),
}

impl Default for Applier {
    fn default() -> Self {
        Self {
            written: BTreeMap::new(),
            slices: SliceList {
                due: Some(Instant::now()),
                backoff: Backoff::default(),
            },
            stale: Vec::new(),
        }
    }
}

impl Applier {
    /// The writes that are due at `now`. Pure.
    fn due_writes(&self, desired: Objects, now: Instant) -> Vec<(Key, Write)> {
        let gone = self.written.iter().filter(|(key, written)| {
            !desired.contains_key(*key) && (written.value.is_some() || written.next <= now)
        });
        let gone: Vec<_> = gone
            .map(|(key, written)| (key.clone(), Write::Withdraw(written.withdrawal.clone())))
            .collect();
        let apply = desired.into_iter().filter(|(key, object)| {
            let Some(written) = self.written.get(key) else {
                return true;
            };
            let unchanged = written.value.as_ref() == Some(&object.value);
            // A change is written at once, a failed write after its pause.
            (written.value.is_some() && !unchanged) || written.next <= now
        });
        let apply = apply.map(|(key, object)| (key, Write::Apply(object)));
        apply.chain(gone).collect()
    }

    /// The time of the next write if there are no changes.
    pub(super) fn due(&self) -> Option<Instant> {
        let writes = self.written.values().map(|written| written.next);
        writes.chain(self.slices.due).min()
    }

    /// Makes the writes that are due, while `may_write`. The list of slices comes second: while it is not answered,
    /// writes are not delayed.
    pub(super) async fn write(
        &mut self,
        client: &Client,
        context: &Context,
        desired: Objects,
        may_write: impl Fn() -> bool,
    ) {
        let list_is_due = self.slices.due.is_some_and(|due| due <= Instant::now());
        let again = list_is_due.then(|| desired.clone());
        self.write_due(client, context, desired, &may_write).await;
        if let Some(desired) = again.filter(|_| may_write()) {
            self.list_slices(client, context).await;
            self.write_due(client, context, desired, &may_write).await;
        }
    }

    async fn write_due(
        &mut self,
        client: &Client,
        context: &Context,
        desired: Objects,
        may_write: &impl Fn() -> bool,
    ) {
        for (key, write) in self.due_writes(desired, Instant::now()) {
            if !may_write() {
                return;
            }
            let result = perform(client, context, &key, &write).await;
            self.record(key, write, &result, Instant::now());
        }
    }

    /// Finds slices that earlier leaders of the group left.
    async fn list_slices(&mut self, client: &Client, context: &Context) {
        let Identity { namespace, group, .. } = &context.identity;
        let api = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
        let labels = format!("{MANAGED_BY}={CONTROLLER},{GROUP}={group}");
        let attempt = format!("list endpointslices in namespace {namespace}");
        let params = ListParams::default().labels(&labels);
        let list = api.list(&params);
        let call = Call::list(Role::Leader, &attempt);
        let result = context.calls.run(call, list).await;
        let now = Instant::now();
        self.slices.due = match result {
            Ok(slices) => {
                let keys = slices
                    .iter()
                    .map(|slice| (Kind::EndpointSlice, namespace.clone(), slice.name_any()));
                keys.for_each(|key| self.add(key, None, now));
                None
            }
            Err(_) => Some(now + self.slices.backoff.failed(LONGEST_PAUSE)),
        };
    }

    /// Adds Services whose status is stale: those that are new in `stale`, since one that was just withdrawn may be
    /// listed for a moment longer.
    pub(super) fn add_stale(&mut self, stale: &[StaleStatus], identity: &Identity) {
        let known = std::mem::replace(&mut self.stale, stale.to_vec());
        let now = Instant::now();
        for service in stale.iter().filter(|service| !known.contains(service)) {
            if let Some(value) = withdrawal(service, identity) {
                let key = (
                    Kind::ServiceStatus,
                    service.namespace.clone(),
                    service.name.clone(),
                );
                self.add(key, Some(value), now);
            }
        }
    }

    /// Adds an object that an earlier leader wrote.
    fn add(&mut self, key: Key, withdrawal: Option<Value>, now: Instant) {
        self.written.entry(key).or_insert_with(|| Written {
            value: None,
            withdrawal,
            next: now,
            backoff: Backoff::default(),
        });
    }

    fn record(&mut self, key: Key, write: Write, result: &Result<(), CallError>, now: Instant) {
        let (value, withdrawal) = match (write, result) {
            (Write::Withdraw(_), Ok(()) | Err(CallError::NotFound(_))) => {
                self.written.remove(&key);
                return;
            }
            (Write::Apply(object), Ok(())) => (Some(object.value), object.withdrawal),
            (Write::Apply(object), Err(_)) => (None, object.withdrawal),
            (Write::Withdraw(withdrawal), Err(_)) => (None, withdrawal),
        };
        let written = self.written.entry(key).or_insert_with(|| Written {
            value: None,
            withdrawal: None,
            next: now,
            backoff: Backoff::default(),
        });
        let pause = if result.is_ok() {
            written.backoff.succeeded();
            REFRESH
        } else {
            written.backoff.failed(LONGEST_PAUSE)
        };
        written.next = now + pause;
        (written.value, written.withdrawal) = (value, withdrawal);
    }
}

/// Makes one write.
async fn perform(client: &Client, context: &Context, key: &Key, write: &Write) -> Result<(), CallError> {
    let (kind, namespace, name) = key;
    let calls = &context.calls;
    match kind {
        Kind::ServiceStatus => {
            let patch = match write {
                Write::Apply(object) => &object.value,
                Write::Withdraw(Some(patch)) => patch,
                Write::Withdraw(None) => return Ok(()),
            };
            let api = Api::<Service>::namespaced(client.clone(), namespace);
            let attempt = format!("apply the status of service {name} in namespace {namespace}");
            let call = Call::write(Role::Leader, Resource::ServicesStatus, &attempt);
            let params = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let patch = Patch::Merge(patch);
            let patch = api.patch_status(name, &params, &patch);
            calls.run(call, patch).await.map(drop)
        }
        Kind::EndpointSlice => {
            let api = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
            let attempt = format!("write endpointslice {name} in namespace {namespace}");
            let call = Call::write(Role::Leader, Resource::EndpointSlices, &attempt);
            match write {
                Write::Apply(object) => {
                    let params = PatchParams::apply(MANAGER).force();
                    let patch = Patch::Apply(&object.value);
                    let patch = api.patch(name, &params, &patch);
                    calls.run(call, patch).await.map(drop)
                }
                Write::Withdraw(_) => {
                    let params = DeleteParams::default();
                    let delete = api.delete(name, &params);
                    calls.run(call, delete).await.map(drop)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    fn key(name: &str) -> Key {
        (Kind::EndpointSlice, "web".to_owned(), name.to_owned())
    }

    fn desired(objects: &[(&str, u32)]) -> Objects {
        let objects = objects.iter().map(|(name, value)| {
            let object = Object {
                value: json!(value),
                withdrawal: None,
            };
            (key(name), object)
        });
        objects.collect()
    }

    /// Makes all writes that are due, each with the result `result`, and returns them.
    fn write(
        applier: &mut Applier,
        desired: Objects,
        now: Instant,
        result: &Result<(), CallError>,
    ) -> Vec<String> {
        let due = applier.due_writes(desired, now);
        let texts = due.iter().map(|(key, write)| match write {
            Write::Apply(object) => format!("{} = {}", key.2, object.value),
            Write::Withdraw(_) => format!("{} removed", key.2),
        });
        let texts = texts.collect();
        for (key, write) in due {
            applier.record(key, write, result, now);
        }
        texts
    }

    #[test]
    fn changes_are_written_at_once_and_everything_is_refreshed() {
        let mut applier = Applier::default();
        let mut now = Instant::now();
        let mut write = |objects: &[(&str, u32)], seconds| {
            now += Duration::from_secs(seconds);
            write(&mut applier, desired(objects), now, &Ok(()))
        };
        assert_eq!(write(&[("a", 1), ("b", 1)], 0), ["a = 1", "b = 1"]);
        assert!(write(&[("a", 1), ("b", 1)], 1).is_empty());
        assert_eq!(write(&[("a", 2), ("b", 1)], 1), ["a = 2"]);
        assert_eq!(write(&[("a", 2)], 1), ["b removed"]);
        assert!(write(&[("a", 2)], 1).is_empty());
        assert_eq!(write(&[("a", 2)], 300), ["a = 2"]);
    }

    #[test]
    fn a_failed_write_is_repeated_after_growing_pauses() {
        let mut applier = Applier::default();
        let start = Instant::now();
        let failed = Err(CallError::Timeout(Duration::from_secs(5)));
        let mut attempts = Vec::new();
        for second in 0..20 {
            let now = start + Duration::from_secs(second);
            // Also when the object changes meanwhile.
            let desired = desired(&[("a", u32::try_from(second).unwrap())]);
            if !write(&mut applier, desired, now, &failed).is_empty() {
                attempts.push(second);
            }
        }
        assert_eq!(attempts, [0, 1, 3, 7, 15]);
        assert_eq!(applier.written[&key("a")].next, start + Duration::from_secs(31));
    }

    #[test]
    fn objects_of_earlier_leaders_are_removed_unless_desired() {
        let mut applier = Applier::default();
        let now = Instant::now();
        for name in ["a", "b"] {
            applier.add(key(name), None, now);
        }
        let objects = desired(&[("a", 1)]);
        let status = Status::failure("not found", "NotFound").with_code(404);
        let not_found = Err(CallError::from(status.boxed()));
        assert_eq!(
            write(&mut applier, objects.clone(), now, &not_found),
            ["a = 1", "b removed"]
        );
        let later = now + Duration::from_secs(2);
        assert_eq!(write(&mut applier, objects, later, &Ok(())), ["a = 1"]);
    }
}
