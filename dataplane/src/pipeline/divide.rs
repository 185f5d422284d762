//! Packets that are too long: their segments and fragments, and the identification that these have.

use vl3lb_common::{DropReason, Timestamp};

use super::reject::DropContext;
use super::{Engine, Verdict};
use crate::packet::{self, Family, Parsed};
use crate::port::{Frame, Port, packet_len};

impl Engine {
    /// Gives a translated packet that may be fragmented on its way an identification of the balancer's own.
    #[cold]
    pub(super) fn identify<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        decided: Result<Verdict, DropContext>,
    ) -> Result<Verdict, DropContext> {
        let verdict = decided?;
        let count = match verdict {
            Verdict::Transmit | Verdict::Fragment { .. } => 1,
            // Segments have numbers in a row.
            Verdict::Segment { mss } => parsed.ip_len() / u32::from(mss.max(1)) + 1,
            // The header may make one more.
            Verdict::Insert { limit, .. } => parsed.ip_len() / u32::from(limit.max(1)) + 2,
            _ => return Ok(verdict),
        };
        let head = packet.first_mut().ok_or(DropReason::Internal)?.bytes_mut();
        let identification = self.tables.identifications.next(head, parsed, count)?;
        packet::set_identification(head, parsed, identification)?;
        Ok(verdict)
    }

    /// Carries out a verdict that makes other packets of a translated one: [`Verdict::Segment`], [`Verdict::Fragment`] or
    /// [`Verdict::Insert`], with frames of `port`, appended to `out`. The packet's own frames are no longer needed then.
    pub fn make_anew<P: Port>(
        &mut self,
        verdict: Verdict,
        port: &mut P,
        packet: &[P::Frame],
        now: Timestamp,
        out: &mut Vec<P::Frame>,
    ) {
        match verdict {
            Verdict::Segment { mss } => self.segment(port, packet, mss, out),
            Verdict::Fragment { mtu } => self.fragment_packet(port, packet, mtu, out),
            Verdict::Insert { what, limit } => self.insert(port, packet, (what, limit), now, out),
            _ => self.count_drop(DropReason::Internal),
        }
    }

    /// Segments a packet with the verdict [`Verdict::Segment`] into frames of `port`, appended to `out`. The packet's
    /// own frames are no longer needed then.
    pub fn segment<P: Port>(&self, port: &mut P, packet: &[P::Frame], mss: u16, out: &mut Vec<P::Frame>) {
        let segmented = packet
            .first()
            .ok_or(DropReason::Malformed)
            .and_then(|head| packet::parse(head.bytes(), packet_len(packet), self.policy.framing))
            .and_then(|parsed| packet::segment(port, packet, &parsed, mss, out));
        match segmented {
            Ok(_) => self.signals.stats.segmented.add(1),
            Err(reason) => self.count_drop(reason),
        }
    }

    /// Fragments a packet with the verdict [`Verdict::Fragment`] into frames of `port`, appended to `out`. The packet's own
    /// frames are no longer needed then.
    pub fn fragment_packet<P: Port>(
        &mut self,
        port: &mut P,
        packet: &[P::Frame],
        mtu: u16,
        out: &mut Vec<P::Frame>,
    ) {
        match self.try_fragment(port, packet, mtu, out) {
            Ok(()) => self.signals.stats.fragmented.add(1),
            Err(reason) => self.count_drop(reason),
        }
    }

    fn try_fragment<P: Port>(
        &mut self,
        port: &mut P,
        packet: &[P::Frame],
        mtu: u16,
        out: &mut Vec<P::Frame>,
    ) -> Result<(), DropReason> {
        let head = packet.first().ok_or(DropReason::Malformed)?.bytes();
        let parsed = packet::parse(head, packet_len(packet), self.policy.framing)?;
        match parsed.family {
            Family::V4 => packet::fragment(port, packet, &parsed, mtu, out),
            // Of a local client: its kernel had no number for it.
            Family::V6 => {
                let identification = self.tables.identifications.next(head, &parsed, 1)?;
                packet::fragment_v6(port, packet, &parsed, (mtu, identification), out)
            }
        }
    }
}
