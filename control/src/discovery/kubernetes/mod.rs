//! Services and backends from Kubernetes: the configuration's services say by labels which pods they
//! want, and Services of the cluster may ask to be served too. The API server is watched for all of it.
//!
//! | step | file |
//! |---|---|
//! | the API server's lists, changes and outages | `watches`, `cache` |
//! | what is kept of each object, and what it means | `pod`, `address`, `service`, `slice`, `node` |
//! | what is known of all, and found where it is needed | `inventory`, `selection` |
//! | which Services are served, under which names | `admission` |
//! | where pods are in the vL3 network | `connections` |
//! | services, pods and endpoints become the desired set | `assembly`, `backends` |
//! | backends that are near come first | `locality` |
//!
//! Nothing is sent before the first complete list of everything that is needed. Through any outage what
//! was sent last stays, and the watches are tried again with growing, random pauses.
//!
//! All pods of the namespaces are watched, not only those that a service selects: so it is known at once
//! that another pod has an address, whatever that one is.

mod address;
mod admission;
mod assembly;
mod backends;
mod cache;
mod connections;
mod inventory;
mod locality;
mod node;
mod pod;
mod selection;
mod service;
mod slice;
#[cfg(test)]
mod tests;

mod watches;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use crate::api::EventCode;
use futures_util::future;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;
use vl3lb_common::{Duration, Protocol};

use super::{DesiredSender, ErrorReason, Source, SourceStatus, StaticFile};
use crate::config::{self, AddressFrom, Config, Prefer, Service};
use crate::kubernetes::client::Server;
use crate::observe::events::{Event, Events};

use assembly::{Assembly, Listening};
use cache::Activity;
use pod::Options;
use watches::{Plan, Watches};

pub use admission::{Accepted, Refused, StaleStatus};
pub use connections::{Connection, Connections, ConnectionsReceiver};

/// Two sets are at least this far apart, so that a burst of changes becomes one. Short, because what is made
/// of a set has its own pauses.
const SETTLE: Duration = Duration::from_millis(1);
/// And so many times as far as it takes to make one: with thousands of pods that change all the time
/// the balancer still has its CPU for packets.
const REST: u32 = 4;
/// How long until a kubeconfig or service account that is missing or refused is read again.
const REOPEN: Duration = Duration::from_secs(5);
/// Pods that are complained about in the log for each set.
const LOGGED: usize = 10;

/// Kubernetes as a source: pods as backends for the services of the configuration file, which is followed
/// too, and Services if the configuration says so.
pub struct Kubernetes<E> {
    file: StaticFile<E>,
    /// How the file is doing; how the API server is doing is the status of this source.
    file_status: watch::Sender<SourceStatus>,
    server: Server,
    connections: Option<ConnectionsReceiver>,
    accepted: watch::Sender<Arc<Vec<Accepted>>>,
    refused: watch::Sender<Arc<Vec<Refused>>>,
    stale_statuses: watch::Sender<Arc<Vec<StaleStatus>>>,
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
    pub fn new(file: StaticFile<E>, file_status: watch::Sender<SourceStatus>) -> Self {
        Self {
            file,
            file_status,
            server: Server::Inferred,
            connections: None,
            accepted: watch::Sender::default(),
            refused: watch::Sender::default(),
            stale_statuses: watch::Sender::default(),
        }
    }

    /// The Services that are served: of Kubernetes, not of the file.
    pub fn accepted(&self) -> watch::Receiver<Arc<Vec<Accepted>>> {
        self.accepted.subscribe()
    }

    /// What Services ask for and is not done.
    pub fn refused(&self) -> watch::Receiver<Arc<Vec<Refused>>> {
        self.refused.subscribe()
    }

    /// Services that are not served, and whose status says still that they are.
    pub fn stale_statuses(&self) -> watch::Receiver<Arc<Vec<StaleStatus>>> {
        self.stale_statuses.subscribe()
    }

    /// With what tells where pods are in the vL3 network, for `addressFrom: nsm`.
    #[must_use]
    pub fn with_connections(mut self, connections: ConnectionsReceiver) -> Self {
        self.connections = Some(connections);
        self
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
        let kubernetes = config.kubernetes.clone().unwrap_or_default();
        let is_connected = kubernetes.address_from == AddressFrom::Nsm;
        let cluster = Cluster {
            config: kubernetes,
            listening: listening(&config),
            server: self.server,
            connections: self.connections.filter(|_| is_connected),
            events: Arc::clone(self.file.events()),
            services,
            desired,
            status,
            accepted: self.accepted,
            refused: self.refused,
            stale_statuses: self.stale_statuses,
            earliest: Instant::now(),
            heard: None,
            problems: BTreeSet::new(),
        };
        let file = self.file.follow(&self.file_status, |config| {
            send_services.send_replace(config.services.clone());
        });
        future::join(file, cluster.follow()).await;
    }
}

/// Where the balancer's own servers listen: a service there would hear nothing, or they would not.
fn listening(config: &Config) -> Vec<Listening> {
    let mut listening = Vec::new();
    if !config.dns.listen.is_loopback() {
        let port = config.dns.listen.port();
        let servers = [Protocol::Tcp, Protocol::Udp];
        listening.extend(servers.map(|protocol| (protocol, port, "the DNS server (dns.listen)")));
    }
    if !config.admin.listen.ip().is_loopback() {
        let port = config.admin.listen.port();
        listening.push((Protocol::Tcp, port, "the HTTP server (admin.listen)"));
    }
    listening
}

/// Follows what the API server knows.
struct Cluster {
    config: config::Kubernetes,
    listening: Vec<Listening>,
    server: Server,
    /// Where pods are, if the configuration asks for that.
    connections: Option<ConnectionsReceiver>,
    events: Arc<Events>,
    /// The file's.
    services: watch::Receiver<Vec<Service>>,
    desired: DesiredSender,
    status: watch::Sender<SourceStatus>,
    accepted: watch::Sender<Arc<Vec<Accepted>>>,
    refused: watch::Sender<Arc<Vec<Refused>>>,
    stale_statuses: watch::Sender<Arc<Vec<StaleStatus>>>,
    /// When the next set may be sent.
    earliest: Instant,
    /// When the first change was heard that is not in the last set.
    heard: Option<Instant>,
    /// What is wrong with pods of the last set.
    problems: BTreeSet<String>,
}

impl Cluster {
    async fn follow(mut self) -> Infallible {
        loop {
            let plan = self.plan();
            self.watch(&plan).await;
        }
    }

    /// What to watch for the services of now.
    fn plan(&mut self) -> Plan {
        let services = self.services.borrow_and_update();
        let labels = services.iter().flat_map(|service| service.selector.labels());
        let config = &self.config;
        let has_endpoints = config.address_from == AddressFrom::PodIp;
        Plan {
            namespaces: config.namespaces.clone(),
            selector: config.label_selector.clone(),
            reading: Options {
                address_from: config.address_from.clone(),
                // Services that select pods themselves may ask for any label.
                labels: (!config.services || has_endpoints).then(|| labels.map(str::to_owned).collect()),
            },
            services: config.services,
            slices: config.services && has_endpoints,
            nodes: config.topology.prefer == Prefer::Zone,
        }
    }

    /// Sends sets until the services ask for another plan, or the credentials are refused. The last set
    /// stays until new watches are complete.
    async fn watch(&mut self, plan: &Plan) {
        let Some(mut watches) = self.open(plan).await else {
            return;
        };
        let opened = Instant::now();
        let services = self.services.borrow().clone();
        let mut assembly = Assembly::new(&self.config, &self.listening, &services);
        let mut located = self.config.address_from != AddressFrom::Nsm;
        if let Some(connections) = &mut self.connections {
            connections.mark_changed();
        }
        self.heard = None;
        let mut due = None;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    self.send(&mut assembly);
                }
                () = changed(&mut self.services) => {
                    if self.plan() != *plan {
                        return;
                    }
                    assembly.follow_file(&self.services.borrow());
                    if located && watches.are_complete() {
                        self.note_change(&mut due);
                    }
                }
                connections = connected(&mut self.connections) => {
                    assembly.follow_connections(connections);
                    located = true;
                    if watches.are_complete() {
                        self.note_change(&mut due);
                    }
                    self.tell(&mut watches, located);
                }
                changed = watches.next(&mut assembly) => {
                    if changed && located && watches.are_complete() {
                        self.note_change(&mut due);
                    }
                    let heard = self.tell(&mut watches, located);
                    if heard.is_refused_credentials() && opened.elapsed() >= REOPEN {
                        // There may be new ones by now: a token, or a certificate.
                        return;
                    }
                }
            }
        }
    }

    /// There is a change to be sent when that is `due`.
    fn note_change(&mut self, due: &mut Option<Instant>) {
        self.heard.get_or_insert_with(Instant::now);
        due.get_or_insert(self.earliest);
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
                note_error(status, Some(error.to_string()), &self.events);
                status.synced = false;
                status.last_event = Some(now);
                // Neither kubeconfig, service account nor certificates could be read.
                status.errors.count(ErrorReason::Io);
            });
            tokio::select! {
                () = sleep(REOPEN) => {}
                () = changed(&mut self.services) => return None,
            }
        }
    }

    fn send(&mut self, assembly: &mut Assembly) {
        let begin = Instant::now();
        let mut collected = assembly.assemble();
        collected.desired.observed = self.heard.take();
        for problem in collected.problems.difference(&self.problems).take(LOGGED) {
            warn!("{problem}");
        }
        self.problems = collected.problems;
        replace(&self.accepted, collected.accepted);
        replace(&self.refused, collected.refused);
        replace(&self.stale_statuses, collected.stale_statuses);
        self.desired.send_replace(Some(Arc::new(collected.desired)));
        self.earliest = Instant::now() + SETTLE.max(begin.elapsed() * REST);
    }

    /// Puts the state of the watches into the status, and into the log if it changed. What was heard.
    fn tell(&self, watches: &mut Watches, located: bool) -> Activity {
        let error = watches.error();
        let complete = located && watches.are_complete();
        let heard = watches.take_heard();
        let now = SystemTime::now();
        self.status.send_modify(|status| {
            status.synced = complete && error.is_none();
            if status.synced {
                status.loaded = Some(now);
            }
            if heard != Activity::default() {
                status.last_event = Some(now);
            }
            status.events += heard.changes;
            status.errors.add(heard.failures);
            // An error stays until everything is known again.
            if complete || error.is_some() {
                note_error(status, error, &self.events);
            }
        });
        heard
    }
}

/// Returns when the services changed; never when nobody can change them any more.
async fn changed(services: &mut watch::Receiver<Vec<Service>>) {
    if services.changed().await.is_err() {
        future::pending().await
    }
}

/// The next connections; never where nothing tells them.
async fn connected(receiver: &mut Option<ConnectionsReceiver>) -> Arc<Connections> {
    if let Some(receiver) = receiver {
        while receiver.changed().await.is_ok() {
            if let Some(connections) = receiver.borrow_and_update().clone() {
                return connections;
            }
        }
    }
    future::pending().await
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
            events.emit(Event::warn(EventCode::DiscoveryLost, text).transition(before, "lost"));
        }
        (None, Some(_)) => {
            let text = "the Kubernetes API answers again".to_owned();
            events.emit(Event::new(EventCode::DiscoveryBack, text).transition(before, "followed"));
        }
        _ => {}
    }
    status.error = error;
}

/// Tells those who listen only if it is something new.
fn replace<T: PartialEq>(sender: &watch::Sender<Arc<Vec<T>>>, now: Vec<T>) {
    sender.send_if_modified(|known| {
        let changed = **known != now;
        if changed {
            *known = Arc::new(now);
        }
        changed
    });
}
