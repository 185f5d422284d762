//! What a worker needs of a port beyond moving packets.

use std::os::fd::BorrowedFd;

use vl3lb_common::stats::XskStats;

use crate::port::Port;

/// A port that a worker can sleep on and keep books about.
pub trait Device: Port {
    /// What becomes readable when packets arrive; `None` if nothing arrives by itself.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Free frames of this worker.
    fn free(&self) -> usize;

    /// Frames given to `transmit` that have not come back yet.
    fn in_flight(&self) -> usize;

    /// Copies the kernel's counters of this port. A system call; once a second.
    fn read_statistics(&self, stats: &XskStats);
}
