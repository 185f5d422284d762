//! The contract between the control side and the data plane.
//!
//! The control side knows the workers only through [`Dataplane`], so its tests run with a recorder
//! instead of AF_XDP; `control/src/main.rs` is the one place that links both.
//!
//! A data plane outlives its interface. It starts detached; [`Dataplane::attach`] opens ports on the
//! interface and [`Dataplane::detach`] closes them, as often as the interface comes and goes. Flows,
//! counters and the latest snapshot stay in the workers meanwhile.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::capture::{CaptureFeed, CaptureSettings};
use crate::flow_feed::FlowFeed;
use crate::flow_query::{FlowQuery, WorkerEvent};
use crate::next_hop::Link;
use crate::selection_query::SelectionQuery;
use crate::snapshot::Snapshot;
use crate::stats::WorkerStats;
use crate::time::{Duration, Timestamp};

/// A running data plane.
///
/// `attach`, `detach` and `publish` exclude each other and may block up to their documented limits. All
/// other calls return immediately, also during those three.
pub trait Dataplane: Send + Sync {
    /// Inspects the interface, opens its ports and lets the workers serve them; an existing attachment
    /// is detached first. The latest snapshot is in force when this returns, if it was made for a link
    /// of the same type and MAC address; else nothing is steered to the workers before the next
    /// [`Self::publish`].
    ///
    /// The first attachment fixes the number of workers for the life of the process. Blocks for some
    /// milliseconds, at most for seconds.
    ///
    /// # Errors
    ///
    /// [`AttachError::kind`] shows whether a change of the interface can help. The data plane is
    /// detached then.
    fn attach(&self) -> Result<Arc<Attachment>, AttachError>;

    /// Takes the ports away from the workers and closes them. The interface may be gone already;
    /// harmless if detached. Blocks for some milliseconds.
    fn detach(&self);

    /// How and where the data plane is attached now; `None` while it is detached.
    fn attachment(&self) -> Option<Arc<Attachment>>;

    /// Compares the attachment with the interface as it is now. `Some` if the interface has changed in
    /// a way that only [`Self::attach`] or [`Self::detach`] can follow; MTU, MAC address and IP
    /// addresses are followed by [`Self::publish`]. A few system calls.
    fn link_change(&self) -> Option<LinkChange>;

    /// Puts `snapshot` in force for all workers, in the order that loses no packet: a new service
    /// reaches all workers before the steer program sends its packets here, a removed one leaves
    /// the steer program first. While detached only the workers switch. Blocks until every worker has
    /// switched, a few milliseconds, at most two seconds.
    ///
    /// # Errors
    ///
    /// The snapshot is partly in force and may be published again.
    fn publish(&self, snapshot: Arc<Snapshot>) -> Result<(), PublishError>;

    /// Whether all workers run.
    ///
    /// # Errors
    ///
    /// A worker has panicked, or the data plane was stopped: it never recovers.
    fn healthy(&self) -> Result<(), WorkerFailure>;

    /// Each worker's counters. Empty before the first attachment, then the same for ever.
    fn stats(&self) -> &[Arc<WorkerStats>];

    /// Packets that the steer program sent to the workers, and passed to the kernel: the sums of all
    /// attachments.
    fn steered(&self) -> Steered;

    /// Asks a worker for a slice of its flows. False if `worker` does not exist or too many queries
    /// wait for it.
    fn query_flows(&self, worker: u16, query: FlowQuery) -> bool;

    /// Asks a worker which backend a new flow would get. False if `worker` does not exist or too many queries wait for it.
    fn query_selection(&self, worker: u16, query: SelectionQuery) -> bool;

    /// Each worker's feed of flows that open and close. Empty before the first attachment, then the
    /// same for ever.
    fn flow_feeds(&self) -> &[Arc<FlowFeed>];

    /// Each worker's feed of captured packets. Empty before the first attachment, then the same for ever.
    fn capture_feeds(&self) -> &[Arc<CaptureFeed>] {
        &[]
    }

    /// Captures by these settings from now on, all workers together. To be repeated when
    /// [`Self::capture_feeds`] are new.
    fn set_capture(&self, settings: &Arc<CaptureSettings>) {
        for feed in self.capture_feeds() {
            feed.set(settings);
        }
    }

    /// The next event of any worker; `None` if none waits.
    fn next_event(&self) -> Option<WorkerEvent>;

    /// The workers' clock.
    fn now(&self) -> Timestamp;
}

/// Attaching failed.
#[derive(Debug)]
pub struct AttachError {
    pub kind: AttachErrorKind,
    source: Box<dyn Error + Send + Sync>,
}

/// Which change could let an attachment succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachErrorKind {
    /// The interface is missing, down, or vanished meanwhile: wait until it appears.
    InterfaceAbsent,
    /// The interface cannot be served as configured: link type, MTU, queues, or a forced mode that is
    /// impossible there. Only another interface or another configuration helps.
    InterfaceUnsuitable,
    /// The process or the system: privileges, memory, another balancer, a worker that has ended.
    System,
}

impl AttachError {
    /// An error with the message and the causes of `source`.
    pub fn new(kind: AttachErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind,
            source: source.into(),
        }
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for AttachError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}

/// Changes that need a new attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    /// The interface does not exist or cannot be served.
    Gone,
    /// It was replaced by another one of the same name.
    Replaced,
    /// It has another number of queues.
    Queues,
}

/// A worker does not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkerFailure {
    #[error("worker {worker} has ended; its log says why; restart vl3-lb")]
    Ended { worker: usize },
    #[error("the data plane is stopped")]
    Stopped,
}

/// A snapshot did not become live.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Worker(#[from] WorkerFailure),
    #[error(
        "worker {worker} did not switch to snapshot {generation} within {limit:?}: it hangs, or gets no CPU"
    )]
    Timeout {
        worker: usize,
        generation: u64,
        limit: Duration,
    },
    /// The steer program's maps refuse the snapshot's services or addresses.
    #[error(transparent)]
    Steer(Box<dyn Error + Send + Sync>),
}

/// Counters of the steer program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Steered {
    pub redirected: u64,
    pub passed: u64,
    /// Of the workers, where no XDP program or socket was: at a receive queue added a moment ago, while a veth went down, or
    /// during a re-attachment.
    pub dropped: u64,
    pub fast_path: FastPathPackets,
}

/// Packets of flows in the in-kernel path, super-packets counted once: those that it took, and why others went to the
/// workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FastPathPackets {
    pub taken: u64,
    /// TCP: SYN, FIN or RST, or without ACK.
    pub flags: u64,
    /// TTL or hop limit used up.
    pub hop_limit: u64,
    /// Longer than the next hop takes.
    pub size: u64,
    /// The client's packets come from another MAC address.
    pub neighbor: u64,
    pub malformed: u64,
    /// The kernel refused to change the packet.
    pub refused: u64,
    /// The same, when it was changed in part: dropped.
    pub lost: u64,
    /// XDP: the sender left the transport checksum to its hardware.
    pub partial_checksum: u64,
}

impl FastPathPackets {
    /// The reasons for which packets of flows in the in-kernel path went to the workers, with names for labels.
    pub const fn punted(&self) -> [(&'static str, u64); 7] {
        [
            ("flags", self.flags),
            ("hop_limit", self.hop_limit),
            ("size", self.size),
            ("neighbor", self.neighbor),
            ("malformed", self.malformed),
            ("refused", self.refused),
            ("partial_checksum", self.partial_checksum),
        ]
    }
}

impl std::ops::Add for Steered {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (a, b) = (self.fast_path, other.fast_path);
        Self {
            redirected: self.redirected + other.redirected,
            passed: self.passed + other.passed,
            dropped: self.dropped + other.dropped,
            fast_path: FastPathPackets {
                taken: a.taken + b.taken,
                flags: a.flags + b.flags,
                hop_limit: a.hop_limit + b.hop_limit,
                size: a.size + b.size,
                neighbor: a.neighbor + b.neighbor,
                malformed: a.malformed + b.malformed,
                refused: a.refused + b.refused,
                lost: a.lost + b.lost,
                partial_checksum: a.partial_checksum + b.partial_checksum,
            },
        }
    }
}

/// Bytes of kernel memory that the in-kernel path takes for `flows` flows: a record for each, and a bucket for each of the
/// next power of two.
pub const fn fast_path_bytes(flows: u32) -> u64 {
    flows as u64 * 256 + flows.next_power_of_two() as u64 * 64
}

/// Bytes of kernel memory in which the steer program sheds load: words of 256 workers, 65,536 sources, a byte for each of
/// 8,388,608 hashes of flows, a million SYNs, and the begins of 16 packets for each worker. Of each attachment.
pub const SHED_BYTES: u64 = 256 * 128 + 8192 * 64 + 131_072 * 64 + 65_536 * 72 + 256 * 16 * 256;

/// Whether established flows are forwarded in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FastPath {
    /// Flows that it has room for; 0 if it is not in use.
    pub flows: u32,
    /// Why, or why not.
    pub reason: String,
}

/// Where in the kernel frames are redirected to the workers.
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub interface: String,
    pub index: u32,
    pub link: Link,
    /// Driver or kind of the device: `veth`, `tun`, ...
    pub driver: String,
    pub mtu: u16,
    pub mode: AttachMode,
    pub zero_copy: bool,
    /// Why this mode was chosen.
    pub reason: String,
    /// The traffic that this mode cannot serve; empty if there is none.
    pub refuses: String,
    /// Receive queues of the interface.
    pub receive_queues: u32,
    /// Transmit queues of the interface.
    pub transmit_queues: u32,
    /// The CPU core of each worker.
    pub cores: Vec<usize>,
    pub fast_path: FastPath,
    /// Why clients in the balancer's own network namespace are not served; empty if they are.
    pub local_clients: String,
}
