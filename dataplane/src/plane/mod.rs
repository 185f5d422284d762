//! The running data plane: workers that live as long as the process, and the ports that they serve
//! while there is an interface.
//!
//! - [`attach`] opens ports and hands them to the workers, and takes them away again;
//! - [`publish`] hands snapshots to the workers and keeps the steer rules in step with them;
//! - [`workers`] owns the threads, and the engines while no thread runs.
//!
//! These three work under one lock, [`Plane::operate`]. Everything that is only read (attachment,
//! counters, health) is kept outside of it, so that a scrape never waits for a publish.

mod attach;
mod publish;
mod status;
#[cfg(test)]
mod tests;
mod workers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam::queue::ArrayQueue;
use vl3lb_common::capture::{CaptureFeed, CaptureSettings};
use vl3lb_common::dataplane::{
    AttachError, Attachment, Dataplane, LinkChange, PublishError, Steered, WorkerFailure,
};
use vl3lb_common::flow_feed::FlowFeed;
use vl3lb_common::flow_query::{FlowQuery, WorkerEvent};
use vl3lb_common::selection_query::SelectionQuery;
use vl3lb_common::stats::WorkerStats;
use vl3lb_common::{Snapshot, Timestamp};

use crate::clock::Clock;
use crate::config::Config;
use crate::port::provider::PortProvider;
use crate::port::xsk::AfXdp;
use attach::Session;
use status::Status;
use workers::{Team, Workers};

/// Events of all workers that may wait for the control side.
const EVENTS: usize = 1024;

/// A data plane. Dropping it detaches and stops it.
#[derive(Debug)]
pub struct Plane<A: PortProvider = AfXdp> {
    config: Config,
    provider: A,
    /// State that the workers share with readers. Created by the first attachment, which fixes the number of workers.
    team: OnceLock<Team>,
    events: Arc<ArrayQueue<WorkerEvent>>,
    status: Status,
    stopped: AtomicBool,
    operations: Mutex<Operations<A>>,
    clock: Clock,
}

/// State of attaching, detaching, publishing and stopping, which exclude each other.
#[derive(Debug)]
struct Operations<A: PortProvider> {
    /// `None` while detached. Dropped before the ports are closed.
    session: Option<Session<A::Steering>>,
    workers: Workers<A::Port>,
    /// The latest snapshot that was published.
    snapshot: Option<Arc<Snapshot>>,
    /// Frames that closed ports did not get back.
    lost_frames: usize,
}

impl Plane {
    /// A detached data plane for the interface in `config`, which need not exist yet. Call
    /// [`Dataplane::attach`] in the interface's network namespace.
    pub fn new(config: Config) -> Self {
        let provider = AfXdp::new(&config);
        Self::with_ports(config, provider)
    }
}

impl<A: PortProvider> Plane<A> {
    /// A detached data plane whose ports come from `provider`.
    pub fn with_ports(config: Config, provider: A) -> Self {
        Self {
            config,
            provider,
            team: OnceLock::new(),
            events: Arc::new(ArrayQueue::new(EVENTS)),
            status: Status::default(),
            stopped: AtomicBool::new(false),
            operations: Mutex::new(Operations {
                session: None,
                workers: Workers::None,
                snapshot: None,
                lost_frames: 0,
            }),
            clock: Clock,
        }
    }

    /// Detaches from the interface, and waits until the workers have processed packets that arrived.
    /// Returns the number of frames that were not given back by any attachment: 0, unless a worker
    /// panicked. Harmless if already stopped.
    pub fn stop(&self) -> usize {
        let mut operations = self.operate();
        self.stopped.store(true, Ordering::Relaxed);
        self.close_ports(&mut operations);
        let workers = std::mem::replace(&mut operations.workers, Workers::None);
        if let (Workers::Detached(threads), Some(team)) = (workers, self.team.get()) {
            team.stop(threads);
        }
        operations.lost_frames
    }

    /// Waits for a running operation.
    fn operate(&self) -> MutexGuard<'_, Operations<A>> {
        // A panic leaves workers that have ended, which every operation checks.
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: PortProvider> Dataplane for Plane<A> {
    fn attach(&self) -> Result<Arc<Attachment>, AttachError> {
        self.attach_ports(&mut self.operate())
    }

    fn detach(&self) {
        self.detach_ports(&mut self.operate());
    }

    fn attachment(&self) -> Option<Arc<Attachment>> {
        self.status.attachment()
    }

    fn link_change(&self) -> Option<LinkChange> {
        self.provider.link_change(&*self.attachment()?)
    }

    fn publish(&self, snapshot: Arc<Snapshot>) -> Result<(), PublishError> {
        self.publish_snapshot(&mut self.operate(), snapshot)
    }

    fn healthy(&self) -> Result<(), WorkerFailure> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(WorkerFailure::Stopped);
        }
        let inboxes = self.team.get().map_or(&[][..], |team| &team.inboxes);
        match inboxes.iter().position(|inbox| inbox.has_failed()) {
            Some(worker) => Err(WorkerFailure::Ended { worker }),
            None => Ok(()),
        }
    }

    fn stats(&self) -> &[Arc<WorkerStats>] {
        self.team.get().map_or(&[], |team| &team.stats)
    }

    fn steered(&self) -> Steered {
        self.status.steered()
    }

    fn query_flows(&self, worker: u16, query: FlowQuery) -> bool {
        self.team
            .get()
            .and_then(|team| team.inboxes.get(usize::from(worker)))
            .is_some_and(|inbox| inbox.query(query))
    }

    fn query_selection(&self, worker: u16, query: SelectionQuery) -> bool {
        self.team
            .get()
            .and_then(|team| team.inboxes.get(usize::from(worker)))
            .is_some_and(|inbox| inbox.query(query))
    }

    fn flow_feeds(&self) -> &[Arc<FlowFeed>] {
        self.team.get().map_or(&[], |team| &team.flow_feeds)
    }

    fn capture_feeds(&self) -> &[Arc<CaptureFeed>] {
        self.team.get().map_or(&[], |team| &team.capture_feeds)
    }

    fn set_capture(&self, settings: &Arc<CaptureSettings>) {
        let Some(team) = self.team.get() else { return };
        for (feed, inbox) in team.capture_feeds.iter().zip(&team.inboxes) {
            feed.set(settings);
            inbox.bell().ring();
        }
    }

    fn next_event(&self) -> Option<WorkerEvent> {
        self.events.pop()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

impl<A: PortProvider> Drop for Plane<A> {
    fn drop(&mut self) {
        self.stop();
    }
}
