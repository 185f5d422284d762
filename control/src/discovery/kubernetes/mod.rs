//! Backends from pods: the configuration's services say which by their labels, and the API server is
//! watched for them.
//!
//! | step | file |
//! |---|---|
//! | the API server's lists, changes and outages | `watches`, `connection`, `failure` |
//! | what is kept of a pod, and what it means | `pod`, `address` |
//! | services and pods become the desired set | `desired` |
//!
//! Nothing is sent before the first complete list of every namespace. Through any outage what was
//! sent last stays, and the watches are tried again with growing, random pauses.

mod address;
mod connection;
mod desired;
mod failure;
mod pod;
#[cfg(test)]
mod tests;
mod watches;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;
use vl3lb_common::Duration;
use vl3lb_common::report::EventCode;

use super::{DesiredSender, ErrorReason, Source, SourceStatus, StaticFile};
use crate::config::{self, Selector, Service};
use crate::events::{Events, Happening};

use connection::Server;
use pod::Reading;
use watches::{Heard, Plan, Watches};

/// Two sets are at least this far apart, so that a burst of changes becomes one.
const SETTLE: Duration = Duration::from_millis(5);
/// And so many times as far as it takes to make one: with thousands of pods that change all the time
/// the balancer still has its CPU for packets.
const REST: u32 = 10;
/// What is asked of the API server has to fit a URL.
const LONGEST_SELECTOR: usize = 1024;
/// How long until a missing kubeconfig or service account is looked for again.
const REOPEN: Duration = Duration::from_secs(5);
/// Pods that are complained about in the log for each set.
const LOGGED: usize = 10;

/// Pods as a source of backends for the services of the configuration file, which is followed too.
pub struct Kubernetes<E> {
    file: StaticFile<E>,
    /// How the file is doing; how the API server is doing is the status of this source.
    file_status: watch::Sender<SourceStatus>,
    server: Server,
}

impl<E> std::fmt::Debug for Kubernetes<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl<E> Kubernetes<E> {
    /// Backends for the services that `file` tells, whose own state goes to `file_status`. The API
    /// server and the credentials are those of a kubeconfig (KUBECONFIG), else of the pod's
    /// service account.
    pub const fn new(file: StaticFile<E>, file_status: watch::Sender<SourceStatus>) -> Self {
        Self {
            file,
            file_status,
            server: Server::Inferred,
        }
    }

    /// Another API server than that.
    #[must_use]
    pub fn with_server(mut self, server: kube::Config) -> Self {
        self.server = Server::Given(Box::new(server));
        self
    }
}

impl<E> Source for Kubernetes<E>
where
    E: Fn(&str) -> Option<String> + Send + Sync,
{
    async fn run(self, desired: DesiredSender, status: watch::Sender<SourceStatus>) {
        let config = Arc::clone(self.file.started_with());
        let (send_services, services) = watch::channel(Vec::new());
        let pods = Pods {
            config: config.kubernetes.clone().unwrap_or_default(),
            server: self.server,
            events: Arc::clone(self.file.events()),
            services,
            desired,
            status,
            earliest: Instant::now(),
            problems: BTreeSet::new(),
        };
        let file = self.file.follow(&self.file_status, |config| {
            send_services.send_replace(config.services.clone());
        });
        future::join(file, pods.follow()).await;
    }
}

/// Follows the pods that the services select.
struct Pods {
    config: config::Kubernetes,
    server: Server,
    events: Arc<Events>,
    services: watch::Receiver<Vec<Service>>,
    desired: DesiredSender,
    status: watch::Sender<SourceStatus>,
    /// When the next set may be sent.
    earliest: Instant,
    /// What is wrong with pods of the last set.
    problems: BTreeSet<String>,
}

impl Pods {
    async fn follow(mut self) -> Infallible {
        loop {
            match self.plan() {
                Some(plan) => self.watch(&plan).await,
                None => self.without_services().await,
            }
        }
    }

    /// What to watch for the services of now; `None` without any.
    fn plan(&mut self) -> Option<Plan> {
        let services = self.services.borrow_and_update();
        let selectors = services.iter().map(|service| &service.selector);
        let covering = Selector::covering(selectors.clone(), LONGEST_SELECTOR);
        (!services.is_empty()).then(|| Plan {
            namespaces: self.config.namespaces.clone(),
            selector: covering.and(&self.config.label_selector),
            reading: Reading {
                address_from: self.config.address_from.clone(),
                labels: selectors.flat_map(Selector::labels).map(str::to_owned).collect(),
            },
        })
    }

    /// Waits for services; nothing needs to be asked until then.
    async fn without_services(&mut self) {
        self.desired.send_replace(Some(Arc::default()));
        self.status.send_modify(|status| {
            status.synced = true;
            status.loaded = Some(SystemTime::now());
            note_error(status, None, &self.events);
        });
        self.services_changed().await;
    }

    /// Sends sets until the services ask for another plan. The last set stays until the new watches
    /// are complete.
    async fn watch(&mut self, plan: &Plan) {
        let Some(mut watches) = self.open(plan).await else {
            return;
        };
        let mut due = None;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    self.send(&watches);
                }
                () = self.services_changed() => {
                    if self.plan().as_ref() != Some(plan) {
                        return;
                    }
                    if watches.are_complete() {
                        due.get_or_insert(self.earliest);
                    }
                }
                changed = watches.next() => {
                    if changed && watches.are_complete() {
                        due.get_or_insert(self.earliest);
                    }
                    self.tell(&mut watches);
                }
            }
        }
    }

    /// Opens the watches of `plan`, trying again until there is a server to ask. `None` if the services
    /// changed meanwhile.
    async fn open(&mut self, plan: &Plan) -> Option<Watches> {
        loop {
            let opened = match self.server.config().await {
                Ok(config) => Watches::open(&config, plan),
                Err(error) => Err(error),
            };
            let error = match opened {
                Ok(watches) => return Some(watches),
                Err(error) => error,
            };
            let now = SystemTime::now();
            self.status.send_modify(|status| {
                note_error(status, Some(error), &self.events);
                status.synced = false;
                status.last_event = Some(now);
                // Neither kubeconfig, service account nor certificates could be read.
                status.errors.count(ErrorReason::Io);
            });
            tokio::select! {
                () = sleep(REOPEN) => {}
                () = self.services_changed() => return None,
            }
        }
    }

    /// Returns when the services changed; never when nobody can change them any more.
    async fn services_changed(&mut self) {
        if self.services.changed().await.is_err() {
            future::pending().await
        }
    }

    fn send(&mut self, watches: &Watches) {
        let begin = Instant::now();
        let pods = watches.pods();
        let (set, problems) = desired::collect(&self.services.borrow(), &pods);
        for problem in problems.difference(&self.problems).take(LOGGED) {
            warn!("{problem}");
        }
        self.problems = problems;
        self.desired.send_replace(Some(Arc::new(set)));
        self.earliest = Instant::now() + SETTLE.max(begin.elapsed() * REST);
    }

    /// Puts the state of the watches into the status, and into the log if it changed.
    fn tell(&self, watches: &mut Watches) {
        let error = watches.error();
        let complete = watches.are_complete();
        let heard = watches.take_heard();
        let now = SystemTime::now();
        self.status.send_modify(|status| {
            status.synced = complete && error.is_none();
            if status.synced {
                status.loaded = Some(now);
            }
            if heard != Heard::default() {
                status.last_event = Some(now);
            }
            status.events += heard.changes;
            status.errors.add(heard.failures);
            // An error stays until everything is known again.
            if complete || error.is_some() {
                note_error(status, error, &self.events);
            }
        });
    }
}

/// Keeps `error` in `status`, and tells it once.
fn note_error(status: &mut SourceStatus, error: Option<String>, events: &Events) {
    let before = if status.error.is_some() {
        "lost"
    } else {
        "followed"
    };
    match (&error, &status.error) {
        (Some(error), last) if last.as_ref() != Some(error) => {
            let kept = if status.loaded.is_some() {
                "keeping what is known"
            } else {
                "nothing is known yet"
            };
            let text = format!("{error}; {kept}, trying again");
            events.tell(Happening::warn(EventCode::DiscoveryLost, text).turn(before, "lost"));
        }
        (None, Some(_)) => {
            let text = "the Kubernetes API answers again".to_owned();
            events.tell(Happening::new(EventCode::DiscoveryBack, text).turn(before, "followed"));
        }
        _ => {}
    }
    status.error = error;
}
