//! Packets that are not forwarded: the reason, and the ICMP error, TCP reset or ABORT for the sender.
//!
//! A rejected packet is counted as dropped under its own reason, whether its sender gets a response or not.

use vl3lb_common::{DropReason, ServiceSlot, Timestamp};

use super::{Engine, Verdict};
use crate::packet::{self, IcmpError, Parsed, Transport};
use crate::port::Frame;

/// The drop reason of a packet, the service to count it for, and the reject to its sender.
#[derive(Debug, Clone, Copy)]
pub(super) struct DropContext {
    service: Option<ServiceSlot>,
    reason: DropReason,
    response: Response,
    /// Of [`Response::TooBig`].
    mtu: u16,
}

/// Without data, so that a [`DropContext`] fits a register.
#[derive(Debug, Clone, Copy)]
enum Response {
    None,
    /// TCP: a reset; SCTP: ABORT; UDP: Port Unreachable.
    ClosedPort,
    TimeExceeded,
    AdminProhibited,
    /// Fragmentation Needed, or Packet Too Big.
    TooBig,
}

impl From<DropReason> for DropContext {
    fn from(reason: DropReason) -> Self {
        Self {
            service: None,
            reason,
            response: Response::None,
            mtu: 0,
        }
    }
}

impl DropContext {
    /// Why the packet is dropped.
    pub(super) const fn reason(&self) -> DropReason {
        self.reason
    }

    /// Counts for a service, without a response.
    pub(super) const fn of(service: ServiceSlot, reason: DropReason) -> Self {
        Self {
            service: Some(service),
            reason,
            response: Response::None,
            mtu: 0,
        }
    }

    /// The sender learns the MTU of the next hop, unless it is 0.
    pub(super) const fn too_big(mut self, mtu: u16) -> Self {
        if mtu > 0 {
            self.response = Response::TooBig;
            self.mtu = mtu;
        }
        self
    }

    /// TTL or hop limit used up.
    pub(super) const fn hop_limit_exceeded(service: ServiceSlot) -> Self {
        Self {
            response: Response::TimeExceeded,
            ..Self::of(service, DropReason::TtlExpired)
        }
    }

    /// The reject of a closed port: a TCP reset, ABORT or Port Unreachable.
    pub(super) const fn closed_port(mut self) -> Self {
        self.response = Response::ClosedPort;
        self
    }

    /// The sender gets the ICMP error for a lack of resources.
    pub(super) const fn admin_prohibited(mut self) -> Self {
        self.response = Response::AdminProhibited;
        self
    }
}

impl Engine {
    /// Counts a packet that is not forwarded, and rejects it if its sender is to know and the rate limits allow.
    #[cold]
    pub(super) fn drop_packet<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        context: DropContext,
        now: Timestamp,
    ) -> Verdict {
        self.capture.dropped = Some((context.service, context.reason));
        let stats = &self.signals.stats;
        stats.drop_packet(context.service, context.reason);
        let error = match context.response {
            Response::None => return Verdict::Drop,
            Response::ClosedPort => match parsed.transport {
                Transport::Tcp { .. } | Transport::Sctp { .. } => None,
                _ => Some(IcmpError::PortUnreachable),
            },
            Response::TooBig => Some(IcmpError::TooBig { mtu: context.mtu }),
            Response::TimeExceeded => Some(IcmpError::TimeExceeded),
            Response::AdminProhibited => Some(IcmpError::AdminProhibited),
        };
        let limit = if error.is_some() {
            &mut self.limits.icmp_errors
        } else {
            &mut self.limits.tcp_resets
        };
        if !limit.allows(&parsed.source, now) {
            stats.answers_suppressed.add(1);
            return Verdict::Drop;
        }
        let written = match error {
            Some(error) => packet::reject_with_icmp_error(packet, parsed, error, parsed.destination),
            None if matches!(parsed.transport, Transport::Sctp { .. }) => {
                packet::reject_with_sctp_abort(packet, parsed)
            }
            None => packet::reject_with_tcp_reset(packet, parsed),
        };
        // Fails for a packet that must not be answered (RFC 1812 section 4.3.2.7).
        if written.is_err() {
            return Verdict::Drop;
        }
        stats.answers.add(1);
        Verdict::Reject
    }
}
