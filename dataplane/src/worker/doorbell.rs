//! The wake-up of a sleeping worker.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use vl3lb_common::sync::atomic::{AtomicBool, Ordering, fence};

/// Wakes a sleeping worker: an eventfd that is written only while the worker sleeps, so that ringing
/// for a busy worker costs no system call.
///
/// No wake-up is lost: the worker arms the bell and then checks all its sources once more; a sender
/// stores its item and then checks whether the bell is armed. Sequentially consistent fences on both
/// sides make at least one of them see the other.
#[derive(Debug)]
pub(crate) struct Doorbell {
    event: OwnedFd,
    sleeping: AtomicBool,
}

impl Doorbell {
    /// # Errors
    ///
    /// The process has no file descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            sleeping: AtomicBool::new(false),
        })
    }

    /// Wakes the worker if it sleeps. Store the item that it is to find before the call.
    #[inline]
    pub(crate) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            // Fails only if the counter is full, and then the descriptor is readable already.
            rustix::io::write(&self.event, &1_u64.to_ne_bytes()).ok();
        }
    }

    /// Worker: a ring wakes from now on. Check all sources once more before sleeping.
    pub(super) fn arm(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Worker: awake; further rings cost nothing.
    pub(super) fn disarm(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
        // Fails if it was not rung. A ring that is under way now shortens the next sleep.
        rustix::io::read(&self.event, &mut [0; 8]).ok();
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn rings(bell: &Doorbell) -> bool {
        let mut fds = [PollFd::new(bell, PollFlags::IN)];
        poll(
            &mut fds,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
        .unwrap()
            == 1
    }

    #[test]
    fn only_a_sleeping_worker_is_woken_and_only_once() {
        let bell = Doorbell::new().unwrap();
        bell.ring();
        assert!(!rings(&bell));
        bell.arm();
        bell.ring();
        bell.ring();
        assert!(rings(&bell));
        bell.disarm();
        assert!(!rings(&bell));
    }

    #[test]
    fn a_disarmed_bell_is_silent() {
        let bell = Doorbell::new().unwrap();
        bell.arm();
        bell.disarm();
        bell.ring();
        assert!(!rings(&bell));
    }
}
