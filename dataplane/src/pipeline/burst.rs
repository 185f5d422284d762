//! Many packets at once, so that memory is waited for once and not for each of them.
//!
//! With many flows the table is larger than the processor's caches, and a packet that waits for its
//! index bucket and then for its flow's entry spends most of its time waiting. So the packets of a
//! group are looked at together in three steps: parse all and ask for their buckets; read all
//! buckets and ask for their entries, or for what their opening needs ([`super::early_selection`]);
//! decide about all, in order. What was found out early is a hint only: an earlier packet of the
//! group may have opened or closed the flow meanwhile.

use vl3lb_common::{DropReason, Timestamp};

use super::early_selection::EarlySelection;
use super::tuple::Tuple;
use super::{Engine, Origin, Verdict};
use crate::flow::Probe;
use crate::packet::{self, Parsed, TcpFlags};
use crate::port::{Frame, packet_frames, packet_len};

/// Packets looked at together. Enough that what they need comes from memory at the same time; 64
/// measured the same.
pub(super) const GROUP: usize = 32;

/// What is known of a packet before any flow is looked at. It is filled where it stays, see
/// [`packet::parse_into`].
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) parsed: Parsed,
    /// How many frames it has.
    frames: usize,
    pub(super) subject: Subject,
    /// For a packet that seemed to have no flow.
    pub(super) early: Option<EarlySelection>,
}

/// What a packet is about.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    /// A flow, or one to be opened: a TCP or UDP packet with its ports.
    Flow(Lookup),
    /// An ICMP message or a fragment, sent to the own address with this index.
    SlowPath { local: u8 },
    /// Nothing that is forwarded.
    Drop(DropReason),
}

/// Which flow a packet belongs to.
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    pub(super) tuple: Tuple,
    /// None for UDP.
    pub(super) flags: TcpFlags,
    /// The worker whose NAT port it is sent to, if it is one.
    pub(super) nat_owner: Option<u16>,
    /// Where the flow is looked for: by its reply key if the NAT port is this worker's, else by its
    /// request key.
    pub(super) probe: Probe,
}

impl Prepared {
    pub(super) const EMPTY: Self = Self {
        parsed: Parsed::EMPTY,
        frames: 0,
        subject: Subject::Drop(DropReason::Internal),
        early: None,
    };
}

impl Engine {
    /// Decides about all packets of `burst`, in order, and translates them in place; `verdicts` gets
    /// one of each, with the number of its frames. The same as [`forward`](Self::forward) for each
    /// packet, but several times as fast with many flows; NAT ports are drawn in another order.
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
            let (packets, unknown) = self.prepare_group(rest, &mut group);
            if unknown {
                self.select_early(&mut group[..packets]);
            }
            for prepared in &group[..packets] {
                let (packet, after) = rest.split_at_mut(prepared.frames);
                let verdict = self.decide(packet, prepared, origin, now);
                verdicts.push((verdict, prepared.frames));
                rest = after;
            }
        }
        self.group = group;
    }

    /// Looks at the first packets of `frames`, as many as `group` has room for. Says how many these are,
    /// and whether any has no flow.
    #[inline]
    fn prepare_group<F: Frame>(&self, frames: &[F], group: &mut [Prepared]) -> (usize, bool) {
        let mut rest = frames;
        let mut packets = 0;
        for prepared in group.iter_mut() {
            if rest.is_empty() {
                break;
            }
            let (packet, after) = rest.split_at(packet_frames(rest));
            self.prepare(packet, prepared);
            if let Subject::Flow(lookup) = &prepared.subject {
                self.flows.prefetch_index(&lookup.probe);
            }
            packets += 1;
            rest = after;
        }
        let mut unknown = false;
        for prepared in &mut group[..packets] {
            if let Subject::Flow(lookup) = &mut prepared.subject {
                unknown |= self.flows.prefetch_flow(&mut lookup.probe);
            }
        }
        (packets, unknown)
    }

    /// Says what a packet is about, before any flow is looked at.
    #[inline(always)]
    pub(super) fn prepare<F: Frame>(&self, packet: &[F], prepared: &mut Prepared) {
        prepared.frames = packet.len();
        prepared.early = None;
        if let Err(reason) = self.find_subject(packet, prepared) {
            prepared.subject = Subject::Drop(reason);
        }
    }

    #[inline(always)]
    fn find_subject<F: Frame>(&self, packet: &[F], prepared: &mut Prepared) -> Result<(), DropReason> {
        let parsed = &mut prepared.parsed;
        let head = packet.first().ok_or(DropReason::Malformed)?.bytes();
        packet::parse_into(parsed, head, packet_len(packet), self.framing)?;
        let local = self.local(parsed)?;
        prepared.subject = match Tuple::of(parsed, local) {
            Some((tuple, flags)) => Subject::Flow(self.lookup(parsed, tuple, flags)),
            None => Subject::SlowPath { local },
        };
        Ok(())
    }

    /// Where the flow of a packet with these ports is looked for.
    #[inline(always)]
    pub(super) fn lookup(&self, parsed: &Parsed, tuple: Tuple, flags: TcpFlags) -> Lookup {
        let nat_owner = self.nat_owner(tuple);
        let probe = if nat_owner == Some(self.worker) {
            self.flows.reply_probe(&tuple.reply_key(parsed.source))
        } else {
            self.flows.request_probe(&tuple.request_key(parsed.source))
        };
        Lookup {
            tuple,
            flags,
            nat_owner,
            probe,
        }
    }
}
