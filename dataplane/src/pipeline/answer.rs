//! Answers that the balancer sends by itself: ICMP errors and TCP resets, both rate-limited.
//!
//! The packet that caused the answer is counted as dropped under its own reason, answered or not.

use vl3lb_common::{DropReason, ServiceSlot, Timestamp};

use super::{Engine, Refusal, Verdict};
use crate::packet::{self, AnswerKind, Parsed, Transport};
use crate::port::Frame;

impl Engine {
    /// Refuses a packet for `reason`, with an ICMP error to its sender.
    #[cold]
    pub(super) fn refuse_with_error<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        kind: AnswerKind,
        service: Option<ServiceSlot>,
        reason: DropReason,
    ) -> Result<Verdict, Refusal> {
        let refusal = Refusal { service, reason };
        if !self.errors.take() {
            self.stats.answers_suppressed.add(1);
            return Err(refusal);
        }
        // A packet that must never be answered (RFC 1812 section 4.3.2.7) keeps its first reason.
        packet::answer_with_error(packet, parsed, kind, parsed.destination).map_err(|_| refusal)?;
        Ok(self.answered(refusal))
    }

    /// Refuses a packet for `reason`: TCP with a reset, UDP with Port Unreachable.
    #[cold]
    pub(super) fn refuse<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        service: Option<ServiceSlot>,
        reason: DropReason,
        now: Timestamp,
    ) -> Result<Verdict, Refusal> {
        self.resets.refill(now);
        self.errors.refill(now);
        if !matches!(parsed.transport, Transport::Tcp { .. }) {
            return self.refuse_with_error(packet, parsed, AnswerKind::PortUnreachable, service, reason);
        }
        let refusal = Refusal { service, reason };
        if !self.resets.take() {
            self.stats.answers_suppressed.add(1);
            return Err(refusal);
        }
        packet::answer_with_reset(packet, parsed).map_err(|_| refusal)?;
        Ok(self.answered(refusal))
    }

    fn answered(&self, refusal: Refusal) -> Verdict {
        self.stats.drop_packet(refusal.service, refusal.reason);
        self.stats.answers.add(1);
        Verdict::Answer
    }
}
