//! The watches of one plan: what is needed of each namespace, and of the cluster.

use std::sync::Arc;

use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{StreamExt, future};

use super::assembly::Assembly;
use super::cache::{Activity, Cache, Change, Entry, Progress, Record, reduce};
use super::node::NodeRecord;
use super::pod::{Options, PodRecord};
use super::service::ServiceRecord;
use super::slice::SliceRecord;
use crate::config::{Namespaces, Selector};
use crate::kubernetes::error::ConnectError;
use crate::kubernetes::names::{CONTROLLER, MANAGED_BY};
use crate::kubernetes::watch::{self, Signal};

/// What to ask the API server for, and what to keep of the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) namespaces: Namespaces,
    /// What all pods are labelled with.
    pub(super) selector: Selector,
    pub(super) reading: Options,
    pub(super) services: bool,
    pub(super) slices: bool,
    pub(super) nodes: bool,
}

/// Running watches. Stopped by dropping.
pub(super) struct Watches {
    said: SelectAll<BoxStream<'static, Tagged>>,
    pods: Vec<Cache<PodRecord>>,
    services: Vec<Cache<ServiceRecord>>,
    slices: Vec<Cache<SliceRecord>>,
    nodes: Vec<Cache<NodeRecord>>,
    heard: Activity,
}

type Update<T> = Signal<Entry<T>>;

/// What a watch has to tell, by its place among those of its kind.
enum Tagged {
    Pod(usize, Update<PodRecord>),
    Service(usize, Update<ServiceRecord>),
    Slice(usize, Update<SliceRecord>),
    Node(usize, Update<NodeRecord>),
}

impl Watches {
    /// Begins the watches of `plan`.
    ///
    /// Errors: certificates or a token that cannot be read.
    pub(super) fn open(config: &kube::Config, plan: &Plan) -> Result<Self, ConnectError> {
        let scopes: Vec<Option<&str>> = match &plan.namespaces {
            Namespaces::Own => vec![Some(&config.default_namespace)],
            Namespaces::Named(names) => names.iter().map(|name| Some(name.as_str())).collect(),
            Namespaces::All => vec![None],
        };
        let mut opening = Opening {
            config,
            said: SelectAll::new(),
        };
        let when = |wanted: bool| if wanted { scopes.as_slice() } else { &[] };
        let cluster: &[Option<&str>] = if plan.nodes { &[None] } else { &[] };
        let pods = plan.selector.to_string();
        // Not those that the balancers write themselves.
        let not_ours = format!("{MANAGED_BY}!={CONTROLLER}");
        let reading = plan.reading.clone();
        Ok(Self {
            pods: opening.open(&scopes, &pods, reading, Tagged::Pod)?,
            services: opening.open(when(plan.services), "", (), Tagged::Service)?,
            slices: opening.open(when(plan.slices), &not_ours, (), Tagged::Slice)?,
            nodes: opening.open(cluster, "", (), Tagged::Node)?,
            said: opening.said,
            heard: Activity::default(),
        })
    }

    /// Waits until something is heard, and tells `assembly` what changed by it. Whether anything did that
    /// counts. May be cancelled.
    pub(super) async fn next(&mut self, assembly: &mut Assembly) -> bool {
        tokio::select! {
            Some(said) = self.said.next() => {
                let was_complete = self.are_complete();
                let changed = self.hear(said, assembly);
                changed || self.are_complete() != was_complete
            }
            else => future::pending().await,
        }
    }

    fn hear(&mut self, said: Tagged, assembly: &mut Assembly) -> bool {
        let heard = &mut self.heard;
        match said {
            Tagged::Pod(place, change) => {
                let pods = hear(&mut self.pods, place, change, heard);
                let changed = !pods.is_empty();
                assembly.replace_pods(pods);
                changed
            }
            Tagged::Service(place, change) => {
                let services = hear(&mut self.services, place, change, heard);
                let changed = !services.is_empty();
                assembly.replace_services(services);
                changed
            }
            Tagged::Slice(place, change) => {
                let slices = hear(&mut self.slices, place, change, heard);
                let changed = !slices.is_empty();
                assembly.replace_slices(slices);
                changed
            }
            Tagged::Node(place, change) => {
                let nodes = hear(&mut self.nodes, place, change, heard);
                let changed = !nodes.is_empty();
                assembly.replace_nodes(nodes);
                changed
            }
        }
    }

    /// Whether everything was listed in full at least once.
    pub(super) fn are_complete(&self) -> bool {
        self.progress().all(|progress| progress.complete)
    }

    /// What is wrong now, if anything.
    pub(super) fn error(&self) -> Option<String> {
        let errors: Vec<&str> = self
            .progress()
            .filter_map(|progress| progress.error.as_deref())
            .collect();
        (!errors.is_empty()).then(|| errors.join("; "))
    }

    /// What was heard since the last call.
    pub(super) fn take_heard(&mut self) -> Activity {
        std::mem::take(&mut self.heard)
    }

    /// In the order in which they were opened.
    fn progress(&self) -> impl Iterator<Item = &Progress> {
        let pods = self.pods.iter().map(|watch| &watch.progress);
        let services = self.services.iter().map(|watch| &watch.progress);
        let slices = self.slices.iter().map(|watch| &watch.progress);
        let nodes = self.nodes.iter().map(|watch| &watch.progress);
        pods.chain(services).chain(slices).chain(nodes)
    }
}

fn hear<T: Record>(
    watches: &mut [Cache<T>],
    place: usize,
    change: Update<T>,
    heard: &mut Activity,
) -> Vec<Change<T>> {
    let watch = watches.get_mut(place);
    watch.map(|watch| watch.hear(change, heard)).unwrap_or_default()
}

/// Watches that are being opened.
struct Opening<'a> {
    config: &'a kube::Config,
    said: SelectAll<BoxStream<'static, Tagged>>,
}

impl Opening<'_> {
    /// One watch for each of `scopes` (`None`: everywhere) of the objects that `selector` selects.
    fn open<T: Record>(
        &mut self,
        scopes: &[Option<&str>],
        selector: &str,
        reading: T::Options,
        said: fn(usize, Update<T>) -> Tagged,
    ) -> Result<Vec<Cache<T>>, ConnectError> {
        let reading = Arc::new(reading);
        let mut watches = Vec::with_capacity(scopes.len());
        for (place, namespace) in scopes.iter().enumerate() {
            let signals = watch::stream(self.config, selector, |client| T::api(client, *namespace))?;
            let reading = Arc::clone(&reading);
            let changes = signals.map(move |signal| said(place, reduce::<T>(signal, &reading)));
            self.said.push(changes.boxed());
            watches.push(Cache::new(match namespace {
                Some(name) => format!("namespace {name}"),
                None => T::EVERYWHERE.to_owned(),
            }));
        }
        Ok(watches)
    }
}
