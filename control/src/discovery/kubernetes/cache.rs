//! A cache of the records of one watch, and the state of that watch.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::discovery::{ErrorCounts, ErrorReason};
use crate::kubernetes::error::{WatchError, is_expired, status};
use crate::kubernetes::watch::Signal;

/// The record kept of an object of one kind.
pub(super) trait Record: PartialEq + Send + Sync + 'static {
    type Object: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static;
    /// The configurable part of the selection.
    type Options: Send + Sync + 'static;
    /// The scope of a watch of all objects, in words.
    const EVERYWHERE: &'static str = "all namespaces";

    /// The objects of `namespace`, or of all namespaces.
    fn api(client: Client, namespace: Option<&str>) -> Api<Self::Object>;

    /// `None` if the object is irrelevant.
    fn read(object: &Self::Object, options: &Self::Options) -> Option<Self>
    where
        Self: Sized;
}

/// An object's identity and its record.
pub(super) struct Entry<T> {
    namespace: Option<String>,
    name: String,
    /// Distinguishes it from a later object of its name.
    uid: String,
    record: Option<Arc<T>>,
}

/// A change of a record: added without `old`, removed without `new`.
#[derive(Debug)]
pub(super) struct Change<T> {
    pub(super) old: Option<Arc<T>>,
    pub(super) new: Option<Arc<T>>,
}

/// Events and failures of watches since they were last taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Activity {
    /// Changes of objects, and complete lists.
    pub(super) changes: u64,
    pub(super) failures: ErrorCounts,
}

impl Activity {
    /// Whether the server refused the credentials.
    pub(super) fn is_unauthorized(self) -> bool {
        let mut failures = self.failures.by_reason();
        failures.any(|(reason, count)| reason == ErrorReason::Expired && count > 0)
    }
}

/// The namespace of a watch; `None` for the whole cluster.
pub(super) type Scope = Option<String>;

/// The state of a watch.
#[derive(Debug)]
pub(super) struct Progress {
    /// The plural name of the resource.
    pub(super) kind: String,
    pub(super) scope: Scope,
    /// The scope in words.
    pub(super) place: String,
    /// Whether a list is in progress.
    listing: bool,
    /// Whether there was a complete list.
    pub(super) complete: bool,
    /// Whether the server refuses to list the objects, and there was no complete list.
    pub(super) denied: bool,
    pub(super) error: Option<WatchError>,
}

/// The cache of one watch.
pub(super) struct Cache<T: Record> {
    pub(super) progress: Progress,
    writer: Writer<Entry<T>>,
    entries: Store<Entry<T>>,
}

impl<T: Record> Cache<T> {
    /// An empty cache.
    pub(super) fn new(scope: Scope) -> Self {
        let writer = Writer::new(());
        Self {
            progress: Progress {
                kind: <T::Object as Resource>::plural(&()).into_owned(),
                place: scope
                    .as_ref()
                    .map_or_else(|| T::EVERYWHERE.to_owned(), |name| format!("namespace {name}")),
                scope,
                listing: false,
                complete: false,
                denied: false,
                error: None,
            },
            entries: writer.as_reader(),
            writer,
        }
    }

    /// Discards an unfinished list: the watch starts again.
    pub(super) const fn restart(&mut self) {
        self.progress.listing = false;
    }

    /// Applies `signal` and returns the records that it changed. A list replaces the cache when it is complete.
    pub(super) fn apply(&mut self, signal: Signal<Entry<T>>, activity: &mut Activity) -> Vec<Change<T>> {
        let event = match signal {
            Signal::Started => {
                self.progress.error = None;
                return Vec::new();
            }
            Signal::Event(Ok(event)) => event,
            Signal::Event(Err(error)) => {
                self.progress.fail(error, activity);
                return Vec::new();
            }
        };
        let changes = self.apply_event(event);
        if !self.progress.listing {
            self.progress.error = None;
            activity.changes += 1;
        }
        changes
    }

    fn apply_event(&mut self, event: Event<Entry<T>>) -> Vec<Change<T>> {
        let known = |entry: &Entry<T>| self.entries.get(&entry.to_object_ref(()));
        match event {
            Event::Init => {
                self.begin_list();
                Vec::new()
            }
            Event::InitApply(entry) => {
                self.begin_list();
                if entry.record.is_some() {
                    self.writer.apply_watcher_event(&Event::InitApply(entry));
                }
                Vec::new()
            }
            Event::InitDone => {
                self.begin_list();
                self.progress.listing = false;
                self.progress.complete = true;
                self.progress.denied = false;
                let before = self.entries.state();
                self.writer.apply_watcher_event(&Event::InitDone);
                replaced(&before, &self.entries.state())
            }
            Event::Apply(entry) => {
                let old = known(&entry).and_then(|known| known.record.clone());
                let new = entry.record.clone();
                if old == new && known(&entry).is_none_or(|known| known.uid == entry.uid) {
                    return Vec::new();
                }
                // An object that became irrelevant is removed.
                let event = if new.is_some() {
                    Event::Apply
                } else {
                    Event::Delete
                };
                self.writer.apply_watcher_event(&event(entry));
                vec![Change { old, new }]
            }
            Event::Delete(entry) => match known(&entry) {
                Some(known) if known.uid == entry.uid => {
                    self.writer.apply_watcher_event(&Event::Delete(entry));
                    let old = known.record.clone();
                    vec![Change { old, new: None }]
                }
                // Another object of that name is cached by now.
                _ => Vec::new(),
            },
        }
    }

    fn begin_list(&mut self) {
        if !self.progress.listing {
            self.writer.apply_watcher_event(&Event::Init);
            self.progress.listing = true;
        }
    }
}

impl Progress {
    fn fail(&mut self, error: watcher::Error, activity: &mut Activity) {
        self.listing = false;
        if is_expired(&error) {
            return;
        }
        activity.failures.count(reason(&error));
        let refused = matches!(error, watcher::Error::InitialListFailed(_))
            && status(&error).is_some_and(|status| matches!(status.code, 403 | 404));
        self.denied |= refused && !self.complete;
        self.error = Some(WatchError {
            kind: self.kind.clone(),
            scope: self.place.clone(),
            source: error,
        });
    }
}

/// The difference between two complete lists.
fn replaced<T: Record>(before: &[Arc<Entry<T>>], after: &[Arc<Entry<T>>]) -> Vec<Change<T>> {
    type Name<'a> = (Option<&'a str>, &'a str);
    fn name<T>(entry: &Entry<T>) -> Name<'_> {
        (entry.namespace.as_deref(), &entry.name)
    }
    let mut former: HashMap<Name<'_>, &Arc<Entry<T>>> =
        before.iter().map(|entry| (name(entry), entry)).collect();
    let mut all = Vec::new();
    for entry in after {
        let old = former.remove(&name(entry)).and_then(|entry| entry.record.clone());
        if old != entry.record {
            let new = entry.record.clone();
            all.push(Change { old, new });
        }
    }
    let gone = former.into_values().map(|entry| Change {
        old: entry.record.clone(),
        new: None,
    });
    // Removals first, so that an addition can take over a name or address.
    gone.chain(all).collect()
}

/// The reason to count `error` under.
fn reason(error: &watcher::Error) -> ErrorReason {
    match status(error).map(|status| status.code) {
        Some(401) => ErrorReason::Expired,
        Some(403) => ErrorReason::Forbidden,
        Some(_) => ErrorReason::Refused,
        None => ErrorReason::Unreachable,
    }
}

/// Reduces the objects of a signal to records.
pub(super) fn reduce<T: Record>(signal: Signal<T::Object>, options: &T::Options) -> Signal<Entry<T>> {
    match signal {
        Signal::Started => Signal::Started,
        Signal::Event(event) => Signal::Event(event.map(|event| read::<T>(&event, options))),
    }
}

fn read<T: Record>(event: &Event<T::Object>, options: &T::Options) -> Event<Entry<T>> {
    let read = |object| Entry::read(object, options);
    match event {
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(read(object)),
        Event::InitDone => Event::InitDone,
        Event::Apply(object) => Event::Apply(read(object)),
        Event::Delete(object) => Event::Delete(read(object)),
    }
}

impl<T: Record> Entry<T> {
    pub(super) fn read(object: &T::Object, options: &T::Options) -> Self {
        let metadata = object.meta();
        Self {
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            record: T::read(object, options).map(Arc::new),
        }
    }
}

/// Not derived, since a record need not be `Clone`.
impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            record: self.record.clone(),
        }
    }
}

/// Required by the reflector's store.
impl<T: Record> Lookup for Entry<T> {
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

    /// Not kept: an object that changed in irrelevant fields only is the same.
    fn resource_version(&self) -> Option<Cow<'_, str>> {
        None
    }

    fn uid(&self) -> Option<Cow<'_, str>> {
        Some(Cow::from(&self.uid))
    }
}
