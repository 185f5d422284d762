//! Sums of the workers' counters for a slot: its remaining flows, and the baseline of its next owner.

use std::sync::Arc;

use vl3lb_common::snapshot::{BackendSlot, Generation, ServiceSlot};
use vl3lb_common::stats::{BackendStats, ServiceStats, WorkerStats};

/// The oldest generation that a worker uses; `None` without workers.
pub(super) fn generation_in_use(workers: &[Arc<WorkerStats>]) -> Option<Generation> {
    workers
        .iter()
        .map(|worker| Generation(worker.generation.get()))
        .min()
}

/// NAT ports that are still taken: a finished flow keeps its own for a while too.
pub(super) fn flows_left(workers: &[Arc<WorkerStats>], slot: BackendSlot) -> u64 {
    workers
        .iter()
        .map(|worker| worker.backend(slot).nat_ports.get())
        .sum()
}

pub(super) fn service_counts(workers: &[Arc<WorkerStats>], slot: ServiceSlot) -> Arc<ServiceStats> {
    let sum = ServiceStats::default();
    for worker in workers {
        sum.absorb(worker.service(slot));
    }
    Arc::new(sum)
}

pub(super) fn backend_counts(workers: &[Arc<WorkerStats>], slot: BackendSlot) -> Arc<BackendStats> {
    let sum = BackendStats::default();
    for worker in workers {
        sum.absorb(worker.backend(slot));
    }
    Arc::new(sum)
}
