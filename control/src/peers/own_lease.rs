//! Keeps this balancer's own Lease, and takes it away when the balancer leaves.

use std::collections::BTreeSet;
use std::time::SystemTime;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;
use vl3lb_common::Duration;

use super::Shared;
use super::api_calls::{Backoff, Resource, WriteError};
use super::lease::{self, Presence};
use crate::kubernetes::names::MANAGER;
use crate::publisher::Current;
use crate::state::ServiceEntry;

/// Two writes are at least this far apart, whatever changes.
const APART: Duration = Duration::from_secs(1);

impl Presence {
    /// Of a balancer that balances what `current` says.
    pub(super) fn of(current: Option<&Current>, ready: bool) -> Self {
        let Some(current) = current else {
            return Self::default();
        };
        let services = current.directory.live_services();
        Self {
            ready,
            addresses: current.snapshot.addresses.clone(),
            services: services
                .flat_map(ServiceEntry::names)
                .map(str::to_owned)
                .collect::<BTreeSet<_>>(),
        }
    }
}

/// ApiCalls the Lease whenever it is due or `presence` changes, until the balancer leaves.
pub(super) async fn keep(client: &Client, shared: &Shared, mut presence: watch::Receiver<Presence>) {
    let identity = &shared.identity;
    let api = Api::<Lease>::namespaced(client.clone(), &identity.namespace);
    let attempt = format!("apply lease {} in namespace {}", identity.pod, identity.namespace);
    let params = PatchParams::apply(MANAGER).force();
    let mut leave = shared.leave.subscribe();
    let mut backoff = Backoff::default();
    while !*leave.borrow_and_update() {
        let (period, duration) = shared.group.borrow().pace;
        let said = presence.borrow_and_update().clone();
        let lease = lease::write(identity, &said, duration, SystemTime::now());
        let began = Instant::now();
        let patch = Patch::Apply(&lease);
        let write = api.patch(&identity.pod, &params, &patch);
        // Waited for also when leaving: a Lease that arrives after its deletion would be believed.
        let done = shared.calls.attempt(Resource::Leases, &attempt, write).await;
        let pause = match done {
            Ok(_) => {
                backoff.succeeded();
                period
            }
            Err(_) => backoff.failed(period),
        };
        tokio::select! {
            () = sleep(pause) => {}
            Ok(()) = presence.changed() => sleep_until(began + APART).await,
            Ok(()) = leave.changed() => {}
        }
    }
    let attempt = format!(
        "delete lease {} in namespace {}",
        identity.pod, identity.namespace
    );
    let params = DeleteParams::default();
    let delete = api.delete(&identity.pod, &params);
    match shared.calls.attempt(Resource::Leases, &attempt, delete).await {
        Ok(_) | Err(WriteError::Absent) => {}
        Err(_) => warn!("{attempt}: not done; others believe in this balancer until its Lease is over"),
    }
}
