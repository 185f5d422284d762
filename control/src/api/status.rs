//! The balancer as a whole, as shown.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    BackendCounts, Distribution, FlowLog, FlowTraffic, NsmConnection, NsmDiscovery, PeerGroup, ReasonCount,
    Time, Traffic,
};

/// The vL3 interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    pub name: String,
    /// Driver or kind of the device; `None` while the data plane is not attached to it.
    pub kind: Option<String>,
    /// `ethernet` or `raw-ip`; `None` while there is no interface, like the next two fields.
    pub link: Option<String>,
    pub index: Option<u32>,
    pub mtu: Option<u16>,
    pub addresses: Vec<IpAddr>,
    /// Whether it is up and has a carrier; `None` before the first dump.
    pub up: Option<bool>,
    /// Neighbours that workers ask for and the kernel has not resolved.
    pub neighbors_unresolved: Option<u64>,
}

/// The mode of attachment, and its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachReport {
    /// Name of an [`vl3lb_common::dataplane::AttachMode`].
    pub attach: String,
    pub zero_copy: bool,
    /// Why no better mode was possible.
    pub reason: String,
    /// Traffic that this mode cannot balance; empty if there is none.
    pub refuses: String,
    /// Why clients in the balancer's own network namespace are not served; empty if they are.
    pub refuses_local_clients: String,
}

/// The in-kernel path of established flows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FastPath {
    /// Flows that it has room for; 0 while it is not in use.
    pub capacity: u32,
    /// Why it is in use, or why not.
    pub reason: String,
    pub flows: u64,
    /// Flows put into it, and flows that found no room.
    pub promoted_flows_total: u64,
    pub full_flows_total: u64,
    /// Client to backend.
    #[serde(rename = "in")]
    pub inbound: FlowTraffic,
    /// Backend to client.
    #[serde(rename = "out")]
    pub outbound: FlowTraffic,
    /// Its share of all packets of flows since the start.
    pub packet_ratio: Option<f64>,
    /// Packets of its flows that went to the workers, super-packets counted once.
    pub punted: Vec<PuntCount>,
    /// Packets that were dropped because the kernel refused a change.
    pub lost_packets_total: u64,
}

/// Packets of flows in the in-kernel path that went to the workers for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PuntCount {
    /// `flags`, `hop_limit`, `size`, `neighbor`, `malformed`, `refused` or `partial_checksum`.
    pub reason: String,
    pub packets_total: u64,
}

/// The AF_XDP socket's own drops (XDP_STATISTICS).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct XskDrops {
    pub rx_dropped: u64,
    pub rx_ring_full: u64,
    pub fill_ring_empty: u64,
    pub rx_invalid: u64,
    pub tx_invalid: u64,
}

impl XskDrops {
    /// With the label value of each.
    pub const fn by_reason(self) -> [(&'static str, u64); 5] {
        [
            ("rx_dropped", self.rx_dropped),
            ("rx_ring_full", self.rx_ring_full),
            ("fill_ring_empty", self.fill_ring_empty),
            ("rx_invalid", self.rx_invalid),
            ("tx_invalid", self.tx_invalid),
        ]
    }
}

/// How unevenly the backends of a service are used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Imbalance {
    pub service: String,
    /// Flows of the fullest backend, for its weight, as a multiple of the mean.
    pub ratio: f64,
}

/// One worker and its queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Worker {
    pub id: u16,
    pub core: Option<usize>,
    pub queue: u16,
    /// Share of the time spent on bursts that had packets.
    pub busy_ratio: Option<f64>,
    pub packets_per_burst: Option<f64>,
    /// Generation of the snapshot in use; `None` before the first.
    pub generation: Option<u64>,
    /// `None` before the first beat.
    pub heartbeat_age_seconds: Option<f64>,
    pub busy_seconds_total: f64,
    pub received_packets_total: u64,
    pub transmitted_packets_total: u64,
    pub bursts_total: u64,
    pub wakeups_total: u64,
    /// How often it went to another core.
    pub core_moves_total: u64,
    pub handoff_packets_total: u64,
    /// ICMP errors and TCP resets sent by the balancer.
    pub answers_total: u64,
    /// ICMP errors and TCP resets suppressed by their rate limit.
    pub answers_suppressed_total: u64,
    /// Super-packets that were segmented (GSO).
    pub segmented_packets_total: u64,
    /// Segments of services with `clientAddress: toa` without room for the client's address.
    pub addresses_left_out_total: u64,
    /// IPv4 packets that were fragmented because they are longer than the next hop takes.
    pub fragmented_packets_total: u64,
    /// Fragments that came before the first one of their datagram and waited for it.
    pub waited_fragments_total: u64,
    /// Clients whose affinity was evicted early because the table was full.
    pub affinity_evicted_clients_total: u64,
    pub flow_table_entries: u64,
    pub flow_table_capacity: u64,
    pub umem_frames_free: u64,
    pub xsk_drops: XskDrops,
}

/// Decisions of the steer program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Steering {
    /// Packets to the workers.
    pub redirect: u64,
    /// Packets left to the kernel.
    pub pass: u64,
    /// Packets of the workers that arrived where no XDP program or socket was: at a receive queue added a moment ago, while a
    /// veth went down, or during a re-attachment.
    pub drop: u64,
}

/// Sums over all services and workers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// The largest imbalance of a service; `None` if none has one.
    pub imbalance: Option<Imbalance>,
    pub services_ok: usize,
    pub services_degraded: usize,
    pub services_down: usize,
    pub backends: BackendCounts,
    /// Entries in the flow tables: open flows, and finished ones that are kept for stragglers.
    pub flows: u64,
    pub flow_capacity: u64,
    /// Opened less closed, so it may be negative.
    pub flows_change_per_second: Option<f64>,
    /// Client to backend.
    #[serde(rename = "in")]
    pub inbound: Traffic,
    /// Backend to client.
    #[serde(rename = "out")]
    pub outbound: Traffic,
    /// Every reason, of services and of none.
    pub drops: Vec<ReasonCount>,
    /// The part of `drops` that belongs to no service.
    pub drops_without_service: Vec<ReasonCount>,
    pub drops_per_second: Option<f64>,
    /// Drops as a share of all packets of the window.
    pub drop_ratio: Option<f64>,
}

/// One source of backends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Discovery {
    /// `static`, `kubernetes` or `nsm`.
    pub source: String,
    /// Whether the last complete set is known and kept up to date.
    pub synced: bool,
    pub last_event_time: Option<Time>,
    pub last_error: Option<String>,
    pub events_total: u64,
    pub errors_total: u64,
    /// When the set in use was last known to be current; `None` before the first complete set.
    pub loaded_time: Option<Time>,
    /// `errors_total` by reason.
    pub errors: Vec<ErrorCount>,
    /// The collections that the set in use lacks, because the source may not list them.
    #[serde(default)]
    pub missing: Vec<MissingCollection>,
    /// Services, pods and endpoints that the set in use lacks, by reason.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// The streams of the source `nsm`; `None` for others.
    #[serde(default)]
    pub nsm: Option<NsmDiscovery>,
}

/// Objects of one kind in one place that a source may not list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingCollection {
    /// The plural name, as in RBAC rules.
    pub resource: String,
    /// `None`: all namespaces, or objects of the cluster.
    pub namespace: Option<String>,
    /// The attempt, the cause and the remedy.
    pub error: String,
}

/// The number of objects that are not served for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// One word in CamelCase, as in Events of Kubernetes.
    pub reason: String,
    pub count: u64,
}

/// Failures of a source for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorCount {
    pub reason: String,
    pub errors_total: u64,
}

/// The configuration in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigFile {
    /// `None` if everything comes from the environment.
    pub path: Option<String>,
    /// Whether the current file is in use.
    pub ok: bool,
    /// When the configuration in use was read.
    pub loaded_time: Option<Time>,
    /// Why the current file was rejected.
    pub error: Option<String>,
}

/// DNS answers by response code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RcodeCount {
    pub rcode: String,
    pub queries_total: u64,
}

/// The balancer's own DNS server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dns {
    pub zone: String,
    /// Number of addresses that it listens on.
    pub listeners: u64,
    pub queries: Vec<RcodeCount>,
    /// UDP responses over the limits that were sent truncated.
    pub limited_truncated_total: u64,
    /// UDP responses over the limits that were not sent.
    pub limited_dropped_total: u64,
    /// Response time of queries.
    pub query_duration_seconds: Distribution,
}

/// The kernel's accounting of the process. Values that cannot be read are `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    pub cpu_seconds_total: Option<f64>,
    pub resident_memory_bytes: Option<u64>,
    pub virtual_memory_bytes: Option<u64>,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
    /// Time that the CPU limit of the cgroup took away.
    pub cpu_throttled_seconds_total: Option<f64>,
}

/// Severity of a [`Warning`] or an [`super::Event`]. Ordered from most to least severe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Needs an operator now.
    Error,
    /// Works, but degraded.
    Warn,
    /// A normal change; never of a [`Warning`].
    Info,
}

impl Severity {
    /// The value in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
        }
    }
}

/// A condition that an operator should know, and the next step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    pub severity: Severity,
    /// Stable name of this kind of warning.
    pub code: String,
    /// The service, reason or worker.
    pub subject: Option<String>,
    pub since: Option<Time>,
    pub text: String,
    /// The next command or change.
    pub next: Option<String>,
}

/// The balancer as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    pub revision: String,
    /// The host or pod name.
    pub instance: String,
    pub ready: bool,
    /// Why it is not ready.
    pub not_ready_reason: Option<String>,
    pub draining: bool,
    pub start_time: Time,
    /// When the snapshot in use was published.
    pub snapshot_time: Option<Time>,
    /// Time from the observation of changes to their use by all workers.
    pub snapshot_apply_seconds: Distribution,
    /// Time from changes in Kubernetes, by its timestamps, to their use by all workers.
    pub network_programming_seconds: Distribution,
    /// Snapshots that failed to reach the workers.
    pub snapshot_failures_total: u64,
    pub interface: Interface,
    /// `None` while the data plane is not attached.
    pub mode: Option<AttachReport>,
    pub workers: Vec<Worker>,
    pub steering: Steering,
    #[serde(default)]
    pub fast_path: FastPath,
    pub totals: Totals,
    pub discovery: Vec<Discovery>,
    pub config: ConfigFile,
    pub dns: Dns,
    /// `None` where there is no group, as outside of Kubernetes.
    #[serde(rename = "replicas")]
    pub peer_group: Option<PeerGroup>,
    /// `None` where another process makes the interface.
    #[serde(default)]
    pub nsm: Option<NsmConnection>,
    pub process: Process,
    /// Events that readers missed because they were too slow.
    pub events_lost_total: u64,
    /// Readers of flow events.
    pub flow_followers: u64,
    /// Flow events that readers missed because they were too slow.
    pub flow_events_lost_total: u64,
    /// Captures that run.
    #[serde(default)]
    pub captures_active: u64,
    /// Packets that captures have lost, because more matched than could be copied.
    #[serde(default)]
    pub capture_lost_packets_total: u64,
    /// `None` without a flow log.
    #[serde(default)]
    pub flow_log: Option<FlowLog>,
    /// Worst first.
    pub warnings: Vec<Warning>,
}

impl Status {
    /// Whether the balancer is degraded: not ready, a service that is not ok, a rejected configuration file, or a
    /// warning of severity error.
    pub fn degraded(&self) -> bool {
        !self.ready
            || !self.config.ok
            || self.totals.services_down > 0
            || self.totals.services_degraded > 0
            || self
                .warnings
                .iter()
                .any(|warning| warning.severity == Severity::Error)
    }

    /// The state in one word.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self { draining: true, .. } => Verdict::Draining,
            Self { ready: false, .. } => Verdict::NotReady,
            status if status.degraded() => Verdict::Degraded,
            _ => Verdict::Ready,
        }
    }
}

/// The state of the balancer in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It shuts down, and takes no new flows.
    Draining,
    /// It takes no flows: [`Status::not_ready_reason`] says why.
    NotReady,
    /// Ready, but [`Status::degraded`].
    Degraded,
    Ready,
}

impl Verdict {
    /// The words that people see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draining => "DRAINING",
            Self::NotReady => "NOT READY",
            Self::Degraded => "DEGRADED",
            Self::Ready => "READY",
        }
    }
}
