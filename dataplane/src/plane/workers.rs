//! The workers' threads. An engine with its flows outlives them: threads are started anew with each
//! set of ports, which takes less than a millisecond.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::queue::ArrayQueue;
use vl3lb_common::Snapshot;
use vl3lb_common::capture::CaptureFeed;
use vl3lb_common::flow_feed::FlowFeed;
use vl3lb_common::flow_query::WorkerEvent;
use vl3lb_common::hash::OwnerKey;
use vl3lb_common::stats::WorkerStats;

use crate::config::Config;
use crate::error::SetupError;
use crate::flow::{Overflow, PlacedFlows};
use crate::packet::Framing;
use crate::pipeline::{Engine, EngineConfig};
use crate::port::Port;
use crate::port::none::NoPort;
use crate::worker::{self, Inbox, Pinning, Worker, handoff, relay};

/// Frames that may be on their way from one worker to another.
const HANDOFF_FRAMES: usize = 1024;

/// State that the workers share with the control side for the life of the process.
#[derive(Debug)]
pub(super) struct Team {
    pub(super) stats: Vec<Arc<WorkerStats>>,
    pub(super) inboxes: Vec<Arc<Inbox>>,
    pub(super) flow_feeds: Vec<Arc<FlowFeed>>,
    pub(super) capture_feeds: Vec<Arc<CaptureFeed>>,
    /// The CPU core of each worker.
    pub(super) cores: Vec<usize>,
    /// Those that no worker has, and where one may go in need.
    spare_cores: Vec<usize>,
    /// The secret of the hash that divides flows among the workers.
    pub(super) owner_key: OwnerKey,
}

/// A number that nobody can guess: the keys of a new hasher come from the system.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The workers: running threads, or their engines while stopped.
#[derive(Debug)]
pub(super) enum Workers<P: Port> {
    /// Before the first attachment, and after the end.
    None,
    Attached(Vec<JoinHandle<Worker<P>>>),
    Detached(Vec<JoinHandle<Worker<NoPort>>>),
}

impl Team {
    /// Shared parts for `workers` workers.
    pub(super) fn new(config: &Config, workers: u16) -> Result<Self, SetupError> {
        let (cores, spare_cores) = cores(config.cores.as_deref(), workers);
        Ok(Self {
            stats: (0..workers).map(|_| Arc::default()).collect(),
            inboxes: (0..workers)
                .map(|_| Inbox::new().map(Arc::new))
                .collect::<io::Result<_>>()
                .map_err(|cause| start_error("the workers", cause))?,
            flow_feeds: (0..workers).map(|_| Arc::default()).collect(),
            capture_feeds: (0..workers).map(|_| Arc::default()).collect(),
            cores,
            spare_cores,
            owner_key: OwnerKey::from_seed(random()),
        })
    }

    pub(super) fn workers(&self) -> u16 {
        u16::try_from(self.stats.len()).unwrap_or(u16::MAX)
    }

    /// An engine for each worker. Allocates the flow tables.
    pub(super) fn engines(
        &self,
        config: &Config,
        framing: Framing,
        snapshot: &Arc<Snapshot>,
        events: &Arc<ArrayQueue<WorkerEvent>>,
    ) -> Result<Vec<Engine>, SetupError> {
        let workers = self.workers();
        let flows = (config.flows / u32::from(workers)).max(1);
        let seed = random();
        let overflow = Arc::new(Overflow::default());
        let placed = (workers > 1).then(|| Arc::new(PlacedFlows::new(workers)));
        let engine = |worker: u16, stats: &Arc<WorkerStats>, feed: &Arc<FlowFeed>| {
            let engine_config = EngineConfig {
                worker,
                workers,
                flows,
                client_flows: config.client_flows,
                timeouts: config.timeouts,
                seed: seed.wrapping_add(worker.into()),
                owner_key: self.owner_key,
                framing,
            };
            let mut engine = Engine::new(
                &engine_config,
                Arc::clone(snapshot),
                Arc::clone(stats),
                Arc::clone(events),
            )
            .map_err(|cause| start_error(&format!("worker {worker} with {flows} flows"), cause))?;
            engine.set_flow_feed(Arc::clone(feed));
            if let Some(feed) = self.capture_feeds.get(usize::from(worker)) {
                engine.set_capture_feed(Arc::clone(feed));
            }
            engine.set_overflow(Arc::clone(&overflow));
            engine.set_team(&self.stats);
            if let Some(placed) = &placed {
                engine.set_placed(Arc::clone(placed));
            }
            Ok(engine)
        };
        (0..)
            .zip(self.stats.iter().zip(&self.flow_feeds))
            .map(|(worker, (stats, feed))| engine(worker, stats, feed))
            .collect()
    }

    /// Starts a thread for each engine, with one of `ports`.
    ///
    /// # Errors
    ///
    /// The system has no room for another thread: some workers have ended for good.
    pub(super) fn start<P>(
        &self,
        engines: Vec<Engine>,
        ports: Vec<P>,
    ) -> Result<Vec<JoinHandle<Worker<P>>>, SetupError>
    where
        P: Port<Frame: 'static> + Send + 'static,
    {
        let bells: Vec<_> = self
            .inboxes
            .iter()
            .map(|inbox| Arc::clone(inbox.bell()))
            .collect();
        let [handoffs, overflows] = [(); 2].map(|()| handoff::mesh(&bells, HANDOFF_FRAMES));
        let can_transmit: Vec<_> = ports.iter().map(Port::can_transmit).collect();
        let relays = relay::mesh(&bells, HANDOFF_FRAMES, &can_transmit);
        let mut threads = Vec::with_capacity(engines.len());
        let parts = engines
            .into_iter()
            .zip(ports)
            .zip(handoffs.into_iter().zip(overflows).zip(relays));
        for (number, ((engine, port), ((handoff, overflow), relay))) in parts.enumerate() {
            let inbox = &self.inboxes[number];
            inbox.resume();
            let worker = Worker::new(
                port,
                engine,
                [handoff, overflow],
                relay,
                Arc::clone(inbox),
                Arc::clone(&self.stats[number]),
            );
            let thread = worker::spawn(number, worker, self.pinning(number)).map_err(|cause| {
                self.inboxes
                    .iter()
                    .skip(number)
                    .for_each(|inbox| inbox.set_failed());
                start_error(&format!("the thread of worker {number}"), cause)
            })?;
            threads.push(thread);
        }
        Ok(threads)
    }

    /// Where a worker runs. Its stats have the core.
    fn pinning(&self, worker: usize) -> Pinning {
        let Some(&home) = self.cores.get(worker) else {
            return Pinning::default();
        };
        self.stats[worker].core.set(home as u64);
        // Workers in need do not all go to one core.
        let mut spare = self.spare_cores.clone();
        let first = worker.checked_rem(spare.len()).unwrap_or(0);
        spare.rotate_left(first);
        Pinning::new(home, spare)
    }

    /// Stops all threads and closes their workers. Returns ports and engines in the order of the
    /// workers; those of a worker that panicked are missing.
    pub(super) fn stop<P: Port>(&self, threads: Vec<JoinHandle<Worker<P>>>) -> (Vec<P>, Vec<Engine>) {
        for inbox in &self.inboxes {
            inbox.stop();
        }
        // Workers are closed when all have stopped: they may hand packets to each other until then.
        let stopped: Vec<_> = threads.into_iter().map(JoinHandle::join).collect();
        stopped.into_iter().flatten().map(Worker::close).unzip()
    }
}

/// The core of each worker: those configured, else those that this process may use, again from the
/// first one if there are fewer. And those that this process may use and no worker has, unless they are configured.
fn cores(configured: Option<&[usize]>, workers: u16) -> (Vec<usize>, Vec<usize>) {
    let available: Vec<usize> = configured.map_or_else(
        || {
            let cores = core_affinity::get_core_ids().unwrap_or_default();
            cores.iter().map(|core| core.id).collect()
        },
        <[usize]>::to_vec,
    );
    let spare = match configured {
        Some(_) => &[],
        None => available.get(usize::from(workers)..).unwrap_or(&[]),
    };
    let used = available.iter().cycle().take(workers.into());
    (used.copied().collect(), spare.to_vec())
}

fn start_error(what: &str, cause: io::Error) -> SetupError {
    SetupError::Start {
        what: what.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_cores_than_workers_are_used_again() {
        assert_eq!(cores(Some(&[3, 5]), 3), (vec![3, 5, 3], vec![]));
        assert_eq!(cores(None, 2).0.len(), 2);
    }
}
