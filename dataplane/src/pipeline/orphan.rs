//! Connections and SCTP associations whose backend has died, or whose NAT port is the kernel's now: both ends are reset at once, though they are
//! silent. A half-open connection that made room for another one is reset at its backend only.
//!
//! The resets have the sequence numbers that the ends wait for, so they are exact (RFC 5961 section 3.2), unless a
//! segment was lost behind the balancer. An end that has missed one sends a challenge ACK, and is reset as any other that
//! sends to a flow that is gone. An ABORT has the verification tag that its receiver has chosen.

use vl3lb_common::addr::from_octets;
use vl3lb_common::next_hop::NextHop;
use vl3lb_common::{BackendState, DropReason, MacAddr, Protocol, Snapshot};

use super::policy::Policy;
use super::{Engine, emit};
use crate::flow::{Direction, HotEntry, Orphan};
use crate::packet::{self, Framing, SctpAbort, TcpReset};
use crate::port::{Frame, Port};

/// Connections whose ends are reset in one call.
const MOST: usize = 64;

impl Engine {
    /// Whether a sweep is due at once, because a backend has just died or the kernel has just got a NAT port.
    pub const fn is_urgent(&self) -> bool {
        self.urgent > 0
    }

    /// Whether resets wait for [`reset_orphans`](Self::reset_orphans).
    pub(crate) fn has_orphans(&self) -> bool {
        self.tables.flows.has_orphans()
    }

    /// Writes resets for the ends of connections whose backend has died into frames of `port`, appended to `out`; those
    /// to local clients [are local](Frame::is_local). A bounded number in each call; the rest waits for the next.
    pub fn reset_orphans<P: Port>(&mut self, port: &mut P, out: &mut Vec<P::Frame>) {
        for _ in 0..MOST {
            if !self.tables.flows.has_orphans() {
                return;
            }
            let (Some(first), Some(second)) = (port.allocate(), port.allocate()) else {
                return;
            };
            let Some(orphan) = self.tables.flows.next_orphan() else {
                return;
            };
            for (mut frame, side) in [(first, Direction::In), (second, Direction::Out)] {
                let is_sent = side == Direction::In || orphan.has_client;
                if is_sent && self.write_reset(&mut frame, &orphan, side).is_some() {
                    self.signals.stats.answers.add(1);
                    out.push(frame);
                } else {
                    port.release(frame);
                }
            }
        }
    }

    /// Writes the reset to one end of a connection, in the name of the `sender`. `None` if the way there is not known.
    fn write_reset<F: Frame>(&self, frame: &mut F, orphan: &Orphan, sender: Direction) -> Option<()> {
        let entry = &orphan.entry;
        let table = self.tables.flows.table();
        let local = table.local_address(entry.local);
        let is_local = sender == Direction::Out && table.is_local_client(entry.local);
        let (source_port, (destination, destination_port), mac) = match sender {
            Direction::In => (
                entry.nat_port,
                (orphan.backend.address, orphan.backend.port),
                self.policy.snapshot.backend(entry.backend())?.mac,
            ),
            Direction::Out => (
                entry.service_port,
                (entry.client, entry.client_port),
                client_mac(&self.policy, entry),
            ),
        };
        let is_raw = self.policy.framing == Framing::RawIp;
        let mac = mac.filter(|_| !is_raw);
        if mac.is_none() && !is_raw && !is_local {
            return None;
        }
        let written: Result<(), DropReason> = if entry.protocol == Protocol::Sctp.number() {
            // While the association opens, the backend has none, and its tag is not known.
            let tag = Some(entry.tags().of(sender)).filter(|&tag| tag != 0)?;
            let abort = SctpAbort {
                source: local,
                destination,
                source_port,
                destination_port,
                tag,
            };
            packet::write_sctp_abort(frame, self.policy.framing, &abort)
        } else {
            let reset = TcpReset {
                source: local,
                destination,
                source_port,
                destination_port,
                sequence: orphan.next(sender),
                acknowledgment: orphan.acknowledged(sender.opposite()),
            };
            packet::write_tcp_reset(frame, self.policy.framing, &reset)
        };
        written.ok()?;
        emit::address_frame(&self.policy, std::slice::from_mut(frame), mac);
        frame.set_local(is_local);
        Some(())
    }
}

/// The kernel's next hop to the client, else the neighbour that its packets came from on this attachment.
fn client_mac(policy: &Policy, entry: &HotEntry) -> Option<MacAddr> {
    match policy.snapshot.next_hops.resolve(from_octets(entry.client)) {
        NextHop::Mac(mac) => Some(mac),
        NextHop::Unresolved(_) | NextHop::NoRoute => {
            (!policy.is_of_former_attachment(entry)).then_some(MacAddr(entry.client_mac))
        }
        NextHop::Refused(_) => None,
    }
}

/// Whether a backend is down in `new` that was not in `old`. O(backends).
pub(super) fn has_died(old: &Snapshot, new: &Snapshot) -> bool {
    let is_down = |snapshot: &Snapshot, slot: usize| {
        let backend = snapshot.backend_slots.get(slot).and_then(Option::as_ref);
        backend.is_some_and(|backend| backend.state == BackendState::Down)
    };
    (0..new.backend_slots.len()).any(|slot| is_down(new, slot) && !is_down(old, slot))
}
