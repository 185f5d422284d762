//! Sources of services and backends.
//!
//! A source sends whole sets, not changes, so lost watches, repeated lists and duplicates converge. It sends nothing
//! before its first complete set. After an error it sends nothing until the error is resolved, so the last good set
//! stays in use.

mod file_events;
mod instances;
pub(crate) mod kubernetes;
mod nsm;
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
use vl3lb_common::{ClientAddress, Duration, Protocol};

use crate::config::{self, FlowRules, HealthCheck, ListenAddresses};

pub use crate::kubernetes::ingress::GroupIngress;
pub use instances::Instances;
pub use kubernetes::{
    Accepted, Connection, Connections, ConnectionsReceiver, Kubernetes, Refused, StaleStatus,
};
pub use nsm::{Nsm, NsmClients};
pub use static_file::StaticFile;
pub use status::{ErrorCounts, ErrorReason, Missing, SourceStatus};

/// The desired services and backends. Order and duplicates are irrelevant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Unchanged services share their allocation with the last set, which makes comparing sets cheap.
    pub services: Vec<Arc<ServiceSpec>>,
    /// Flows end at once if their instance is dead or another instance owns its address.
    pub instances: Arc<Instances>,
    /// What was left out and why; each text begins with its object, as in `service finance: ...`.
    pub problems: Vec<String>,
    /// When the source observed the first change that is new in this set; `None`: just now.
    pub observed: Option<Instant>,
}

/// A desired service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Unique. A DNS label; with its namespace (`web.shop`) where another service has that label already, or with an
    /// address (`web@172.16.1.103`), which is no name of the DNS.
    pub name: String,
    /// The name of the Service that this is one port of, or that several services have, which DNS answers too; `None` if
    /// that is `name`.
    pub host: Option<String>,
    /// The namespace of its Service.
    pub namespace: Option<String>,
    pub protocol: Protocol,
    pub port: u16,
    /// The balancer's addresses at which it listens.
    pub addresses: ListenAddresses,
    /// The backends' usual port, for display.
    pub target_port: u16,
    /// Labels that select the backends, for display; for a set-based requirement the value is its rule.
    pub selector: BTreeMap<String, String>,
    pub scheduler: Scheduler,
    /// How long a client keeps its backend after its last flow; zero: no affinity.
    pub affinity: Duration,
    /// Networks whose clients may open flows; empty: all.
    pub source_ranges: Vec<IpNet>,
    /// What new flows carry for the backends.
    pub client_address: ClientAddress,
    /// How long flows of a removed backend may continue.
    pub drain: Duration,
    /// `None`: backends are up as long as they are desired.
    pub health_check: Option<HealthCheck>,
    pub rules: FlowRules,
    /// Of both families.
    pub backends: Vec<BackendSpec>,
}

impl ServiceSpec {
    /// The configured `service` with `backends`, most of which listen at `target_port`.
    fn new(service: &config::Service, target_port: u16, backends: Vec<BackendSpec>) -> Self {
        Self {
            name: service.unique_name.clone(),
            host: (service.unique_name != service.name).then(|| service.name.clone()),
            namespace: None,
            protocol: service.protocol,
            port: service.port,
            addresses: service.addresses.clone(),
            target_port,
            selector: service.selector.shown(),
            scheduler: service.scheduler,
            affinity: service.affinity,
            source_ranges: service.source_ranges.clone(),
            client_address: service.client_address,
            drain: service.drain,
            health_check: service.health_check.clone(),
            rules: service.rules.clone(),
            backends,
        }
    }
}

/// A desired backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendSpec {
    pub address: IpAddr,
    pub port: u16,
    /// The owner of the address, where addresses are reused, as among pods. Flows of one instance never continue to
    /// the next. `None`: the owner never changes.
    pub instance: Option<Arc<str>>,
    /// Share of new flows; 0 gets none.
    pub weight: u16,
    /// Whether it gets new flows only while no other backend does.
    pub backup: bool,
    pub eligibility: Eligibility,
    /// When its eligibility changed, by the source's clock, to the second at best.
    pub changed: Option<SystemTime>,
    pub origin: Origin,
    /// Its pod, for display; `None` if unknown.
    pub pod: Option<Arc<PodPlace>>,
}

/// A pod and its node, for display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlace {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    pub node: Option<String>,
}

/// Which flows a backend may have, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Eligibility {
    /// None: it is dead, or another instance owns its address. Its flows end.
    Dead,
    /// No new flows. Existing flows stay as long as it is desired, without the service's drain time.
    ExistingFlows,
    /// New and existing ones.
    NewFlows,
}

/// The kind of source that a backend comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The configuration file or the environment.
    Static,
    /// Pods.
    Kubernetes,
    /// Clients of the network service.
    Nsm,
}

impl Origin {
    /// The name in views, JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Kubernetes => "kubernetes",
            Self::Nsm => "nsm",
        }
    }
}

/// The sending half of a source's sets; `None` until the first complete one.
pub type DesiredSender = watch::Sender<Option<Arc<Desired>>>;
/// The receiving half of a source's sets.
pub type DesiredReceiver = watch::Receiver<Option<Arc<Desired>>>;

/// A source of services and backends.
pub trait Source: Send {
    /// Follows the source for ever. Sends each complete set to `desired` and each change of its status to
    /// `status`. Cancelled by dropping. Errors are logged, put into `status` and retried.
    fn run(
        self,
        desired: DesiredSender,
        status: watch::Sender<SourceStatus>,
    ) -> impl Future<Output = ()> + Send;
}
