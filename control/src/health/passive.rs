//! Passive health checks: looks at the counters of the data plane, and holds off backends that fail new flows.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::{Instant, MissedTickBehavior, interval};
use vl3lb_common::Duration;
use vl3lb_common::dataplane::Dataplane;
use vl3lb_common::snapshot::BackendSlot;
use vl3lb_common::stats::{Counter, WorkerStats};

use super::hold_off::NewFlows;
use super::{HealthTable, Target, is_connected};
use crate::network::NetworkReceiver;
use crate::publisher::CurrentReceiver;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Looks at the counters of backends whose service has a passive check.
pub struct PassiveChecker {
    dataplane: Arc<dyn Dataplane>,
    current: CurrentReceiver,
    network: NetworkReceiver,
    table: Arc<HealthTable>,
    /// The counts at the last look.
    last: HashMap<Target, NewFlows>,
}

impl std::fmt::Debug for PassiveChecker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PassiveChecker")
            .field("backends", &self.last.len())
            .finish_non_exhaustive()
    }
}

impl PassiveChecker {
    /// A checker of the `current` backends, whose results go into `table`. Results do not count while the `network` is
    /// down.
    pub fn new(
        dataplane: Arc<dyn Dataplane>,
        current: CurrentReceiver,
        network: NetworkReceiver,
        table: Arc<HealthTable>,
    ) -> Self {
        Self {
            dataplane,
            current,
            network,
            table,
            last: HashMap::new(),
        }
    }

    /// Looks once a second, for ever. Cost of a look: O(backends of services with a passive check x workers).
    pub async fn run(mut self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(Instant::now());
        }
    }

    fn look(&mut self, now: Instant) {
        let Some(current) = self.current.borrow().clone() else {
            return;
        };
        let is_connected = is_connected(&self.network);
        let workers = self.dataplane.stats();
        let mut last = std::mem::take(&mut self.last);
        let backends = current.directory.backends.iter().flatten();
        for backend in backends {
            let Some(service) = current.directory.service(backend.service) else {
                continue;
            };
            if service.rules.passive_check.is_none() || !service.live {
                continue;
            }
            let target = Target {
                protocol: service.protocol,
                service_port: service.port,
                address: backend.address,
                port: backend.port,
                instance: backend.instance.clone(),
            };
            let counts = counts(workers, backend.slot);
            // A backend that is new here has its slot's counters from zero on.
            let before = last.remove(&target).unwrap_or(counts);
            if is_connected {
                let flows = NewFlows {
                    failed: counts.failed.saturating_sub(before.failed),
                    answered: counts.answered.saturating_sub(before.answered),
                };
                self.table.observe(&target, flows, now);
            }
            self.last.insert(target, counts);
        }
    }
}

fn counts(workers: &[Arc<WorkerStats>], slot: BackendSlot) -> NewFlows {
    workers.iter().fold(NewFlows::default(), |sum, worker| {
        let backend = worker.backend(slot);
        // Those that time out were counted as unanswered minutes ago.
        let [reset, _, unreachable] = backend.flows_failed.each_ref().map(Counter::get);
        let failed = reset + unreachable + backend.flows_unanswered.get();
        NewFlows {
            failed: sum.failed + failed,
            answered: sum.answered + backend.flows_answered.get(),
        }
    })
}
