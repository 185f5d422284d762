//! Packets to clients in the balancer's own network namespace.

use vl3lb_common::{DropReason, Timestamp};

use super::{BACKLOG, Worker};
use crate::pipeline::Unsent;
use crate::port::{Frame, Port};

impl<P: Port> Worker<P> {
    /// Passes the packet in hand to a local client.
    #[cold]
    pub(super) fn deliver(&mut self, now: Timestamp) {
        if self.port.deliver(&self.packet) {
            self.stats.transmitted.add(1);
        } else {
            let reason = DropReason::TxRefused;
            self.engine.drop_unsent(&self.packet, Unsent::Whole, reason, now);
        }
        self.packet.drain(..).for_each(|frame| self.port.release(frame));
    }

    /// Resets connections whose backend has died.
    #[inline]
    pub(super) fn reset_orphans(&mut self, now: Timestamp) {
        if !self.engine.has_orphans() || self.outgoing.len() >= BACKLOG / 2 {
            return;
        }
        let start = self.outgoing.len();
        self.engine.reset_orphans(&mut self.port, &mut self.outgoing);
        for index in (start..self.outgoing.len()).rev() {
            if self.outgoing[index].is_local() {
                self.packet.push(self.outgoing.remove(index));
                self.deliver(now);
            }
        }
    }
}
