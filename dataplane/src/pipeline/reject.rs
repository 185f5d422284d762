//! Answers that the balancer sends by itself: ICMP errors and TCP resets, both rate-limited.
//!
//! The packet that caused the answer is counted as dropped under its own reason, answered or not.

use vl3lb_common::{DropReason, ServiceSlot, Timestamp};

use super::{DropContext, Engine, Verdict};
use crate::packet::{self, IcmpError, Parsed, Transport};
use crate::port::Frame;

impl Engine {
    /// Refuses a packet for `reason`, with an ICMP error to its sender.
    #[cold]
    pub(super) fn reject_with_error<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        kind: IcmpError,
        service: Option<ServiceSlot>,
        reason: DropReason,
    ) -> Result<Verdict, DropContext> {
        let context = DropContext { service, reason };
        if !self.errors.take() {
            self.stats.answers_suppressed.add(1);
            return Err(context);
        }
        // A packet that must never be answered (RFC 1812 section 4.3.2.7) keeps its first reason.
        packet::reject_with_icmp_error(packet, parsed, kind, parsed.destination).map_err(|_| context)?;
        Ok(self.answered(context))
    }

    /// Refuses a packet for `reason`: TCP with a reset, UDP with Port Unreachable.
    #[cold]
    pub(super) fn reject<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        service: Option<ServiceSlot>,
        reason: DropReason,
        now: Timestamp,
    ) -> Result<Verdict, DropContext> {
        self.resets.refill(now);
        self.errors.refill(now);
        if !matches!(parsed.transport, Transport::Tcp { .. }) {
            return self.reject_with_error(packet, parsed, IcmpError::PortUnreachable, service, reason);
        }
        let context = DropContext { service, reason };
        if !self.resets.take() {
            self.stats.answers_suppressed.add(1);
            return Err(context);
        }
        packet::reject_with_tcp_reset(packet, parsed).map_err(|_| context)?;
        Ok(self.answered(context))
    }

    fn answered(&self, context: DropContext) -> Verdict {
        self.stats.drop_packet(context.service, context.reason);
        self.stats.answers.add(1);
        Verdict::Reject
    }
}
