//! How a sleeping worker is woken.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// An eventfd that is written only while its worker says that it sleeps, so ringing a busy worker's
/// bell costs no system call.
///
/// No ring is lost: the worker announces its sleep and then looks at everything once more; whoever
/// has something for it puts that in its place and then looks for the announcement. One of the two
/// sees the other (sequentially consistent fences on both sides).
#[derive(Debug)]
pub struct Doorbell {
    event: OwnedFd,
    sleeping: AtomicBool,
}

impl Doorbell {
    /// # Errors
    ///
    /// The process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            sleeping: AtomicBool::new(false),
        })
    }

    /// Wakes the worker if it sleeps. What it shall find must be in its place before.
    #[inline]
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            // Fails only if the counter is full, and then the bell rings already.
            rustix::io::write(&self.event, &1_u64.to_ne_bytes()).ok();
        }
    }

    /// Worker: from now on the bell rings aloud. Look at everything once more before sleeping.
    pub(super) fn announce(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Worker: awake again; quiet from now on.
    pub(super) fn answer(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
        // Fails if it was not rung. A ringer may be between its two steps; then the next sleep is
        // short.
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
        bell.announce();
        bell.ring();
        bell.ring();
        assert!(rings(&bell));
        bell.answer();
        assert!(!rings(&bell));
    }

    #[test]
    fn a_sleep_that_was_not_disturbed_leaves_the_bell_quiet() {
        let bell = Doorbell::new().unwrap();
        bell.announce();
        bell.answer();
        bell.ring();
        assert!(!rings(&bell));
    }
}
