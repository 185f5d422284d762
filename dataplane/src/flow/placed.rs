//! Under which rule of its service each flow was opened: by its client's address, or by address and ports.
//!
//! The rule decides which worker owns a flow. After a service changed its rule, the workers ask the former owner for flows
//! that they do not know, until no flow under the former rule is left. Each worker counts its own flows, in atomic words
//! that the others read.

use std::sync::Arc;

use vl3lb_common::ServiceSlot;
use vl3lb_common::snapshot::{Generation, MAX_SERVICES};
use vl3lb_common::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::lifecycle::Flows;
use super::table::FlowId;

/// The model checker has few words.
const SERVICES: usize = if cfg!(feature = "loom") { 1 } else { MAX_SERVICES };

/// The flows of all workers by service and rule.
#[derive(Debug)]
pub(crate) struct PlacedFlows(Box<[WorkerFlows]>);

/// One worker's, which alone writes it.
#[derive(Debug)]
struct WorkerFlows {
    /// The snapshot in use.
    generation: AtomicU64,
    /// By service slot, then by rule.
    flows: Box<[[AtomicU32; 2]]>,
}

impl PlacedFlows {
    pub(crate) fn new(workers: u16) -> Self {
        let worker = || WorkerFlows {
            generation: AtomicU64::new(0),
            flows: (0..SERVICES).map(|_| Default::default()).collect(),
        };
        Self((0..workers).map(|_| worker()).collect())
    }

    /// Whether no worker has a flow of the service under this rule, nor opens one: all use the snapshot `since` or a later
    /// one. O(workers).
    pub(super) fn are_gone(&self, service: ServiceSlot, by_client: bool, since: Generation) -> bool {
        self.0.iter().all(|worker| {
            let flows = &worker.flows[service.index()][usize::from(by_client)];
            // In this order: a worker opens none after it has switched.
            worker.generation.load(Ordering::Acquire) >= since.0 && flows.load(Ordering::Relaxed) == 0
        })
    }
}

/// One worker's part of [`PlacedFlows`].
#[derive(Debug)]
pub(super) struct OwnPlaced {
    all: Arc<PlacedFlows>,
    worker: usize,
}

impl OwnPlaced {
    pub(super) const fn new(all: Arc<PlacedFlows>, worker: usize) -> Self {
        Self { all, worker }
    }

    /// From now on flows are opened under the rules of this snapshot.
    pub(super) fn switched(&self, generation: Generation) {
        self.all.0[self.worker]
            .generation
            .store(generation.0, Ordering::Release);
    }

    pub(super) fn count(&self, service: ServiceSlot, by_client: bool, change: impl FnOnce(u32) -> u32) {
        let flows = &self.all.0[self.worker].flows[service.index()][usize::from(by_client)];
        flows.store(change(flows.load(Ordering::Relaxed)), Ordering::Relaxed);
    }
}

impl Flows {
    /// Shares the counts with the other workers; `worker` is this one's number. Before the first flow.
    pub(crate) fn set_placed(&mut self, all: Arc<PlacedFlows>, worker: u16) {
        self.placed = Some(OwnPlaced::new(all, worker.into()));
    }

    /// Whether no worker has a flow under a rule any more: see [`PlacedFlows::are_gone`]. False if the counts are not shared.
    pub(crate) fn are_gone(&self, service: ServiceSlot, by_client: bool, since: Generation) -> bool {
        let placed = self.placed.as_ref();
        placed.is_some_and(|placed| placed.all.are_gone(service, by_client, since))
    }

    /// Counts a flow that was just opened, under the present rule of its service.
    pub(super) fn count_placed(&mut self, id: FlowId) {
        let Some(placed) = &self.placed else { return };
        let service = self.table.entry(id).service();
        let by_client = !self.affinity_times[service.index()].is_zero();
        placed.count(service, by_client, |flows| flows + 1);
        self.table.entry_mut(id).set_by_client(by_client);
    }

    /// Counts a flow that leaves the table.
    pub(super) fn uncount_placed(&self, id: FlowId) {
        let Some(placed) = &self.placed else { return };
        let entry = self.table.entry(id);
        placed.count(entry.service(), entry.is_by_client(), |flows| {
            flows.saturating_sub(1)
        });
    }
}
