//! Takes part in the election, and writes for the group while this balancer leads it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use futures_util::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use vl3lb_common::Duration;

use super::Shared;
use super::api_calls::Resource;
use super::apply::Applier;
use super::desired::{Balanced, GroupServices, Objects, PUBLISH, publishable};
use super::election::{Election, Step};
use super::lease::Presence;
use super::peer_set::PeerSet;
use super::watching::{self, Change};
use crate::discovery::{Accepted, StaleStatus};
use crate::publisher::CurrentReceiver;

/// How long to wait until the group is looked at again before it is known.
const UNSETTLED: Duration = Duration::from_secs(1);

/// What is told about where it cannot be done.
const PUBLISHING: &str = "publish services";

/// Services of the balancer's namespace that are to be published, by name; `None` before the first list.
type Published = Option<Arc<BTreeMap<String, Service>>>;

/// What the leader writes about.
pub(super) struct Sources {
    pub(super) presence: watch::Receiver<Presence>,
    pub(super) current: CurrentReceiver,
    pub(super) accepted: watch::Receiver<Arc<Vec<Accepted>>>,
    pub(super) left: watch::Receiver<Arc<Vec<StaleStatus>>>,
}

/// Takes part until the balancer leaves; a leader then takes itself out of everything, and gives up
/// leading.
pub(super) async fn take_part(client: &Client, config: &kube::Config, shared: &Shared, sources: Sources) {
    let (send, published) = watch::channel(None);
    tokio::select! {
        () = follow_published(config, shared, &send) => {}
        () = lead(client, shared, sources, published) => {}
    }
}

/// Follows the Services that are to be published, for ever.
async fn follow_published(config: &kube::Config, shared: &Shared, published: &watch::Sender<Published>) {
    let namespace = &shared.identity.namespace;
    let label = format!("{PUBLISH}=true");
    let writes = Arc::clone(&shared.calls);
    let what = "services to publish";
    let changes = watching::follow::<Service>(config, namespace, &label, what, writes);
    // Where Leases can be watched these can too: it is the same server and the same credentials.
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
            Change::Gone(service) => {
                services.remove(&service.name_any());
            }
        }
        published.send_replace(Some(Arc::new(services.clone())));
    }
}

async fn lead(
    client: &Client,
    shared: &Shared,
    mut sources: Sources,
    mut published: watch::Receiver<Published>,
) {
    let mut election = Election::new(shared.identity.clone(), Instant::now());
    let mut group = shared.group.subscribe();
    let mut balancers = shared.peers.subscribe();
    let mut leave = shared.leave.subscribe();
    let mut applier = Applier::default();
    loop {
        let leaving = *leave.borrow_and_update();
        let settled = {
            let group = group.borrow_and_update();
            election.see(group.leader.as_ref(), Instant::now());
            group.settled
        };
        let mut wait = UNSETTLED;
        if settled && !leaving {
            wait = elect(client, shared, &mut election).await;
        }
        shared
            .leads
            .store(election.leads(Instant::now()), Ordering::Relaxed);
        let known = balancers.borrow_and_update().clone();
        let objects = wanted(shared, &mut sources, &known, &published.borrow_and_update());
        if !election.leads(Instant::now()) {
            applier = Applier::default();
            shared.calls.note(PUBLISHING, None);
        } else if let Some(objects) = objects {
            // In time for the next renewal.
            let end = Instant::now() + wait;
            let may_write = || election.leads(Instant::now()) && (leaving || Instant::now() < end);
            shared.calls.note(PUBLISHING, refused(&published.borrow()));
            applier.find_left(&sources.left.borrow_and_update());
            applier.write(client, shared, &objects, may_write).await;
            wait = applier.next(Instant::now()).map_or(wait, |next| wait.min(next));
        }
        if leaving {
            release(client, shared, &election).await;
            shared.leads.store(false, Ordering::Relaxed);
            return;
        }
        tokio::select! {
            () = sleep(wait) => {}
            Ok(()) = group.changed() => {}
            Ok(()) = balancers.changed() => {}
            Ok(()) = leave.changed() => {}
            Ok(()) = published.changed() => {}
            Ok(()) = sources.presence.changed() => {}
            Ok(()) = sources.current.changed() => {}
            Ok(()) = sources.accepted.changed() => {}
            Ok(()) = sources.left.changed() => {}
        }
    }
}

/// Does what is to be done to lead. How long until there is something to do again.
async fn elect(client: &Client, shared: &Shared, election: &mut Election) -> Duration {
    let identity = &shared.identity;
    let api = Api::<Lease>::namespaced(client.clone(), &identity.namespace);
    let name = identity.leader_lease();
    let attempt = format!("write lease {name} in namespace {}", identity.namespace);
    let began = Instant::now();
    let done = match election.step(began, SystemTime::now()) {
        Step::Wait(time) => return time,
        Step::Create(lease) => {
            let params = PostParams::default();
            let create = api.create(&params, &lease);
            shared.calls.attempt(Resource::Leases, &attempt, create).await
        }
        Step::Replace(lease) => {
            let params = PatchParams::default();
            let patch = Patch::Merge(&lease);
            let patch = api.patch(&name, &params, &patch);
            shared.calls.attempt(Resource::Leases, &attempt, patch).await
        }
    };
    let now = Instant::now();
    match done {
        Ok(lease) => election.wrote(lease, began, now),
        Err(_) => election.failed(now),
    }
    match election.step(now, SystemTime::now()) {
        Step::Wait(time) => time,
        Step::Create(_) | Step::Replace(_) => Duration::ZERO,
    }
}

/// Lets another one lead.
async fn release(client: &Client, shared: &Shared, election: &Election) {
    let identity = &shared.identity;
    let Some(lease) = election.release(SystemTime::now()) else {
        return;
    };
    let api = Api::<Lease>::namespaced(client.clone(), &identity.namespace);
    let name = identity.leader_lease();
    let attempt = format!("write lease {name} in namespace {}", identity.namespace);
    let params = PatchParams::default();
    let patch = Patch::Merge(&lease);
    let patch = api.patch(&name, &params, &patch);
    // Others take over as well when it is not renewed any more.
    shared.calls.attempt(Resource::Leases, &attempt, patch).await.ok();
}

/// Why Services that are to be published are not.
fn refused(published: &Published) -> Option<String> {
    let refused: Vec<String> = published
        .iter()
        .flat_map(|services| services.values())
        .filter_map(|service| {
            let reason = publishable(service).err()?;
            Some(format!("service {}: {reason}", service.name_any()))
        })
        .collect();
    (!refused.is_empty()).then(|| refused.join("; "))
}

/// What should stand in Kubernetes now; `None` as long as not everything is known that it depends on.
fn wanted(
    shared: &Shared,
    sources: &mut Sources,
    balancers: &PeerSet,
    published: &Published,
) -> Option<Objects> {
    let presence = sources.presence.borrow_and_update().clone();
    let current = sources.current.borrow_and_update().clone()?;
    let accepted = sources.accepted.borrow_and_update().clone();
    let published = published.as_ref()?;
    let services: Vec<Balanced> = current
        .directory
        .live_services()
        .map(|service| Balanced {
            name: service.name.clone(),
            protocol: service.protocol,
            port: service.port,
        })
        .collect();
    let stays = presence.ready && !balancers.leaving;
    let own: &[IpAddr] = if stays { &presence.addresses } else { &[] };
    let known = GroupServices {
        identity: &shared.identity,
        own,
        balancers,
        services: &services,
    };
    let mut objects = known.statuses(&accepted);
    objects.extend(known.slices(published.values()));
    Some(objects)
}
