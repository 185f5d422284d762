//! Queries of the flow tables: a worker returns slices, between two bursts.
//!
//! A list is exact for each flow, but not one instant of the whole table. A slow reader never blocks a
//! worker: it just requests the next slice later.

use std::net::IpAddr;

use crate::addr::Protocol;
use crate::backend::{BackendSlot, ServiceSlot};

/// The state of a flow, as shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FlowState {
    /// TCP: SYN seen, no SYN-ACK yet; SCTP: INIT seen, no INIT ACK yet.
    Opening,
    /// TCP: SYN-ACK seen; SCTP: INIT ACK seen; UDP: the backend has replied.
    Established,
    /// UDP: no reply yet.
    Unreplied,
    /// TCP: FIN from one side; SCTP: SHUTDOWN.
    HalfClosed,
    /// TCP: FIN from both sides; SCTP: SHUTDOWN ACK.
    Closing,
    /// TCP: RST seen; SCTP: ABORT.
    Reset,
}

impl FlowState {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::Opening,
        Self::Established,
        Self::Unreplied,
        Self::HalfClosed,
        Self::Closing,
        Self::Reset,
    ];

    /// The value in JSON, tables and filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Unreplied => "unreplied",
            Self::HalfClosed => "half_closed",
            Self::Closing => "closing",
            Self::Reset => "reset",
        }
    }
}

/// One flow, copied out of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRecord {
    pub worker: u16,
    pub protocol: Protocol,
    pub client: IpAddr,
    pub client_port: u16,
    pub service_address: IpAddr,
    pub service_port: u16,
    pub nat_port: u16,
    pub backend: IpAddr,
    pub backend_port: u16,
    pub service: ServiceSlot,
    pub backend_slot: BackendSlot,
    pub state: FlowState,
    /// Microseconds since the flow was opened, since its last packet, and until it expires.
    pub age_micros: u64,
    pub idle_micros: u64,
    pub expires_micros: u64,
    /// Client to backend.
    pub packets_in: u64,
    pub bytes_in: u64,
    /// Backend to client.
    pub packets_out: u64,
    pub bytes_out: u64,
    /// Whether its packets stay in the kernel.
    pub fast: bool,
}

/// Requests the flows from entry `cursor` on.
#[derive(Debug)]
pub struct FlowQuery {
    pub cursor: u32,
    /// Limit of entries to read: bounds the worker's time.
    pub scan: u32,
    /// Receives the slice; if it would block, the query is dropped.
    pub answer: crossbeam::channel::Sender<FlowSlice>,
}

/// The result of a [`FlowQuery`].
#[derive(Debug)]
pub struct FlowSlice {
    pub flows: Vec<FlowRecord>,
    /// The next cursor; `None` at the end of the table.
    pub next: Option<u32>,
}

/// What a worker has for the control side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerEvent {
    /// A packet needs this neighbour's MAC address: the kernel should resolve it.
    Unresolved(IpAddr),
    /// The worker runs on another CPU core now.
    Moved { worker: u16, from: usize, to: usize },
}
