//! How a worker sleeps: until a packet, another worker or the control side wakes it, or something is due.

use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Doorbell, STATISTICS_INTERVAL, Worker};
use crate::clock::Clock;
use crate::pipeline::promotion::FOLD_INTERVAL;
use crate::port::Port;

/// The longest sleep: without traffic, timers are at most this late.
const LONGEST_SLEEP: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// The longest sleep while frames wait to be sent or to come back.
const SHORT_SLEEP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 2_000_000,
};
/// The longest sleep while new flows are refused: the number of those that are admitted is renewed.
const OVERLOAD_SLEEP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: STATISTICS_INTERVAL.subsec_nanos() as i64,
};
/// The longest sleep while the in-kernel path forwards packets, whose counts are to be taken in.
const FOLD_SLEEP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: FOLD_INTERVAL.subsec_nanos() as i64,
};
impl<P: Port> Worker<P> {
    /// Sleeps until there is work, at most a second.
    pub(super) fn sleep(&mut self, clock: Clock) {
        let inbox = Arc::clone(&self.inbox);
        inbox.bell.arm();
        // Finds work that came before the bell was armed; later work rings it.
        if self.step(clock.now()) || inbox.is_stopped() {
            inbox.bell.disarm();
            return;
        }
        let unfinished = self.is_unfinished();
        let timeout = if unfinished {
            SHORT_SLEEP
        } else if self.engine.is_overloaded() {
            OVERLOAD_SLEEP
        } else if self.engine.has_fast_flows() {
            FOLD_SLEEP
        } else {
            LONGEST_SLEEP
        };
        let woken = self.wait(&inbox.bell, timeout);
        inbox.bell.disarm();
        if woken {
            self.stats.wakeups.add(1);
        }
    }

    /// Whether something is to be done soon that neither a packet nor the bell announces: frames wait to be sent or to
    /// come back, from the kernel or from other workers, and a queue without frames receives nothing.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.outgoing.is_empty() || self.port.in_flight() > 0 || self.port.lacks_frames()
    }

    /// Waits for a packet or the bell. False if neither came in time.
    fn wait(&mut self, bell: &Doorbell, timeout: Timespec) -> bool {
        let mut descriptors = [
            PollFd::new(bell, PollFlags::IN),
            PollFd::new(bell, PollFlags::empty()),
        ];
        if let Some(port) = self.port.wait_descriptor().filter(|_| !self.polling_disabled) {
            descriptors[1] = PollFd::from_borrowed_fd(port, PollFlags::IN);
        }
        // Fails on a signal only, and then the sleep is short.
        let ready = poll(&mut descriptors, Some(&timeout)).unwrap_or(0);
        // A socket whose interface is gone would end every sleep immediately.
        let broken = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        self.polling_disabled |= descriptors[1].revents().intersects(broken);
        ready > 0
    }
}
