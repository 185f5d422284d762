//! Reading the flow tables, slice by slice, and filtering them.
//!
//! A worker answers between two bursts, and gets the next query only when its last slice has been
//! processed, so neither a large table nor a slow reader holds it up.

use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::{Flow, FlowTraffic, Severity, Warning};
use crossbeam::channel;
use vl3lb_common::ServiceSlot;
use vl3lb_common::dataplane::Dataplane;
use vl3lb_common::flow_query::{FlowQuery, FlowRecord, FlowSlice};

use super::filter::FlowFilter;
use crate::state::Directory;

/// Entries that a worker scans for one slice: tens of microseconds of its time.
const SLICE: u32 = 4096;
/// Pause before the next try at a worker whose queue of queries is full.
const RETRY: Duration = Duration::from_millis(5);

/// Names of services by slot.
pub type ServiceNames = HashMap<ServiceSlot, String>;

/// The names of all services, including removed ones with flows.
pub fn service_names(directory: &Directory) -> ServiceNames {
    let services = directory.services.iter().flatten();
    services
        .map(|service| (service.slot, service.name.clone()))
        .collect()
}

/// The order of a list of flows.
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

/// The first flows of an order, and the number that matched.
#[derive(Debug)]
pub struct Selection {
    pub flows: Vec<Flow>,
    pub matched: u64,
    pub warnings: Vec<Warning>,
}

/// Reads all tables of `scan` and keeps the first `limit` flows in `order`.
///
/// Blocks for as long as it takes; see [`Scan::next_slice`]. Memory: `limit` flows and one slice.
pub fn select(mut scan: Scan, order: FlowOrder, limit: usize) -> Selection {
    let mut matched = 0;
    let mut first = BinaryHeap::new();
    while let Some(flows) = scan.next_slice() {
        matched += flows.len() as u64;
        for flow in flows {
            first.push(Ranked(order.rank(&flow), flow));
            if first.len() > limit {
                first.pop();
            }
        }
    }
    Selection {
        flows: first
            .into_sorted_vec()
            .into_iter()
            .map(|Ranked(_, flow)| shown(&flow, scan.names()))
            .collect(),
        matched,
        warnings: scan.into_warnings(),
    }
}

/// A pass over the flow tables of all workers, slice by slice.
pub struct Scan {
    dataplane: Arc<dyn Dataplane>,
    names: ServiceNames,
    filter: FlowFilter,
    timeout: Duration,
    /// The worker and the position in its table of the next slice.
    worker: u16,
    cursor: u32,
    warnings: Vec<Warning>,
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan")
            .field("worker", &self.worker)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

impl Scan {
    /// A pass for the flows that `filter` accepts. A worker that does not answer within `timeout` is
    /// left out with a warning.
    pub const fn new(
        dataplane: Arc<dyn Dataplane>,
        names: ServiceNames,
        filter: FlowFilter,
        timeout: Duration,
    ) -> Self {
        Self {
            dataplane,
            names,
            filter,
            timeout,
            worker: 0,
            cursor: 0,
            warnings: Vec::new(),
        }
    }

    /// The accepted flows of the next slice, which may be none; `None` at the end.
    ///
    /// Blocks until the worker answers: for `timeout` at most, for each worker that does not.
    pub fn next_slice(&mut self) -> Option<Vec<FlowRecord>> {
        while usize::from(self.worker) < self.dataplane.stats().len() {
            if !self.filter.accepts_worker(self.worker) {
                self.next_worker();
                continue;
            }
            let Some(slice) = query(&*self.dataplane, self.worker, self.cursor, self.timeout) else {
                self.warnings.push(unanswered(self.worker, self.timeout));
                self.next_worker();
                continue;
            };
            match slice.next {
                Some(next) => self.cursor = next,
                None => self.next_worker(),
            }
            let accepted = slice.flows.into_iter().filter(|flow| {
                let service = self.names.get(&flow.service).map(String::as_str);
                self.filter.accepts(flow, service)
            });
            return Some(accepted.collect());
        }
        None
    }

    /// The names of the services.
    pub const fn names(&self) -> &ServiceNames {
        &self.names
    }

    /// The flows missing from the slices so far.
    pub fn into_warnings(self) -> Vec<Warning> {
        self.warnings
    }

    const fn next_worker(&mut self) {
        self.worker += 1;
        self.cursor = 0;
    }
}

fn query(dataplane: &dyn Dataplane, worker: u16, cursor: u32, timeout: Duration) -> Option<FlowSlice> {
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
        text: format!("worker {worker} did not answer within {timeout:?}; its flows are missing"),
        next: Some("vl3-lb status".to_owned()),
    }
}

/// A record as the API shows it.
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
        fast: flow.fast,
    }
}

/// A flow with its rank. The heap drops its greatest.
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
