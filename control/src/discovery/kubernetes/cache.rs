//! One watch: what the API server says about the objects of one kind in one place, and what is known of
//! them.

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

/// What is kept of an object: the little that counts.
pub(super) trait Record: PartialEq + Send + Sync + 'static {
    type Object: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static;
    /// What is to be read of objects.
    type Options: Send + Sync + 'static;
    /// The scope of a watch that is not of one namespace, in words.
    const EVERYWHERE: &'static str = "all namespaces";

    /// The objects of `namespace`, or of all.
    fn api(client: Client, namespace: Option<&str>) -> Api<Self::Object>;

    /// `None` if nothing about `object` counts.
    fn read(object: &Self::Object, reading: &Self::Options) -> Option<Self>
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

/// A change of what is kept of an object.
#[derive(Debug)]
pub(super) struct Change<T> {
    pub(super) old: Option<Arc<T>>,
    pub(super) new: Option<Arc<T>>,
}

/// What was heard since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Activity {
    /// Changes of objects, and complete lists.
    pub(super) changes: u64,
    pub(super) failures: ErrorCounts,
}

impl Activity {
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
pub(super) struct Cache<T: Record> {
    pub(super) progress: Progress,
    writer: Writer<Entry<T>>,
    known: Store<Entry<T>>,
}

impl<T: Record> Cache<T> {
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

    /// Takes note of `event`. What changed by it of what counts.
    ///
    /// A list replaces what was known only when it is complete.
    pub(super) fn hear(&mut self, signal: Signal<Entry<T>>, heard: &mut Activity) -> Vec<Change<T>> {
        let Signal::Event(event) = signal else {
            self.progress.error = None;
            return Vec::new();
        };
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                self.progress.listing = false;
                if !is_expired(&error) {
                    heard.failures.count(reason(&error));
                    let error = WatchError {
                        kind: <T::Object as Resource>::plural(&()).into_owned(),
                        scope: self.progress.scope.clone(),
                        source: error,
                    };
                    self.progress.error = Some(error.to_string());
                }
                return Vec::new();
            }
        };
        let changed = self.follow(event);
        if !self.progress.listing {
            self.progress.error = None;
            heard.changes += 1;
        }
        changed
    }

    fn follow(&mut self, event: Event<Entry<T>>) -> Vec<Change<T>> {
        let known = |entry: &Entry<T>| self.known.get(&entry.to_object_ref(()));
        match event {
            Event::Init => {
                self.begin_list();
                Vec::new()
            }
            Event::InitApply(entry) => {
                self.begin_list();
                if entry.kept.is_some() {
                    self.writer.apply_watcher_event(&Event::InitApply(entry));
                }
                Vec::new()
            }
            Event::InitDone => {
                self.begin_list();
                self.progress.listing = false;
                self.progress.complete = true;
                let before = self.known.state();
                self.writer.apply_watcher_event(&Event::InitDone);
                replaced(&before, &self.known.state())
            }
            Event::Apply(entry) => {
                let was = known(&entry).and_then(|known| known.kept.clone());
                let is = entry.kept.clone();
                if was == is && known(&entry).is_none_or(|known| known.uid == entry.uid) {
                    return Vec::new();
                }
                // What does not count any more is not kept.
                let event = if is.is_some() { Event::Apply } else { Event::Delete };
                self.writer.apply_watcher_event(&event(entry));
                vec![Change { old: was, new: is }]
            }
            Event::Delete(entry) => match known(&entry) {
                Some(known) if known.uid == entry.uid => {
                    self.writer.apply_watcher_event(&Event::Delete(entry));
                    let was = known.kept.clone();
                    vec![Change { old: was, new: None }]
                }
                // Not the next one of its name.
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

/// The difference between two complete lists.
fn replaced<T: Record>(before: &[Arc<Entry<T>>], after: &[Arc<Entry<T>>]) -> Vec<Change<T>> {
    type Place<'a> = (Option<&'a str>, &'a str);
    fn place<T>(entry: &Entry<T>) -> Place<'_> {
        (entry.namespace.as_deref(), &entry.name)
    }
    let mut former: HashMap<Place<'_>, &Arc<Entry<T>>> =
        before.iter().map(|entry| (place(entry), entry)).collect();
    let mut all = Vec::new();
    for entry in after {
        let was = former.remove(&place(entry)).and_then(|entry| entry.kept.clone());
        if was != entry.kept {
            let is = entry.kept.clone();
            all.push(Change { old: was, new: is });
        }
    }
    let gone = former.into_values().map(|entry| Change {
        old: entry.kept.clone(),
        new: None,
    });
    // First, so that what comes may take the place of what goes.
    gone.chain(all).collect()
}

/// What kind of failure `error` is.
fn reason(error: &watcher::Error) -> ErrorReason {
    match status(error).map(|status| status.code) {
        Some(401) => ErrorReason::Expired,
        Some(403) => ErrorReason::Forbidden,
        Some(_) => ErrorReason::Refused,
        None => ErrorReason::Unreachable,
    }
}

/// Reduces the objects of a signal to what is kept of them.
pub(super) fn reduce<T: Record>(signal: Signal<T::Object>, reading: &T::Options) -> Signal<Entry<T>> {
    match signal {
        Signal::Started => Signal::Started,
        Signal::Event(event) => Signal::Event(event.map(|event| read::<T>(&event, reading))),
    }
}

fn read<T: Record>(event: &Event<T::Object>, reading: &T::Options) -> Event<Entry<T>> {
    let read = |object| Entry::read(object, reading);
    match event {
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(read(object)),
        Event::InitDone => Event::InitDone,
        Event::Apply(object) => Event::Apply(read(object)),
        Event::Delete(object) => Event::Delete(read(object)),
    }
}

impl<T: Record> Entry<T> {
    pub(super) fn read(object: &T::Object, reading: &T::Options) -> Self {
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

    /// Not kept: an object that changed in nothing that counts is the same.
    fn resource_version(&self) -> Option<Cow<'_, str>> {
        None
    }

    fn uid(&self) -> Option<Cow<'_, str>> {
        Some(Cow::from(&self.uid))
    }
}
