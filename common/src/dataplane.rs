//! What the control side asks of the data plane, and what it is told about it.
//!
//! The control side knows the workers only through [`Dataplane`], so its tests run with a recorder
//! instead of AF_XDP; `control/src/main.rs` is the one place that links both.

use std::sync::Arc;

use serde::Serialize;

use crate::flow_feed::FlowFeed;
use crate::flow_query::{FlowQuery, WorkerEvent};
use crate::snapshot::Snapshot;
use crate::stats::WorkerStats;
use crate::time::Timestamp;

/// A running data plane.
pub trait Dataplane: Send + Sync {
    /// Makes `snapshot` the truth for all workers, in the order that loses no packet: a new service
    /// reaches all workers before the steer program sends its packets here, a removed one leaves
    /// the steer program first. Blocks until every worker has switched, a few milliseconds.
    fn publish(&self, snapshot: Arc<Snapshot>) -> Result<(), String>;

    /// How and where the data plane is attached. Fixed for its life.
    fn attachment(&self) -> &Attachment;

    /// Each worker's counters.
    fn stats(&self) -> &[Arc<WorkerStats>];

    /// Packets that the steer program sent to the workers, and passed to the kernel.
    fn steered(&self) -> Steered;

    /// Asks a worker for a slice of its flows. False if `worker` does not exist or its queue of
    /// questions is full.
    fn query_flows(&self, worker: u16, query: FlowQuery) -> bool;

    /// Each worker's feed of flows that open and close.
    fn flow_feeds(&self) -> &[Arc<FlowFeed>];

    /// The next thing that a worker has to tell; `None` if there is nothing now.
    fn next_event(&self) -> Option<WorkerEvent>;

    /// The workers' clock.
    fn now(&self) -> Timestamp;
}

/// Counters of the steer program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Steered {
    pub redirected: u64,
    pub passed: u64,
}

/// Where frames are taken from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// XDP in the driver.
    Native,
    /// XDP in the kernel's generic receive path; super-packets stay whole.
    Generic,
    /// A tc program on the interface feeds a veth pair of our own, with native XDP on its far end.
    Companion,
}

impl AttachMode {
    /// The name in the configuration and in every view.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Companion => "companion",
        }
    }
}

/// How the data plane is attached to the vL3 interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    pub interface: String,
    pub index: u32,
    /// `ethernet` or `raw-ip`.
    pub link: &'static str,
    /// Driver or kind of the device: `veth`, `tun`, ...
    pub driver: String,
    pub mtu: u16,
    pub mode: AttachMode,
    pub zero_copy: bool,
    /// Why this mode and not a better one, in words.
    pub reason: String,
    /// What this mode has to refuse, in words; empty if nothing.
    pub refuses: String,
    /// The CPU core of each worker, one worker per queue.
    pub cores: Vec<usize>,
}
