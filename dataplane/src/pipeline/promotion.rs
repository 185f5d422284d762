//! Flows that the in-kernel path takes over, and those that it has to give back.
//!
//! A flow is promoted between two bursts, when the packets that it had before have been sent: a later packet
//! hardly overtakes one of them. With a new snapshot all promoted flows are reviewed before the control side relies on
//! it, so the program never uses what the snapshot lacks.

use std::sync::Arc;

use vl3lb_common::{Duration, Timestamp};

use super::Engine;
use super::capture::Capturing;
use super::policy::Policy;
use super::{next_hop, size};
use crate::fastpath::{FastMemory, FastTable, Hop};
use crate::flow::{FlowId, FlowTable};
use crate::packet::Framing;

/// Flows promoted in one round at most: some 20 us.
const PROMOTIONS: usize = 64;
/// A worker that has too much to do for so long promotes flows although packets of theirs wait: it would never get rid of
/// them otherwise, and a few packets out of order do less harm.
const LONGEST_WAIT: Duration = Duration::from_millis(2);
/// Promoted flows whose counters are read in one round: some 50 us.
const FOLDED: usize = 512;
/// Time between two readings of the counters of all promoted flows.
pub(crate) const FOLD_INTERVAL: Duration = Duration::from_millis(500);

impl Engine {
    /// Begins to use the shared arrays of an attachment, or ends that (`None`), which waits until no program uses the
    /// flows of the former ones. `after` packets in a direction promote a flow.
    pub(crate) fn set_fast_path(&mut self, memory: Option<&Arc<FastMemory>>, after: u32) {
        let policy = &self.policy;
        let flows = &mut self.tables.flows;
        let table = memory.map(|memory| {
            FastTable::new(
                Arc::clone(memory),
                policy.owner_key,
                (policy.worker, policy.workers),
                flows.table().capacity(),
            )
        });
        flows.set_fast_path(table, after);
    }

    /// Timed work for the in-kernel path: promotes flows if `is_drained` (all packets that arrived were sent), or if that
    /// was not so for [`LONGEST_WAIT`]; frees what was taken back, and takes in counters twice a second.
    pub(crate) fn tend_fast_path(&mut self, now: Timestamp, is_drained: bool) {
        let flows = &mut self.tables.flows;
        flows.finish_quiet();
        if is_drained {
            self.drained_at = now;
        }
        if is_drained || now.since(self.drained_at) >= LONGEST_WAIT {
            for _ in 0..PROMOTIONS {
                let Some(id) = flows.next_candidate() else { break };
                if let Some(hops) = hops(&self.policy, &self.capture, flows.table(), id) {
                    flows.promote(id, &hops);
                }
            }
        }
        if (self.folding || now >= self.fold_due) && flows.fast_len() > 0 {
            self.folding = !flows.fold_next(FOLDED);
            self.fold_due = now + FOLD_INTERVAL;
        } else {
            self.folding = false;
        }
    }

    /// Whether [`tend_fast_path`](Self::tend_fast_path) is to be called again at once.
    pub(crate) const fn is_folding(&self) -> bool {
        self.folding
    }

    /// Whether the in-kernel path has flows, whose counters are to be read.
    pub(crate) fn has_fast_flows(&self) -> bool {
        self.tables.flows.fast_len() > 0
    }

    /// Brings all promoted flows in line with the snapshot in use, or takes them back. O(promoted flows).
    pub(super) fn review_fast_path(&mut self) {
        let (policy, capture, flows) = (&self.policy, &self.capture, &mut self.tables.flows);
        let mut place = 0;
        while let Some(id) = flows.fast_flow_at(place) {
            let is_reachable = next_hop::refresh_client(policy, flows, &self.signals, id).is_ok();
            match hops(policy, capture, flows.table(), id).filter(|_| is_reachable) {
                Some(hops) => flows.set_fast_hops(id, &hops),
                None => flows.demote(id),
            }
            if flows.is_fast(id) {
                place += 1;
            }
        }
    }
}

/// Where a flow's packets go by the snapshot in use, by direction; `None` if its worker has to see them.
///
/// The one condition for a flow to be in the in-kernel path, asked at its promotion and again by
/// [`Engine::review_fast_path`], which takes back flows that do not meet it any more. Whatever else needs all packets of a
/// flow, such as a capture, is a condition here, followed by a review.
fn hops(policy: &Policy, capture: &Capturing, table: &FlowTable, id: FlowId) -> Option<[Hop; 2]> {
    let entry = table.entry(id);
    // The program neither renumbers nor adds anything, nor does it copy packets.
    if entry.carries_address() || capture.wants(policy, table, entry) {
        return None;
    }
    let backend = policy.usable_backend(entry).ok()?;
    policy.service(backend.service)?;
    if table.is_departed(entry.local) || table.is_local_client(entry.local) {
        return None;
    }
    let mut hops = [&table.endpoint(entry).address, &entry.client].map(|destination| Hop {
        mtu: size::mtu_towards(policy, destination),
        ..Hop::default()
    });
    if policy.framing == Framing::Ethernet {
        if !policy.is_hop_current(entry) {
            return None;
        }
        hops[0].mac = backend.mac?;
        hops[1].mac = vl3lb_common::MacAddr(entry.client_mac);
        hops[1].is_learned = entry.is_client_mac_learned();
    }
    Some(hops)
}
