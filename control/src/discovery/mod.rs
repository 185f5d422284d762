//! Where services and backends come from.
//!
//! A source produces whole sets: what it sends is everything that should be, not what changed.
//! Lost watches, lists read twice and duplicates then converge by themselves. A source sends
//! nothing before its first complete set, and after an error it sends nothing until it knows
//! better, so that the last good set stays.

mod file_events;
mod instances;
pub(crate) mod kubernetes;
mod static_file;
mod status;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::Instant;
use vl3lb_common::schedule::Scheduler;
use vl3lb_common::{Duration, Protocol};

use crate::config::{self, HealthCheck};

pub use instances::Instances;
pub use kubernetes::{
    Accepted, Connection, Connections, ConnectionsReceiver, Kubernetes, Refused, StaleStatus,
};
pub use static_file::StaticFile;
pub use status::{ErrorCounts, ErrorReason, Missing, SourceStatus};

/// Everything that should be balanced. Order does not matter and duplicates do no harm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Shared with the set before where they are the same: then nobody has to compare them.
    pub services: Vec<Arc<ServiceSpec>>,
    /// Flows of those that are dead, or whose address another one has, end at once.
    pub instances: Arc<Instances>,
    /// What was asked for and is left out, in words, beginning with what it is about.
    pub problems: Vec<String>,
    /// When the source heard of the first change that is new in it; `None`: just now.
    pub observed: Option<Instant>,
}

/// A service as a source wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// A DNS label.
    pub name: String,
    /// The name of the whole that this is one port of, which DNS answers too; `None` if that is `name`.
    pub host: Option<String>,
    pub protocol: Protocol,
    pub port: u16,
    /// The backends' usual port, to be shown.
    pub target_port: u16,
    /// Labels that chose the backends, to be shown; for a set-based requirement the value is its rule.
    pub selector: BTreeMap<String, String>,
    pub scheduler: Scheduler,
    /// For how long after a flow a client keeps its backend; zero: for no time.
    pub affinity: Duration,
    /// The networks of the clients that may open flows; none: everyone.
    pub source_ranges: Vec<IpNet>,
    /// How long flows of a removed backend may go on.
    pub drain: Duration,
    /// How backends are looked at; `None`: they are up as long as they are desired.
    pub health_check: Option<HealthCheck>,
    /// Of both families.
    pub backends: Vec<BackendSpec>,
}

impl ServiceSpec {
    /// The service that is configured as `service`, with `backends` most of which listen at
    /// `target_port`.
    fn new(service: &config::Service, target_port: u16, backends: Vec<BackendSpec>) -> Self {
        Self {
            name: service.name.clone(),
            host: None,
            protocol: service.protocol,
            port: service.port,
            target_port,
            selector: service.selector.shown(),
            scheduler: service.scheduler,
            affinity: service.affinity,
            source_ranges: service.source_ranges.clone(),
            drain: service.drain,
            health_check: service.health_check.clone(),
            backends,
        }
    }
}

/// A backend as a source wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendSpec {
    pub address: IpAddr,
    pub port: u16,
    /// Who has the address, where an address passes from one to another, as from pod to pod: flows
    /// of one instance never go on to the next. `None`: it is always the same one.
    pub instance: Option<Arc<str>>,
    /// Share of new flows; 0 gets none.
    pub weight: u16,
    pub eligibility: Eligibility,
    /// When it came to take that, by the source's own clock and to the second at best.
    pub changed: Option<SystemTime>,
    pub origin: Origin,
    /// The pod behind it, to be shown; `None` where there is none or none is known.
    pub pod: Option<Arc<PodPlace>>,
}

/// A pod and where it runs, as people look for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlace {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    pub node: Option<String>,
}

/// What a backend can be given, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Eligibility {
    /// Known to be dead: its flows are ended.
    Dead,
    /// Its old flows stay for as long as it is desired, whatever the service's drain time.
    ExistingFlows,
    /// New and old flows.
    NewFlows,
}

/// The kind of source that a backend came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The configuration file or the environment.
    Static,
    /// Pods.
    Kubernetes,
}

impl Origin {
    /// The name in every view.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// Where a source puts what it knows: `None` until its first complete set.
pub type DesiredSender = watch::Sender<Option<Arc<Desired>>>;
/// What a source knows.
pub type DesiredReceiver = watch::Receiver<Option<Arc<Desired>>>;

/// A source of services and backends.
pub trait Source: Send {
    /// Follows the source for ever, sending each complete set to `desired` and each change of its
    /// own state to `status`. Cancelled by dropping; errors are logged, kept in `status` and
    /// retried here.
    fn run(
        self,
        desired: DesiredSender,
        status: watch::Sender<SourceStatus>,
    ) -> impl Future<Output = ()> + Send;
}
