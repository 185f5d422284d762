//! One watch: what the API server says about the objects of one kind in one place, and what is known of
//! them.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::failure;
use crate::discovery::{ErrorCounts, ErrorReason};

/// What is kept of an object: the little that counts.
pub(super) trait Kept: PartialEq + Send + Sync + 'static {
    type Object: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static;
    /// What is to be read of objects.
    type Reading: Send + Sync + 'static;
    /// The scope of a watch that is not of one namespace, in words.
    const EVERYWHERE: &'static str = "all namespaces";

    /// The objects of `namespace`, or of all.
    fn api(client: Client, namespace: Option<&str>) -> Api<Self::Object>;

    /// `None` if nothing about `object` counts.
    fn read(object: &Self::Object, reading: &Self::Reading) -> Option<Self>
    where
        Self: Sized;
}

/// An object by its name, and what is kept of it.
pub(super) struct Entry<T> {
    namespace: Option<String>,
    name: String,
    /// Tells it from the next one of its name.
    uid: String,
    kept: Option<Arc<T>>,
}

/// What was heard since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Changes of objects, and complete lists.
    pub(super) changes: u64,
    pub(super) failures: ErrorCounts,
}

impl Heard {
    /// Whether the server does not accept who asks.
    pub(super) fn is_refused_credentials(self) -> bool {
        let mut failures = self.failures.by_reason();
        failures.any(|(reason, count)| reason == ErrorReason::Expired && count > 0)
    }
}

/// How a watch is doing.
#[derive(Debug)]
pub(super) struct Progress {
    /// In words.
    scope: String,
    /// Whether a list is under way.
    listing: bool,
    /// Whether there was a complete list.
    pub(super) complete: bool,
    pub(super) error: Option<String>,
}

/// One watch and what it knows.
pub(super) struct Watch<T: Kept> {
    pub(super) progress: Progress,
    writer: Writer<Entry<T>>,
    known: Store<Entry<T>>,
}

impl<T: Kept> Watch<T> {
    /// Knows nothing yet. `scope` says where the objects are, in words.
    pub(super) fn new(scope: String) -> Self {
        let writer = Writer::new(());
        Self {
            progress: Progress {
                scope,
                listing: false,
                complete: false,
                error: None,
            },
            known: writer.as_reader(),
            writer,
        }
    }

    /// All known objects, in any order.
    pub(super) fn known(&self) -> impl Iterator<Item = Arc<T>> {
        let known = self.known.state().into_iter();
        known.filter_map(|entry| entry.kept.clone())
    }

    /// Takes note of `event`. Whether anything that counts changed by it.
    ///
    /// A list replaces what was known only when it is complete.
    pub(super) fn hear(&mut self, event: watcher::Result<Event<Entry<T>>>, heard: &mut Heard) -> bool {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                self.progress.listing = false;
                let kind = <T::Object as Resource>::plural(&());
                if let Some(told) = failure::told(&error, &kind, &self.progress.scope) {
                    heard.failures.count(failure::reason(&error));
                    self.progress.error = Some(told);
                }
                return false;
            }
        };
        let changed = self.follow(event);
        if !self.progress.listing {
            self.progress.error = None;
            heard.changes += 1;
        }
        changed
    }

    fn follow(&mut self, event: Event<Entry<T>>) -> bool {
        let known = |entry: &Entry<T>| self.known.get(&entry.to_object_ref(()));
        match event {
            Event::Init => {
                self.begin_list();
                false
            }
            Event::InitApply(entry) => {
                self.begin_list();
                if entry.kept.is_some() {
                    self.writer.apply_watcher_event(&Event::InitApply(entry));
                }
                false
            }
            Event::InitDone => {
                self.begin_list();
                self.progress.listing = false;
                self.progress.complete = true;
                self.writer.apply_watcher_event(&Event::InitDone);
                true
            }
            Event::Apply(entry) => match (known(&entry), &entry.kept) {
                (None, None) => false,
                (Some(known), Some(_)) if known.kept == entry.kept => false,
                (_, Some(_)) => {
                    self.writer.apply_watcher_event(&Event::Apply(entry));
                    true
                }
                // It counted until now.
                (Some(_), None) => {
                    self.writer.apply_watcher_event(&Event::Delete(entry));
                    true
                }
            },
            // Not the next one of its name.
            Event::Delete(entry) => {
                let is_known = known(&entry).is_some_and(|known| known.uid == entry.uid);
                if is_known {
                    self.writer.apply_watcher_event(&Event::Delete(entry));
                }
                is_known
            }
        }
    }

    fn begin_list(&mut self) {
        if !self.progress.listing {
            self.writer.apply_watcher_event(&Event::Init);
            self.progress.listing = true;
        }
    }
}

/// The changes of objects, read, with pauses after failures: longer ones after several, and random, so
/// that balancers do not come back all at once.
///
/// The watcher says that it begins a list before it has asked for it. That is left out: it would count
/// as a success between two failures, and the pauses would never grow.
pub(super) fn changes<T: Kept>(
    api: Api<T::Object>,
    params: watcher::Config,
    reading: Arc<T::Reading>,
) -> impl Stream<Item = watcher::Result<Event<Entry<T>>>> + Send {
    let start = move || watcher(api.clone(), params.clone()).boxed();
    stream::unfold((None, start, reading), async |(running, start, reading)| {
        let mut running: BoxStream<'static, _> = running.unwrap_or_else(&start);
        loop {
            let event = running.next().await?;
            if matches!(event, Ok(Event::Init)) {
                continue;
            }
            let again = event.as_ref().err().is_some_and(failure::needs_list);
            let event = event.map(|event| read::<T>(&event, &reading));
            return Some((event, ((!again).then_some(running), start, reading)));
        }
    })
    .default_backoff()
}

fn read<T: Kept>(event: &Event<T::Object>, reading: &T::Reading) -> Event<Entry<T>> {
    let read = |object| Entry::read(object, reading);
    match event {
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(read(object)),
        Event::InitDone => Event::InitDone,
        Event::Apply(object) => Event::Apply(read(object)),
        Event::Delete(object) => Event::Delete(read(object)),
    }
}

impl<T: Kept> Entry<T> {
    pub(super) fn read(object: &T::Object, reading: &T::Reading) -> Self {
        let metadata = object.meta();
        Self {
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            kept: T::read(object, reading).map(Arc::new),
        }
    }
}

/// Not derived: what is kept need not be cloneable.
impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            kept: self.kept.clone(),
        }
    }
}

/// So that a reflector's store can hold it.
impl<T: Kept> Lookup for Entry<T> {
    type DynamicType = ();

    fn kind((): &()) -> Cow<'_, str> {
        <T::Object as Resource>::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        <T::Object as Resource>::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        <T::Object as Resource>::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        <T::Object as Resource>::plural(&())
    }

    fn name(&self) -> Option<Cow<'_, str>> {
        Some(Cow::from(&self.name))
    }

    fn namespace(&self) -> Option<Cow<'_, str>> {
        self.namespace.as_deref().map(Cow::from)
    }

    /// Not kept: an object that changed in nothing that counts is the same.
    fn resource_version(&self) -> Option<Cow<'_, str>> {
        None
    }

    fn uid(&self) -> Option<Cow<'_, str>> {
        Some(Cow::from(&self.uid))
    }
}
