//! All watches of the source: the collections to follow, their caches and their errors.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{StreamExt, future};

use super::assembly::Assembly;
use super::cache::{Activity, Cache, Change, Entry, Progress, Record, Scope, reduce};
use super::node::NodeRecord;
use super::pod::PodRecord;
use super::service::ServiceRecord;
use super::slice::SliceRecord;
use super::unlisted::Unlisted;
use crate::config::{AddressFrom, Namespaces, Selector};
use crate::discovery::Missing;
use crate::kubernetes::error::ConnectError;
use crate::kubernetes::names::{CONTROLLER, MANAGED_BY};
use crate::kubernetes::watch::{self, Signal};

/// The collections to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) namespaces: Namespaces,
    /// The labels that all pods have.
    pub(super) selector: Selector,
    pub(super) address_from: AddressFrom,
    pub(super) services: bool,
    pub(super) slices: bool,
    pub(super) nodes: bool,
}

/// Running watches and their caches. Watches stop when this is dropped; caches outlive the watches that fill them.
pub(super) struct Watches {
    plan: Plan,
    updates: SelectAll<BoxStream<'static, Update>>,
    pods: Vec<Cache<PodRecord>>,
    services: Vec<Cache<ServiceRecord>>,
    slices: Vec<Cache<SliceRecord>>,
    nodes: Vec<Cache<NodeRecord>>,
    activity: Activity,
}

/// A signal for the cache at that position among those of its kind.
enum Update {
    Pod(usize, Signal<Entry<PodRecord>>),
    Service(usize, Signal<Entry<ServiceRecord>>),
    Slice(usize, Signal<Entry<SliceRecord>>),
    Node(usize, Signal<Entry<NodeRecord>>),
}

impl Watches {
    /// No watches yet.
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            plan,
            updates: SelectAll::new(),
            pods: Vec::new(),
            services: Vec::new(),
            slices: Vec::new(),
            nodes: Vec::new(),
            activity: Activity::default(),
        }
    }

    /// Starts all watches and ends the running ones. Cached records stay until a new list is complete.
    ///
    /// Errors: certificates or a token that cannot be read; running watches continue.
    pub(super) fn start(&mut self, config: &kube::Config) -> Result<(), ConnectError> {
        if self.pods.is_empty() {
            self.create_caches(&config.default_namespace);
        }
        let pods = self.plan.selector.to_string();
        // Not those that the balancers write themselves.
        let slices = format!("{MANAGED_BY}!={CONTROLLER}");
        let mut updates = SelectAll::new();
        updates.extend(streams(
            &self.pods,
            config,
            &pods,
            &self.plan.address_from,
            Update::Pod,
        )?);
        updates.extend(streams(&self.services, config, "", &(), Update::Service)?);
        updates.extend(streams(&self.slices, config, &slices, &(), Update::Slice)?);
        updates.extend(streams(&self.nodes, config, "", &(), Update::Node)?);
        self.updates = updates;
        self.pods.iter_mut().for_each(Cache::restart);
        self.services.iter_mut().for_each(Cache::restart);
        self.slices.iter_mut().for_each(Cache::restart);
        self.nodes.iter_mut().for_each(Cache::restart);
        Ok(())
    }

    fn create_caches(&mut self, own_namespace: &str) {
        let scopes: Vec<Scope> = match &self.plan.namespaces {
            Namespaces::Own => vec![Some(own_namespace.to_owned())],
            Namespaces::Named(names) => names.iter().cloned().map(Some).collect(),
            Namespaces::All => vec![None],
        };
        let when = |needed: bool| if needed { scopes.clone() } else { Vec::new() };
        self.pods = when(true).into_iter().map(Cache::new).collect();
        self.services = when(self.plan.services).into_iter().map(Cache::new).collect();
        self.slices = when(self.plan.slices).into_iter().map(Cache::new).collect();
        self.nodes = self.plan.nodes.then(|| Cache::new(None)).into_iter().collect();
    }

    /// Waits for the next signal and applies it to the caches and to `assembly`. Whether the desired set may have
    /// changed. Cancel-safe.
    pub(super) async fn next(&mut self, assembly: &mut Assembly) -> bool {
        let Some(update) = self.updates.next().await else {
            return future::pending().await;
        };
        let was_usable = self.is_usable();
        let changed = self.apply(update, assembly);
        let unlisted_changed = assembly.set_unlisted(self.unlisted());
        changed || unlisted_changed || self.is_usable() != was_usable
    }

    fn apply(&mut self, update: Update, assembly: &mut Assembly) -> bool {
        let activity = &mut self.activity;
        match update {
            Update::Pod(position, signal) => {
                let pods = apply(&mut self.pods, position, signal, activity);
                let changed = !pods.is_empty();
                assembly.replace_pods(pods);
                changed
            }
            Update::Service(position, signal) => {
                let services = apply(&mut self.services, position, signal, activity);
                let changed = !services.is_empty();
                assembly.replace_services(services);
                changed
            }
            Update::Slice(position, signal) => {
                let slices = apply(&mut self.slices, position, signal, activity);
                let changed = !slices.is_empty();
                assembly.replace_slices(slices);
                changed
            }
            Update::Node(position, signal) => {
                let nodes = apply(&mut self.nodes, position, signal, activity);
                let changed = !nodes.is_empty();
                assembly.replace_nodes(nodes);
                changed
            }
        }
    }

    /// Whether a set can be made: each collection was listed once, except those that the API server refuses to list,
    /// and the pods of some namespace are known.
    pub(super) fn is_usable(&self) -> bool {
        let mut all = self.progress();
        let mut pods = self.pods.iter();
        all.all(|progress| progress.complete || progress.denied) && pods.any(|cache| cache.progress.complete)
    }

    /// The collections that usable sets lack, as of `now`.
    pub(super) fn missing(&self, now: SystemTime) -> Vec<Missing> {
        let denied = self
            .progress()
            .filter(|progress| progress.denied && self.is_usable());
        let missing = denied.map(|progress| Missing {
            kind: progress.kind.clone(),
            namespace: progress.scope.clone(),
            place: progress.place.clone(),
            reason: progress.error.as_ref().map(ToString::to_string),
            since: now,
        });
        missing.collect()
    }

    /// The present errors, except those of missing collections.
    pub(super) fn error(&self) -> Option<String> {
        let is_usable = self.is_usable();
        let failing = self.progress().filter(|progress| !(is_usable && progress.denied));
        let errors: Vec<String> = failing
            .filter_map(|progress| progress.error.as_ref().map(ToString::to_string))
            .collect();
        (!errors.is_empty()).then(|| errors.join("; "))
    }

    /// The activity since the last call.
    pub(super) fn take_activity(&mut self) -> Activity {
        std::mem::take(&mut self.activity)
    }

    fn unlisted(&self) -> Unlisted {
        Unlisted {
            pods: denied(&self.pods).collect(),
            slices: denied(&self.slices).collect(),
        }
    }

    fn progress(&self) -> impl Iterator<Item = &Progress> {
        let pods = self.pods.iter().map(|cache| &cache.progress);
        let services = self.services.iter().map(|cache| &cache.progress);
        let slices = self.slices.iter().map(|cache| &cache.progress);
        let nodes = self.nodes.iter().map(|cache| &cache.progress);
        pods.chain(services).chain(slices).chain(nodes)
    }
}

fn apply<T: Record>(
    caches: &mut [Cache<T>],
    position: usize,
    signal: Signal<Entry<T>>,
    activity: &mut Activity,
) -> Vec<Change<T>> {
    let cache = caches.get_mut(position);
    cache
        .map(|cache| cache.apply(signal, activity))
        .unwrap_or_default()
}

fn denied<T: Record>(caches: &[Cache<T>]) -> impl Iterator<Item = Scope> {
    let denied = caches.iter().filter(|cache| cache.progress.denied);
    denied.map(|cache| cache.progress.scope.clone())
}

/// One watch stream for each of `caches`, of the objects that the label selector `labels` selects.
fn streams<T: Record>(
    caches: &[Cache<T>],
    config: &kube::Config,
    labels: &str,
    options: &T::Options,
    update: fn(usize, Signal<Entry<T>>) -> Update,
) -> Result<Vec<BoxStream<'static, Update>>, ConnectError>
where
    T::Options: Clone,
{
    let options = Arc::new(options.clone());
    let stream = |(position, cache): (usize, &Cache<T>)| {
        let scope = cache.progress.scope.as_deref();
        let signals = watch::stream(config, labels, |client| T::api(client, scope))?;
        let options = Arc::clone(&options);
        let updates = signals.map(move |signal| update(position, reduce::<T>(signal, &options)));
        Ok(updates.boxed())
    };
    caches.iter().enumerate().map(stream).collect()
}
