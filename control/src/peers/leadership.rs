//! Writes for the group while this balancer leads it.
//!
//! The leader's Lease is renewed beside it (`campaign`): a slow write delays no renewal. A write that began while
//! this balancer led ends before another balancer leads, because its time limit is less than what remains of the Lease
//! after the leader has stopped.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::info;
use vl3lb_common::Duration;

use super::api_calls::Role;
use super::apply::Applier;
use super::campaign::Campaign;
use super::changes::{self, Change};
use super::context::Context;
use super::desired::{BalancedService, Inputs, Objects, PUBLISH, publishable};
use super::lease::Presence;
use super::peer_set::PeerSet;
use crate::discovery::{Accepted, StaleStatus};
use crate::publisher::CurrentReceiver;

/// The longest time of a series of writes before their inputs are read again.
const ROUND: Duration = Duration::from_secs(5);
/// The attempt that fails where a Service cannot be published.
const PUBLISHING: &str = "publish services";

/// Services of the balancer's namespace that are to be published, by name; `None` before the first list.
type Published = Option<Arc<BTreeMap<String, Service>>>;

/// The inputs of the written objects.
pub(super) struct Sources {
    pub(super) presence: watch::Receiver<Presence>,
    pub(super) current: CurrentReceiver,
    pub(super) accepted: watch::Receiver<Arc<Vec<Accepted>>>,
    pub(super) stale: watch::Receiver<Arc<Vec<StaleStatus>>>,
}

/// Takes part in the election and writes for the group while it leads, until the balancer leaves the group. A leader
/// then removes its own addresses first, and releases the Lease.
pub(super) async fn run(client: &Client, config: &kube::Config, context: &Context, sources: Sources) {
    let published = watch::Sender::default();
    let stop = watch::Sender::new(false);
    let final_term = watch::Sender::new(false);
    let mut campaign = Campaign::new(client, context);
    let participate = async {
        let write = async {
            let (published, final_term) = (published.subscribe(), final_term.subscribe());
            write(client, context, sources, published, final_term).await;
            stop.send_replace(true);
        };
        tokio::join!(campaign.run(stop.subscribe(), &final_term), write);
        campaign.release().await;
    };
    tokio::select! {
        () = watch_published(config, context, &published) => {}
        () = participate => {}
    }
}

/// Watches the Services that are to be published. Never ends.
async fn watch_published(config: &kube::Config, context: &Context, published: &watch::Sender<Published>) {
    let namespace = &context.identity.namespace;
    let labels = format!("{PUBLISH}=true");
    let calls = Arc::clone(&context.calls);
    let changes = changes::stream::<Service>(config, namespace, &labels, "services to publish", calls);
    // The watch of Leases has the same server and credentials, and reports why it cannot start.
    let Ok(mut changes) = changes else {
        return std::future::pending().await;
    };
    let mut services = BTreeMap::new();
    while let Some(change) = changes.next().await {
        match change {
            Change::All(all) => {
                services = all
                    .into_iter()
                    .map(|service| (service.name_any(), service))
                    .collect();
            }
            Change::Set(service) => {
                services.insert(service.name_any(), service);
            }
            Change::Removed(service) => {
                services.remove(&service.name_any());
            }
        }
        published.send_replace(Some(Arc::new(services.clone())));
    }
}

/// Reconciles the group's objects while this balancer leads, until it leaves.
async fn write(
    client: &Client,
    context: &Context,
    mut sources: Sources,
    mut published: watch::Receiver<Published>,
    mut final_term: watch::Receiver<bool>,
) {
    let mut term = context.term.subscribe();
    let mut peers = context.peers.subscribe();
    let mut leave = context.leave.subscribe();
    let mut applier: Option<Applier> = None;
    loop {
        let leaving = *leave.borrow_and_update();
        if leaving {
            // An acquisition that is in progress counts.
            final_term.wait_for(|is_final| *is_final).await.ok();
        }
        let leads = term.borrow_and_update().is_some_and(|end| Instant::now() < end);
        let group = &context.identity.group;
        if leads && applier.is_none() {
            info!("this balancer leads group {group}");
            applier = Some(Applier::default());
        } else if !leads && applier.take().is_some() {
            info!("this balancer no longer leads group {group}");
            context.calls.end_role(Role::Leader);
        }
        let known = peers.borrow_and_update().clone();
        let objects = desired(context, &mut sources, &known, &published.borrow_and_update());
        let mut wake = term.borrow().filter(|_| leads);
        if let (Some(applier), Some(objects)) = (&mut applier, objects) {
            let end = Instant::now() + ROUND;
            let may_write = || {
                let now = Instant::now();
                context.leads(now) && (leaving || now < end)
            };
            let reason = not_publishable(&published.borrow());
            context.calls.record(Role::Leader, PUBLISHING, reason);
            let stale = sources.stale.borrow_and_update().clone();
            applier.add_stale(&stale, &context.identity);
            applier.write(client, context, objects, may_write).await;
            wake = wake.into_iter().chain(applier.due()).min();
        }
        if leaving {
            context.calls.end_role(Role::Leader);
            return;
        }
        tokio::select! {
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            Ok(()) = term.changed() => {}
            Ok(()) = peers.changed() => {}
            Ok(()) = leave.changed() => {}
            Ok(()) = published.changed() => {}
            Ok(()) = sources.presence.changed() => {}
            Ok(()) = sources.current.changed() => {}
            Ok(()) = sources.accepted.changed() => {}
            Ok(()) = sources.stale.changed() => {}
        }
    }
}

/// Why Services that are to be published are not; `None` if all are.
fn not_publishable(published: &Published) -> Option<String> {
    let services = published.iter().flat_map(|services| services.values());
    let reasons = services.filter_map(|service| {
        let reason = publishable(service).err()?;
        Some(format!("service {}: {reason}", service.name_any()))
    });
    let reasons: Vec<String> = reasons.collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// The objects as they should be; `None` while an input is unknown.
fn desired(
    context: &Context,
    sources: &mut Sources,
    peers: &PeerSet,
    published: &Published,
) -> Option<Objects> {
    let presence = sources.presence.borrow_and_update().clone();
    let current = sources.current.borrow_and_update().clone()?;
    let accepted = sources.accepted.borrow_and_update().clone();
    let published = published.as_ref()?;
    let services: Vec<BalancedService> = current
        .directory
        .live_services()
        .filter_map(|service| {
            let name = service.names().next()?;
            Some(BalancedService {
                name: name.to_owned(),
                group_name: service.group_name(name),
                protocol: service.protocol,
                port: service.port,
            })
        })
        .collect();
    let serves = presence.ready && !peers.is_withdrawn();
    let inputs = Inputs {
        identity: &context.identity,
        own: if serves { &presence.addresses } else { &[] },
        own_of_services: &presence.service_addresses,
        peers,
        services: &services,
    };
    let mut objects = inputs.statuses(&accepted);
    objects.extend(inputs.slices(published.values()));
    Some(objects)
}
