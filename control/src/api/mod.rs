//! The REST schema, which is also behind tables and metrics.
//!
//! A [`Report`] is built from the workers' counters and the control side's state at one moment.
//! Field names are the JSON names (camelCase, the suffix says the unit); within `v1` fields are
//! only ever added. Unknown values are `None`, never 0.

mod backend;
mod capture;
mod check;
mod envelope;
mod event;
mod flow;
mod flow_event;
mod flow_log;
mod lookup;
mod measure;
mod nsm;
mod nsm_discovery;
mod peers;
mod service;
mod status;
mod time;

pub use backend::{Backend, BackendState, Drain, Failures, NatPortUse, NextHop};
pub use capture::{
    AddressNames, CaptureCounts, CaptureEvent, CaptureStart, CapturedPacket, PacketData, PacketImage,
    PreciseTime,
};
pub use check::{BackendCheck, CheckCount, CheckResult, ServiceCheck};
pub use envelope::{API_VERSION, Consistency, Envelope, FlowList};
pub use event::{Event, EventCode, EventList};
pub use flow::{Flow, FlowStreamEnd, FlowStreamLine, FlowTraffic};
pub use flow_event::FlowEvent;
pub use flow_log::{FlowLog, FlowLogLoss};
pub use lookup::{Lookup, LookupCandidate, LookupClient, LookupResult, LookupStep};
pub use measure::{Bucket, CauseCount, Distribution, ReasonCount, Traffic};
pub use nsm::{NsmCallCount, NsmConnection, NsmHealCount, NsmState};
pub use nsm_discovery::{NsmConflict, NsmDiscovery, NsmEndpoint, NsmReasonCount, NsmStream};
pub use peers::{Peer, PeerGroup, WriteCount, WriteTrouble};
pub use service::{BackendCounts, BackendTransitions, Service, ServiceState};
pub use status::{
    AttachReport, ConfigFile, Discovery, Dns, ErrorCount, FastPath, Imbalance, Interface, LeftOut,
    MissingCollection, Process, PuntCount, RcodeCount, Severity, Status, Steering, Totals, Verdict, Warning,
    Worker, XskDrops,
};
pub use time::{Time, TimeError};

/// The state of the balancer at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub time: Time,
    /// Generation of the last published snapshot; `None` before the first.
    pub generation: Option<u64>,
    /// The window of rates; `None` before the second report.
    pub window_seconds: Option<f64>,
    pub status: Status,
    /// By state (down, degraded, ok), then name.
    pub services: Vec<Service>,
    /// By state (down, draining, unknown, up), then service and address.
    pub backends: Vec<Backend>,
}

impl Report {
    /// New flows of all services; `None` before the second report.
    pub fn new_flows_per_second(&self) -> Option<f64> {
        self.window_seconds?;
        let rates = self
            .services
            .iter()
            .filter_map(|service| service.new_flows_per_second);
        Some(rates.sum())
    }

    /// Wraps `items` for the API.
    pub fn envelope<T>(&self, items: Vec<T>) -> Envelope<T> {
        Envelope {
            api_version: API_VERSION.to_owned(),
            time: self.time,
            generation: self.generation,
            window_seconds: self.window_seconds,
            items,
            truncated: false,
            warnings: Vec::new(),
        }
    }
}
