//! Reading the flow tables: slice by slice, filtered and cut down here.
//!
//! A worker answers between two bursts and is asked for the next slice only when the last one has
//! been dealt with, so neither a large table nor a slow reader holds it up.

use std::collections::{BinaryHeap, HashMap};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::api::{Flow, FlowTraffic, Severity, Warning};
use crossbeam::channel;
use vl3lb_common::ServiceSlot;
use vl3lb_common::dataplane::Dataplane;
use vl3lb_common::flow_query::{FlowQuery, FlowRecord, FlowSlice};

use super::filter::FlowFilter;
use crate::state::Directory;

/// Entries that a worker looks at for one answer: tens of microseconds of its time.
const SLICE: u32 = 4096;
/// Pause before a worker with a full queue of questions is asked again.
const RETRY: Duration = Duration::from_millis(5);

/// Names of services by slot.
pub type ServiceNames = HashMap<ServiceSlot, String>;

/// The names of all services, removed ones with flows too.
pub fn service_names(directory: &Directory) -> ServiceNames {
    let services = directory.services.iter().flatten();
    services
        .map(|service| (service.slot, service.name.clone()))
        .collect()
}

/// The order of the flows that are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlowOrder {
    /// The newest activity first.
    #[default]
    Activity,
    /// The oldest first.
    Age,
    /// The longest silence first.
    Idle,
    /// The most bytes, both directions together, first.
    Bytes,
    /// The most packets first.
    Packets,
}

impl FlowOrder {
    /// The order of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "activity" => Some(Self::Activity),
            "age" => Some(Self::Age),
            "idle" => Some(Self::Idle),
            "bytes" => Some(Self::Bytes),
            "packets" => Some(Self::Packets),
            _ => None,
        }
    }

    /// Flows with a smaller rank come first.
    const fn rank(self, flow: &FlowRecord) -> u64 {
        match self {
            Self::Activity => flow.idle_micros,
            Self::Age => u64::MAX - flow.age_micros,
            Self::Idle => u64::MAX - flow.idle_micros,
            Self::Bytes => u64::MAX - flow.bytes_in.saturating_add(flow.bytes_out),
            Self::Packets => u64::MAX - flow.packets_in.saturating_add(flow.packets_out),
        }
    }
}

/// The first flows of an order, and how many matched.
#[derive(Debug)]
pub struct Selection {
    pub flows: Vec<Flow>,
    pub matched: u64,
    pub warnings: Vec<Warning>,
}

/// Reads all tables and keeps the first `limit` flows in `order` that `filter` accepts.
///
/// Blocks for as long as it takes; a worker that does not answer within `timeout` is left out with
/// a warning. Memory: `limit` flows and one slice.
pub fn select(
    dataplane: &dyn Dataplane,
    names: &ServiceNames,
    filter: &FlowFilter,
    order: FlowOrder,
    limit: usize,
    timeout: Duration,
) -> Selection {
    let mut matched = 0;
    let mut first = BinaryHeap::new();
    let warnings = scan(dataplane, names, filter, timeout, |flow| {
        matched += 1;
        first.push(Ranked(order.rank(&flow), flow));
        if first.len() > limit {
            first.pop();
        }
        ControlFlow::Continue(())
    });
    Selection {
        flows: first
            .into_sorted_vec()
            .into_iter()
            .map(|Ranked(_, flow)| shown(&flow, names))
            .collect(),
        matched,
        warnings,
    }
}

/// Reads all tables and gives `sink` each flow that `filter` accepts until it breaks.
///
/// Blocks; see [`select`]. Returns what is missing.
pub fn scan(
    dataplane: &dyn Dataplane,
    names: &ServiceNames,
    filter: &FlowFilter,
    timeout: Duration,
    mut sink: impl FnMut(FlowRecord) -> ControlFlow<()>,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for worker in (0..u16::MAX)
        .zip(dataplane.stats())
        .map(|(worker, _)| worker)
        .filter(|&worker| filter.accepts_worker(worker))
    {
        let mut next = Some(0);
        while let Some(cursor) = next {
            let Some(slice) = ask(dataplane, worker, cursor, timeout) else {
                warnings.push(unanswered(worker, timeout));
                break;
            };
            for flow in slice.flows {
                let service = names.get(&flow.service).map(String::as_str);
                if filter.accepts(&flow, service) && sink(flow).is_break() {
                    return warnings;
                }
            }
            next = slice.next;
        }
    }
    warnings
}

fn ask(dataplane: &dyn Dataplane, worker: u16, cursor: u32, timeout: Duration) -> Option<FlowSlice> {
    let deadline = Instant::now() + timeout;
    let (answer, answers) = channel::bounded(1);
    loop {
        let query = FlowQuery {
            cursor,
            scan: SLICE,
            answer: answer.clone(),
        };
        if dataplane.query_flows(worker, query) {
            // Without a sender of our own, a query that the worker drops ends the wait at once.
            drop(answer);
            return answers.recv_deadline(deadline).ok();
        }
        if Instant::now() + RETRY > deadline {
            return None;
        }
        std::thread::sleep(RETRY);
    }
}

fn unanswered(worker: u16, timeout: Duration) -> Warning {
    Warning {
        severity: Severity::Warn,
        code: "worker_unanswered".to_owned(),
        subject: Some(worker.to_string()),
        since: None,
        text: format!("worker {worker} did not answer within {timeout:?}; flows of it are missing"),
        next: Some("vl3-lb status".to_owned()),
    }
}

/// A record as it is shown.
pub fn shown(flow: &FlowRecord, names: &ServiceNames) -> Flow {
    let seconds = |micros| Duration::from_micros(micros).as_secs_f64();
    Flow {
        protocol: flow.protocol,
        client: flow.client,
        client_port: flow.client_port,
        service: names.get(&flow.service).cloned(),
        service_address: flow.service_address,
        service_port: flow.service_port,
        nat_port: flow.nat_port,
        backend: flow.backend,
        backend_port: flow.backend_port,
        state: flow.state.name().to_owned(),
        age_seconds: seconds(flow.age_micros),
        idle_seconds: seconds(flow.idle_micros),
        expires_seconds: seconds(flow.expires_micros),
        inbound: FlowTraffic {
            packets_total: flow.packets_in,
            bytes_total: flow.bytes_in,
        },
        outbound: FlowTraffic {
            packets_total: flow.packets_out,
            bytes_total: flow.bytes_out,
        },
        worker: flow.worker,
    }
}

/// A flow with its rank: the heap's greatest is the one to drop.
struct Ranked(u64, FlowRecord);

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
