//! What is shown of the source: its status, and an event for each stream that is lost or back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tracing::warn;

use super::conflict::{Conflict, ConflictKind};
use super::connection::Skip;
use super::endpoint::Manager;
use super::follower::Scope;
use super::inventory::{Inventory, Stream};
use super::owners::{Changes, Owners};
use super::stream::StreamError;
use crate::api::{EventCode, NsmConflict, NsmDiscovery, NsmEndpoint, NsmReasonCount, NsmStream, Time};
use crate::discovery::SourceStatus;
use crate::error_chain::chain;
use crate::nsm::Target;
use crate::observe::events::{Event, Events};

/// Conflicts that are listed.
const LISTED: usize = 100;
/// Invalid registrations that are remembered, so that each is logged once.
const REMEMBERED: usize = 1000;

/// The shown state of the source.
#[derive(Debug)]
pub(super) struct Record {
    service: String,
    manager: Target,
    status: watch::Sender<SourceStatus>,
    events: Arc<Events>,
    registry: Shown,
    monitors: HashMap<Arc<str>, Shown>,
    registry_losses: u64,
    monitor_losses: u64,
    skips: BTreeMap<Skip, u64>,
    unknown_events: u64,
    conflicts: BTreeMap<ConflictKind, u64>,
    invalid: HashSet<String>,
}

/// The state of a stream.
#[derive(Debug, Default)]
struct Shown {
    is_live: bool,
    since: Option<SystemTime>,
    error: Option<String>,
}

impl Shown {
    /// Whether it was lost before.
    fn live(&mut self) -> bool {
        if !self.is_live {
            self.since = Some(SystemTime::now());
        }
        self.is_live = true;
        self.error.take().is_some()
    }

    /// Whether that is news.
    fn lost(&mut self, error: String) -> bool {
        if self.is_live || self.since.is_none() {
            self.since = Some(SystemTime::now());
        }
        self.is_live = false;
        self.error.replace(error).is_none()
    }
}

impl Record {
    pub(super) fn new(scope: &Scope, status: watch::Sender<SourceStatus>, events: Arc<Events>) -> Self {
        Self {
            service: scope.service.clone(),
            manager: scope.manager.clone(),
            status,
            events,
            registry: Shown::default(),
            monitors: HashMap::new(),
            registry_losses: 0,
            monitor_losses: 0,
            skips: BTreeMap::new(),
            unknown_events: 0,
            conflicts: BTreeMap::new(),
            invalid: HashSet::new(),
        }
    }

    /// An event came.
    pub(super) fn changed(&self) {
        self.status.send_modify(|status| {
            status.last_event = Some(SystemTime::now());
            status.events += 1;
        });
    }

    /// The registry was listed.
    pub(super) fn registry_live(&mut self) {
        self.changed();
        if self.registry.live() {
            self.back(format!("the registry at {} answers again", self.manager));
        }
    }

    /// The stream of the registry ended, or cannot be opened.
    pub(super) fn registry_lost(&mut self, error: &StreamError) {
        self.registry_losses += 1;
        let text = format!("registry at {}: {}", self.manager, chain(error));
        if self.registry.lost(text.clone()) {
            self.lost(&text);
        }
        self.count(error);
    }

    /// The connections of `endpoint` were listed.
    pub(super) fn monitor_live(&mut self, endpoint: &Arc<str>) {
        self.changed();
        if self.monitors.entry(Arc::clone(endpoint)).or_default().live() {
            self.back(format!("the monitor of endpoint {endpoint} answers again"));
        }
    }

    /// The monitor of `endpoint` ended, or cannot be opened.
    pub(super) fn monitor_lost(&mut self, endpoint: &Arc<str>, server: &Target, error: &StreamError) {
        self.monitor_losses += 1;
        let text = format!("monitor of endpoint {endpoint} at {server}: {}", chain(error));
        if self
            .monitors
            .entry(Arc::clone(endpoint))
            .or_default()
            .lost(text.clone())
        {
            self.lost(&text);
        }
        self.count(error);
    }

    fn lost(&self, text: &str) {
        let kept = if self.status.borrow().loaded.is_some() {
            "keeping what is known"
        } else {
            "nothing is known yet"
        };
        let event = Event::warn(EventCode::DiscoveryLost, format!("{text}; {kept}, retrying"));
        self.events.emit(event.transition("followed", "lost"));
    }

    fn back(&self, text: String) {
        let event = Event::new(EventCode::DiscoveryBack, text);
        self.events.emit(event.transition("lost", "followed"));
    }

    fn count(&self, error: &StreamError) {
        self.status.send_modify(|status| {
            status.last_event = Some(SystemTime::now());
            status.errors.count(error.reason());
        });
    }

    /// A registration is invalid. Whether that is news.
    pub(super) fn invalid(&mut self, text: &str) -> bool {
        self.status
            .send_modify(|status| status.errors.count(crate::discovery::ErrorReason::Invalid));
        self.invalid.len() < REMEMBERED && self.invalid.insert(text.to_owned())
    }

    /// Connections were left out.
    pub(super) fn skipped(&mut self, skipped: &[(String, Skip)]) {
        for (_, skip) in skipped {
            *self.skips.entry(*skip).or_default() += 1;
        }
    }

    /// An event had an unknown type.
    pub(super) fn unknown_event(&mut self, endpoint: &str) {
        if self.unknown_events == 0 {
            warn!("monitor of endpoint {endpoint}: event of an unknown type; ignored");
        }
        self.unknown_events += 1;
        self.changed();
    }

    /// Conflicts began or ended.
    pub(super) fn conflicts(&mut self, changes: &Changes) {
        for conflict in &changes.begun {
            *self.conflicts.entry(conflict.kind()).or_default() += 1;
        }
        let begun = changes.begun.iter().map(Conflict::begun);
        let ended = changes.ended.iter().map(Conflict::ended);
        let events: Vec<Event> = begun.chain(ended).collect();
        if !events.is_empty() {
            self.events.emit_all(events);
        }
    }

    /// Updates the status.
    pub(super) fn show(&mut self, inventory: &Inventory, owners: &Owners) {
        self.monitors
            .retain(|endpoint, _| inventory.has_endpoint(endpoint));
        let discovery = self.discovery(inventory, owners);
        let streams = || {
            let monitors = discovery.endpoints.iter().map(|endpoint| &endpoint.monitor);
            std::iter::once(&discovery.registry).chain(monitors)
        };
        let errors: Vec<&str> = streams().filter_map(|stream| stream.error.as_deref()).collect();
        let error = (!errors.is_empty()).then(|| errors.join("; "));
        let is_synced = inventory.is_complete() && streams().all(|stream| stream.live);
        self.status.send_modify(|status| {
            status.synced = is_synced;
            if is_synced {
                status.loaded = Some(SystemTime::now());
            }
            status.error = error;
            status.nsm = Some(Arc::new(discovery));
        });
    }

    fn discovery(&self, inventory: &Inventory, owners: &Owners) -> NsmDiscovery {
        let endpoints = inventory.endpoints().map(|known| {
            let server = match known.manager {
                Manager::Local => &self.manager,
                Manager::Remote(target) => target,
            };
            let mut monitor = stream(self.monitors.get(known.name), server);
            monitor.live &= known.stream == Stream::Live;
            NsmEndpoint {
                name: known.name.to_string(),
                listed: known.is_listed,
                connections: known.connections,
                monitor,
            }
        });
        let count = |reason: &str, total: Option<&u64>| NsmReasonCount {
            reason: reason.to_owned(),
            total: total.copied().unwrap_or_default(),
        };
        let skips = Skip::ALL.map(|skip| count(skip.name(), self.skips.get(&skip)));
        let kinds = ConflictKind::ALL.map(|kind| count(kind.name(), self.conflicts.get(&kind)));
        let conflicts = owners.conflicts.iter().take(LISTED).map(|conflict| NsmConflict {
            kind: conflict.kind().name().to_owned(),
            text: conflict.to_string(),
        });
        NsmDiscovery {
            network_service: self.service.clone(),
            registry: stream(Some(&self.registry), &self.manager),
            endpoints: endpoints.collect(),
            conflicts: conflicts.collect(),
            conflicts_total: kinds.into(),
            skipped_connections_total: skips.into(),
            unknown_events_total: self.unknown_events,
            registry_losses_total: self.registry_losses,
            monitor_losses_total: self.monitor_losses,
        }
    }
}

fn stream(shown: Option<&Shown>, server: &Target) -> NsmStream {
    NsmStream {
        server: server.to_string(),
        live: shown.is_some_and(|shown| shown.is_live),
        since: shown.and_then(|shown| shown.since).map(Time),
        error: shown.and_then(|shown| shown.error.clone()),
    }
}
