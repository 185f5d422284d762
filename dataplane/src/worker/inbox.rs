//! The requests of the control side to one worker.

use std::io;
use std::sync::Arc;

use vl3lb_common::Snapshot;
use vl3lb_common::mailbox::Mailbox;
use vl3lb_common::sync::ArrayQueue;
use vl3lb_common::sync::atomic::{AtomicBool, Ordering};

use super::doorbell::Doorbell;
use super::query::Query;

/// Queries that may wait for a worker.
const QUERIES: usize = 16;

/// Snapshots, queries and the stop request from the control side to one worker.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(super) snapshots: Mailbox<Snapshot>,
    pub(super) queries: ArrayQueue<Query>,
    pub(super) bell: Arc<Doorbell>,
    stopped: AtomicBool,
    failed: AtomicBool,
}

impl Inbox {
    /// # Errors
    ///
    /// The process has no file descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            snapshots: Mailbox::default(),
            queries: ArrayQueue::new(QUERIES),
            bell: Arc::new(Doorbell::new()?),
            stopped: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        })
    }

    /// The worker switches to `snapshot` between two bursts.
    pub(crate) fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshots.put(snapshot);
        self.bell.ring();
    }

    /// The worker answers between two bursts. False if too many queries wait already.
    pub(crate) fn query(&self, query: impl Into<Query>) -> bool {
        let accepted = self.queries.push(query.into()).is_ok();
        self.bell.ring();
        accepted
    }

    /// The worker processes what has arrived and ends its thread.
    pub(crate) fn stop(&self) {
        // Who sees it sees what was published before.
        self.stopped.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Takes a stop request back, before a stopped worker starts again.
    pub(crate) fn resume(&self) {
        self.stopped.store(false, Ordering::Relaxed);
    }

    /// Worker: it has ended without a request and does not start again.
    pub(crate) fn set_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Whether the worker has ended without a request.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether the worker was asked to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Wakes the worker.
    pub(crate) fn bell(&self) -> &Arc<Doorbell> {
        &self.bell
    }
}
