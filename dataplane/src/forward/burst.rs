//! Many packets at once, so that memory is waited for once and not for each of them.
//!
//! With many flows the table is larger than the processor's caches, and a packet that waits for its
//! index bucket and then for its flow's entry spends most of its time waiting. So the packets of a
//! group are looked at together in three steps: parse all and ask for their buckets; read all
//! buckets and ask for their entries; decide about all, in order. What was found out early is a
//! hint only: an earlier packet of the group may have opened or closed the flow meanwhile.

use vl3lb_common::{DropReason, Timestamp};

use super::{Engine, Origin, Tuple, Verdict};
use crate::flow::Probe;
use crate::packet::{self, Parsed};
use crate::port::{Frame, packet_frames, packet_len};

/// Packets looked at together. Enough that what they need comes from memory at the same time; 64
/// measured the same.
pub(super) const GROUP: usize = 32;

/// A packet that was parsed.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) parsed: Parsed,
    /// How many frames it has.
    frames: usize,
    /// The index of the own address that it is sent to.
    pub(super) local: u8,
    /// Where its flow is looked for; `None` for ICMP messages and fragments.
    pub(super) probe: Option<Probe>,
}

impl Engine {
    /// Decides about all packets of `burst`, in order, and translates them in place; `verdicts` gets
    /// one of each, with the number of its frames. The same as [`forward`](Self::forward) for each
    /// packet, but several times as fast with many flows.
    #[inline(never)] // One call for many packets; profilers and `vl3-perf instructions` find it by its name.
    pub fn forward_burst<F: Frame>(
        &mut self,
        burst: &mut [F],
        origin: Origin,
        now: Timestamp,
        verdicts: &mut Vec<(Verdict, usize)>,
    ) {
        let mut group = std::mem::take(&mut self.group);
        let mut rest = burst;
        while !rest.is_empty() {
            self.prepare_group(rest, &mut group);
            for prepared in &group {
                let frames = match prepared {
                    Ok(prepared) => prepared.frames,
                    Err(_) => packet_frames(rest),
                };
                let (packet, after) = rest.split_at_mut(frames);
                let verdict = match prepared {
                    Ok(prepared) => self.decide(packet, prepared, origin, now),
                    Err(reason) => self.refused((*reason).into()),
                };
                verdicts.push((verdict, frames));
                rest = after;
            }
        }
        self.group = group;
    }

    /// Looks at the first packets of `frames`, at least one.
    #[inline]
    fn prepare_group<F: Frame>(&self, frames: &[F], group: &mut Vec<Result<Prepared, DropReason>>) {
        let mut rest = frames;
        group.clear();
        while group.len() < GROUP && !rest.is_empty() {
            let (packet, after) = rest.split_at(packet_frames(rest));
            let prepared = self.prepare(packet);
            if let Ok(Prepared {
                probe: Some(probe), ..
            }) = &prepared
            {
                self.flows.prefetch_index(probe);
            }
            group.push(prepared);
            rest = after;
        }
        for prepared in group {
            if let Ok(Prepared {
                probe: Some(probe), ..
            }) = prepared
            {
                self.flows.prefetch_flow(probe);
            }
        }
    }

    /// What can be said of a packet before any flow is looked at.
    #[inline(always)]
    pub(super) fn prepare<F: Frame>(&self, packet: &[F]) -> Result<Prepared, DropReason> {
        let head = packet.first().ok_or(DropReason::Malformed)?.bytes();
        let parsed = packet::parse(head, packet_len(packet), self.framing)?;
        let local = self.local(&parsed)?;
        let probe = Tuple::of(&parsed, local).map(|(tuple, _)| self.probe(&parsed, tuple));
        Ok(Prepared {
            parsed,
            frames: packet.len(),
            local,
            probe,
        })
    }

    /// Where a TCP or UDP packet's flow is looked for: by its reply key if it is sent to a NAT port of
    /// this worker, else by its request key.
    #[inline(always)]
    pub(super) fn probe(&self, parsed: &Parsed, tuple: Tuple) -> Probe {
        if self.nat_owner(tuple) == Some(self.worker) {
            self.flows.reply_probe(&tuple.reply_key(parsed))
        } else {
            self.flows.request_probe(&tuple.request_key(parsed.source))
        }
    }
}
