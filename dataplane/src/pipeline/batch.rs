//! Batched lookup: prefetching overlaps the cache misses of a group.
//!
//! With many flows the table is larger than the processor's caches, and a packet that waits for its index bucket and
//! then for its flow's entry spends most of its time waiting. So the packets of a group go through three passes: parse
//! all and prefetch their buckets; read all buckets and prefetch their entries, or what their opening needs
//! ([`super::early_selection`]); decide about all, in order. What the first two passes find is a hint only: an earlier
//! packet of the group may open or end the flow.

use vl3lb_common::{DropReason, Timestamp};

use super::classify::Class;
use super::early_selection::EarlySelection;
use super::lookup::Lookup;
use super::policy::Policy;
use super::{Engine, Origin, Verdict, early_selection};
use crate::flow::FlowTable;
use crate::packet::Parsed;
use crate::port::{Frame, packet_frames};

/// Packets of a group. Enough that their cache misses overlap; 64 measured the same.
pub(super) const GROUP: usize = 32;

/// A packet before its flow is looked up. It is filled in place, see [`crate::packet::parse_into`].
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) parsed: Parsed,
    /// How many frames it has.
    pub(super) frames: usize,
    pub(super) class: Class,
    /// Of a packet of the class [`Class::Flow`]; of others it means nothing. Inside of the class it would be made
    /// elsewhere and copied.
    pub(super) lookup: Lookup,
    /// For a packet that seemed to have no flow.
    pub(super) early: Option<EarlySelection>,
}

impl Prepared {
    pub(super) const EMPTY: Self = Self {
        parsed: Parsed::EMPTY,
        frames: 0,
        class: Class::Drop(DropReason::Internal),
        lookup: Lookup::EMPTY,
        early: None,
    };
}

impl Engine {
    /// Decides about all packets of `burst`, in order, and translates them in place; `verdicts` gets one of each, with
    /// the number of its frames. The same as [`forward`](Self::forward) for each packet, but several times as fast with
    /// many flows; NAT ports are drawn in another order.
    #[inline(never)] // One call for many packets; profilers and `vl3-perf instructions` find it by its name.
    pub fn forward_burst<F: Frame>(
        &mut self,
        burst: &mut [F],
        origin: Origin,
        now: Timestamp,
        verdicts: &mut Vec<(Verdict, usize)>,
    ) {
        if self.capture.is_active() {
            return self.forward_captured(burst, origin, now, verdicts);
        }
        let mut group = std::mem::take(&mut self.group);
        let mut rest = burst;
        while !rest.is_empty() {
            let (packets, unknown) = prepare(&self.policy, self.tables.flows.table(), rest, &mut group);
            // Under overload most of them get no flow.
            if unknown && !self.tables.overload.is_active() {
                early_selection::select(&self.policy, &mut self.tables, &mut group[..packets]);
            }
            for prepared in &group[..packets] {
                if prepared.frames == 1
                    && let Some(frame) = rest.first_mut()
                    && self.forward_plain::<false, F>(frame, prepared, now)
                {
                    verdicts.push((Verdict::Transmit, 1));
                    rest = &mut rest[1..];
                    continue;
                }
                let (packet, after) = rest.split_at_mut(prepared.frames);
                rest = after;
                let verdict = self.decide_at_length(packet, prepared, origin, now);
                verdicts.push((verdict, prepared.frames));
            }
        }
        self.group = group;
    }

    /// Kept out of the code of packets that take the short way.
    #[inline(never)]
    pub(super) fn decide_at_length<F: Frame>(
        &mut self,
        packet: &mut [F],
        prepared: &Prepared,
        origin: Origin,
        now: Timestamp,
    ) -> Verdict {
        self.decide(packet, prepared, origin, now)
    }
}

/// The first two passes over the first packets of `frames`, as many as `group` has room for. Returns their number, and
/// whether any of them has no flow.
///
/// A separate function, because references in its arguments cannot alias: tables and policy are read once for all packets.
#[inline(never)]
pub(super) fn prepare<F: Frame>(
    policy: &Policy,
    table: &FlowTable,
    frames: &[F],
    group: &mut [Prepared],
) -> (usize, bool) {
    let mut rest = frames;
    let mut packets = 0;
    for prepared in group.iter_mut() {
        if rest.is_empty() {
            break;
        }
        let (packet, after) = rest.split_at(packet_frames(rest));
        prepared.classify(policy, table, packet);
        if let Class::Flow = prepared.class {
            table.prefetch_index(&prepared.lookup.probe);
        }
        packets += 1;
        rest = after;
    }
    let mut unknown = false;
    for prepared in &mut group[..packets] {
        if let Class::Flow = prepared.class {
            unknown |= table.prefetch_flow(&mut prepared.lookup.probe);
        }
    }
    (packets, unknown)
}
