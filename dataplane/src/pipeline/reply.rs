//! A backend's packet to a NAT port: undo both translations and send it to the client.

use vl3lb_common::stats::CONNECT_BOUNDS;
use vl3lb_common::{BackendSlot, DropReason, ServiceSlot, Timestamp};

use super::closing::micros_since;
use super::{DropContext, Engine, Verdict};
use crate::flow::{Direction, FlowId, State};
use crate::packet::{self, IcmpError, Parsed, TcpFlags, Translation};
use crate::port::Frame;

impl Engine {
    #[inline(always)]
    pub(super) fn reply<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        id: FlowId,
        flags: TcpFlags,
        now: Timestamp,
    ) -> Result<Verdict, DropContext> {
        let entry = self.flows.entry(id);
        let (slot, service) = (BackendSlot(entry.backend_slot), ServiceSlot(entry.service_slot));
        let dropped = |reason| DropContext {
            service: Some(service),
            reason,
        };
        if parsed.hop_limit <= 1 {
            let reason = DropReason::TtlExpired;
            return self.reject_with_error(packet, parsed, IcmpError::TimeExceeded, Some(service), reason);
        }
        if let Err((cause, reason)) = self.usable(entry) {
            self.close(id, cause, now);
            return self.reject(packet, parsed, Some(service), reason, now);
        }
        let before = self.advance(id, Direction::Out, flags, parsed, now);
        if before == Some(State::Opening) && self.flows.entry(id).state() == State::Answered {
            self.answered_by_backend(id, packet, parsed, now);
        }
        self.refresh_client_mac(id);
        let entry = self.flows.entry(id);
        let to = Translation {
            source: self.flows.local_address(entry.local),
            destination: entry.client,
            source_port: entry.service_port,
            destination_port: entry.client_port,
        };
        let mss = entry.mss;
        let mac = self.flow_client_mac(id);
        let verdict = self.emit(packet, parsed, &to, mac, mss).map_err(dropped)?;
        let bytes = parsed.ip_len();
        self.flows.count(id, Direction::Out, bytes);
        self.stats.service(service).outbound.count(bytes.into());
        self.stats.backend(slot).outbound.count(bytes.into());
        Ok(verdict)
    }

    /// A packet to a NAT port that no flow owns: a backend still talks about a flow that is gone.
    /// TCP is reset, so that the backend does not wait for its own timers.
    pub(super) fn unknown_reply<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        now: Timestamp,
    ) -> Result<Verdict, DropContext> {
        self.reject(packet, parsed, None, DropReason::UnknownReply, now)
    }

    /// The backend accepted: the time it took, and the segment size that both ends can take.
    #[inline(never)]
    fn answered_by_backend<F: Frame>(&mut self, id: FlowId, packet: &[F], parsed: &Parsed, now: Timestamp) {
        let entry = self.flows.entry(id);
        let micros = micros_since(self.flows.counters(id).created(), now);
        self.stats
            .service(ServiceSlot(entry.service_slot))
            .connect
            .observe(micros, &CONNECT_BOUNDS);
        let offered = packet
            .first()
            .and_then(|head| packet::tcp_mss_option(head.bytes(), parsed));
        let mss = match (entry.mss, offered) {
            (mss, None) => mss,
            (0, Some(offered)) => offered,
            (mss, Some(offered)) => mss.min(offered),
        };
        self.flows.entry_mut(id).mss = mss;
    }
}
