//! The thread of a worker.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crate::clock::Clock;
use crate::port::Port;

use super::inbox::Inbox;
use super::{Pinning, Worker};

/// Starts a worker in a new thread, pinned as given. Failure to pin is logged.
/// The thread returns the worker after a stop request. A panic is logged and marks the worker as failed.
///
/// # Errors
///
/// The system has no room for another thread.
pub(crate) fn spawn<P>(
    number: usize,
    mut worker: Worker<P>,
    pinning: Pinning,
) -> io::Result<JoinHandle<Worker<P>>>
where
    P: Port + Send + 'static,
{
    Builder::new().name(format!("worker-{number}")).spawn(move || {
        if let Err(core) = pinning.pin() {
            tracing::warn!(
                worker = number,
                core,
                "cannot pin the worker to its core; the scheduler chooses one"
            );
        }
        worker.pinning = pinning;
        if number == 0 && worker.busy_poll_timeout.is_zero() {
            tracing::info!(
                "the CPU quota is below one CPU per worker: workers sleep instead of polling for packets"
            );
        }
        let panic_log = PanicLog {
            number,
            inbox: Arc::clone(&worker.inbox),
        };
        worker.run(Clock);
        std::mem::forget(panic_log);
        worker
    })
}

/// Logs the end of a worker that panics.
struct PanicLog {
    number: usize,
    inbox: Arc<Inbox>,
}

impl Drop for PanicLog {
    fn drop(&mut self) {
        self.inbox.set_failed();
        tracing::error!(
            worker = self.number,
            "a worker panicked: its packets are lost until the process restarts"
        );
    }
}
