//! How flows end: when their time is over, when a packet says so, or when their backend is dead or gone.

use vl3lb_common::stats::{CloseCause, DURATION_BOUNDS, FlowFailure, WorkerStats};
use vl3lb_common::{BackendSlot, BackendState, Snapshot, Timestamp};

use super::{Engine, affinity};
use crate::flow::{AffinityTable, ClosedFlow, FlowId, ServiceClient, State};

impl Engine {
    /// Closes flows whose time is over, a bounded number of table entries per call, and publishes
    /// the gauges. Once per burst, and once per second when idle.
    pub fn sweep(&mut self, now: Timestamp) {
        /// Entries looked at per call: a million flows are swept in 4,000 bursts.
        const BUDGET: usize = 256;
        let (snapshot, stats, affinity) = (&self.snapshot, &self.stats, &mut self.affinity);
        self.flows.sweep(
            now,
            BUDGET,
            |entry| match snapshot
                .backend(BackendSlot(entry.backend_slot))
                .map(|backend| backend.state)
            {
                Some(BackendState::Active | BackendState::Unknown) => None,
                // Finished flows need not hold the slot of a backend that is to go.
                Some(BackendState::Draining { .. }) => entry.state().is_over().then_some(CloseCause::Drain),
                Some(BackendState::Down) => Some(CloseCause::BackendDown),
                Some(BackendState::Gone) | None => Some(CloseCause::Drain),
            },
            |closed, cause| {
                count_closed(stats, affinity, snapshot, &closed, cause, now);
                let ports = &stats.backend(closed.backend_slot).nat_ports;
                ports.set(ports.get().saturating_sub(1));
            },
        );
        self.errors.refill(now);
        self.resets.refill(now);
        self.stats.flow_entries.set(u64::from(self.flows.len()));
    }

    /// Ends a flow now.
    #[cold]
    pub(super) fn close(&mut self, id: FlowId, cause: CloseCause, now: Timestamp) {
        let closed = self.flows.end(id, cause, now);
        self.account(&closed, cause, now);
    }

    /// Takes a closed flow into the counters.
    pub(super) fn account(&mut self, closed: &ClosedFlow, cause: CloseCause, now: Timestamp) {
        let used = self.flows.ports_used(closed.backend_slot);
        self.stats
            .backend(closed.backend_slot)
            .nat_ports
            .set(u64::from(used));
        count_closed(
            &self.stats,
            &mut self.affinity,
            &self.snapshot,
            closed,
            cause,
            now,
        );
    }
}

/// Counts the end of a flow, once: a finished flow was counted when it finished.
fn count_closed(
    stats: &WorkerStats,
    affinity: &mut AffinityTable,
    snapshot: &Snapshot,
    closed: &ClosedFlow,
    cause: CloseCause,
    now: Timestamp,
) {
    if closed.counted {
        return;
    }
    if let Some(epoch) = closed.epoch {
        let key = ServiceClient {
            service: closed.service_slot,
            client: closed.client,
        };
        affinity::flow_ended(affinity, snapshot, &key, (closed.backend_slot, epoch), now);
    }
    let backend = stats.backend(closed.backend_slot);
    backend.flows.set(backend.flows.get().saturating_sub(1));
    if closed.state == State::Opening && cause == CloseCause::Idle {
        backend.flows_failed[FlowFailure::Timeout as usize].add(1);
    }
    let service = stats.service(closed.service_slot);
    service.flows_closed[cause as usize].add(1);
    service
        .duration
        .observe(micros_since(closed.created, now), &DURATION_BOUNDS);
}

pub(super) fn micros_since(earlier: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.since(earlier).as_micros()).unwrap_or(u64::MAX)
}
