//! The watches of one plan: one for each namespace, each with the pods that it knows.

use std::sync::Arc;

use futures_util::stream::{self, BoxStream, SelectAll};
use futures_util::{Stream, StreamExt, future};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup, Store};
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::mpsc;

use super::connection::{WATCH, client};
use super::failure;
use super::pod::{Member, Reading};
use crate::config::{Namespaces, Selector};
use crate::discovery::ErrorCounts;

/// What to ask the API server for, and what to keep of the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) namespaces: Namespaces,
    pub(super) selector: Selector,
    pub(super) reading: Reading,
}

/// What was heard since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Changes of pods, and complete lists.
    pub(super) changes: u64,
    pub(super) failures: ErrorCounts,
}

/// Running watches. Stopped by dropping.
pub(super) struct Watches {
    /// By index of `each`.
    events: SelectAll<BoxStream<'static, (usize, watcher::Result<Event<Member>>)>>,
    /// Which watches the server has just begun.
    answered: mpsc::UnboundedReceiver<usize>,
    each: Vec<Watch>,
    heard: Heard,
}

impl Watches {
    /// Begins the watches of `plan`.
    ///
    /// Errors: certificates or a token that cannot be read.
    pub(super) fn open(config: &kube::Config, plan: &Plan) -> Result<Self, String> {
        let scopes: Vec<Option<&str>> = match &plan.namespaces {
            Namespaces::Own => vec![Some(&config.default_namespace)],
            Namespaces::Named(names) => names.iter().map(|name| Some(name.as_str())).collect(),
            Namespaces::All => vec![None],
        };
        let reading = Arc::new(plan.reading.clone());
        let seconds = u32::try_from(WATCH.as_secs()).expect("a minute's seconds fit");
        let params = watcher::Config::default()
            .labels(&plan.selector.to_string())
            .timeout(seconds);
        let (send_answered, answered) = mpsc::unbounded_channel();
        let mut events = SelectAll::new();
        let mut each = Vec::with_capacity(scopes.len());
        for (index, namespace) in scopes.into_iter().enumerate() {
            let client = client(config, index, send_answered.clone())?;
            let (api, scope) = match namespace {
                Some(name) => (Api::namespaced(client, name), format!("namespace {name}")),
                None => (Api::all(client), "all namespaces".to_owned()),
            };
            let changes = changes(api, params.clone(), Arc::clone(&reading));
            events.push(changes.map(move |event| (index, event)).boxed());
            each.push(Watch::new(scope));
        }
        Ok(Self {
            events,
            answered,
            each,
            heard: Heard::default(),
        })
    }

    /// Waits until something is heard. Whether pods changed by it. May be cancelled.
    pub(super) async fn next(&mut self) -> bool {
        tokio::select! {
            Some((index, event)) = self.events.next() => match self.each.get_mut(index) {
                Some(watch) => watch.hear(event, &mut self.heard),
                None => false,
            },
            Some(index) = self.answered.recv() => {
                if let Some(watch) = self.each.get_mut(index) {
                    watch.error = None;
                }
                false
            }
            else => future::pending().await,
        }
    }

    /// Whether every namespace was listed in full at least once.
    pub(super) fn are_complete(&self) -> bool {
        self.each.iter().all(|watch| watch.complete)
    }

    /// What is wrong now, if anything.
    pub(super) fn error(&self) -> Option<String> {
        let errors: Vec<&str> = self
            .each
            .iter()
            .filter_map(|watch| watch.error.as_deref())
            .collect();
        (!errors.is_empty()).then(|| errors.join("; "))
    }

    /// What was heard since the last call.
    pub(super) fn take_heard(&mut self) -> Heard {
        std::mem::take(&mut self.heard)
    }

    /// All known pods, in any order.
    pub(super) fn pods(&self) -> Vec<Arc<Member>> {
        self.each.iter().flat_map(|watch| watch.pods.state()).collect()
    }
}

/// One watch and what it knows.
pub(super) struct Watch {
    /// In words.
    scope: String,
    writer: Writer<Member>,
    pods: Store<Member>,
    /// Whether a list is under way.
    listing: bool,
    /// Whether there was a complete list.
    complete: bool,
    error: Option<String>,
}

impl Watch {
    pub(super) fn new(scope: String) -> Self {
        let writer = Writer::new(());
        Self {
            scope,
            pods: writer.as_reader(),
            writer,
            listing: false,
            complete: false,
            error: None,
        }
    }

    /// Takes note of `event`. Whether pods changed by it.
    ///
    /// A list replaces what was known only when it is complete.
    pub(super) fn hear(&mut self, event: watcher::Result<Event<Member>>, heard: &mut Heard) -> bool {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                self.listing = false;
                if let Some(told) = failure::told(&error, &self.scope) {
                    heard.failures.count(failure::reason(&error));
                    self.error = Some(told);
                }
                return false;
            }
        };
        let known = |pod: &Member| self.pods.get(&pod.to_object_ref(()));
        let changed = match &event {
            Event::Init | Event::InitApply(_) => false,
            Event::InitDone => true,
            Event::Apply(pod) => known(pod).is_none_or(|known| *known != *pod),
            // Not the next one of its name.
            Event::Delete(pod) => known(pod).is_some_and(|known| known.uid == pod.uid),
        };
        match &event {
            Event::Init | Event::InitApply(_) | Event::InitDone => {
                if !self.listing {
                    self.writer.apply_watcher_event(&Event::Init);
                }
                self.listing = !matches!(event, Event::InitDone);
                self.complete |= !self.listing;
                self.writer.apply_watcher_event(&event);
            }
            Event::Apply(_) | Event::Delete(_) if changed => self.writer.apply_watcher_event(&event),
            Event::Apply(_) | Event::Delete(_) => {}
        }
        if !self.listing {
            self.error = None;
            heard.changes += 1;
        }
        changed
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> Vec<Arc<Member>> {
        self.pods.state()
    }
}

/// The changes of pods, read, with pauses after failures: longer ones after several, and random, so
/// that balancers do not come back all at once.
///
/// The watcher says that it begins a list before it has asked for it. That is left out: it would count
/// as a success between two failures, and the pauses would never grow.
fn changes(
    api: Api<Pod>,
    params: watcher::Config,
    reading: Arc<Reading>,
) -> impl Stream<Item = watcher::Result<Event<Member>>> + Send {
    let start = move || watcher(api.clone(), params.clone()).boxed();
    stream::unfold((None, start, reading), async |(running, start, reading)| {
        let mut running: BoxStream<'static, _> = running.unwrap_or_else(&start);
        loop {
            let event = running.next().await?;
            if matches!(event, Ok(Event::Init)) {
                continue;
            }
            let again = event.as_ref().err().is_some_and(failure::needs_list);
            let event = event.map(|event| read(&event, &reading));
            return Some((event, ((!again).then_some(running), start, reading)));
        }
    })
    .default_backoff()
}

fn read(event: &Event<Pod>, reading: &Reading) -> Event<Member> {
    let read = |pod| Member::read(pod, reading);
    match event {
        Event::Init => Event::Init,
        Event::InitApply(pod) => Event::InitApply(read(pod)),
        Event::InitDone => Event::InitDone,
        Event::Apply(pod) => Event::Apply(read(pod)),
        Event::Delete(pod) => Event::Delete(read(pod)),
    }
}
