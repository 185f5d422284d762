//! Renews this balancer's own Lease, and deletes it when the balancer leaves the group.

use std::collections::BTreeSet;
use std::time::SystemTime;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;
use vl3lb_common::Duration;

use super::api_calls::{Backoff, Call, CallError, Resource, Role};
use super::context::Context;
use super::lease::{self, Presence};
use crate::kubernetes::names::MANAGER;
use crate::publisher::Current;
use crate::state::ServiceEntry;

/// The shortest time between two writes.
const SPACING: Duration = Duration::from_secs(1);

impl Presence {
    /// Of a balancer that serves `current`.
    pub(super) fn of(current: Option<&Current>, ready: bool) -> Self {
        let Some(current) = current else {
            return Self::default();
        };
        let own = &current.snapshot.addresses;
        let services = || current.directory.live_services();
        let names = services().flat_map(ServiceEntry::group_names);
        let restricted = services().filter(|service| !service.addresses.are_all());
        // Ports of one Service share its name.
        let restricted: BTreeSet<_> = restricted.flat_map(ServiceEntry::group_names).collect();
        Self {
            ready,
            addresses: own.clone(),
            services: names.collect::<BTreeSet<_>>(),
            service_addresses: restricted
                .into_iter()
                .map(|name| {
                    let addresses = current.directory.addresses_of(&name, own);
                    (name, addresses)
                })
                .collect(),
        }
    }
}

/// Writes the Lease when it is due or `presence` changes, until the balancer leaves the group.
pub(super) async fn renew(client: &Client, context: &Context, mut presence: watch::Receiver<Presence>) {
    let identity = &context.identity;
    let api = Api::<Lease>::namespaced(client.clone(), &identity.namespace);
    let attempt = format!("apply lease {} in namespace {}", identity.pod, identity.namespace);
    let call = Call::write(Role::Member, Resource::Leases, &attempt);
    let params = PatchParams::apply(MANAGER).force();
    let mut leave = context.leave.subscribe();
    let mut backoff = Backoff::default();
    while !*leave.borrow() {
        let (period, duration) = context.group.borrow().pace;
        let current = presence.borrow_and_update().clone();
        let lease = lease::write(identity, &current, duration, SystemTime::now());
        let began = Instant::now();
        let patch = Patch::Apply(&lease);
        let write = api.patch(&identity.pod, &params, &patch);
        // Awaited also when leaving: a Lease written after its deletion would be believed.
        let pause = match context.calls.run(call, write).await {
            Ok(_) => {
                backoff.succeeded();
                period
            }
            Err(_) => backoff.failed(period),
        };
        tokio::select! {
            () = sleep(pause) => {}
            Ok(()) = presence.changed() => tokio::select! {
                () = sleep_until(began + SPACING) => {}
                Ok(()) = leave.changed() => break,
            },
            Ok(()) = leave.changed() => break,
        }
    }
    let attempt = format!(
        "delete lease {} in namespace {}",
        identity.pod, identity.namespace
    );
    let call = Call::write(Role::Member, Resource::Leases, &attempt);
    let params = DeleteParams::default();
    let delete = api.delete(&identity.pod, &params);
    match context.calls.run(call, delete).await {
        Ok(_) | Err(CallError::NotFound(_)) => {}
        Err(_) => warn!("{attempt}: failed; peers answer with this balancer until its Lease expires"),
    }
}
