//! Fragmented datagrams: only the first fragment has ports, the others follow its flow.
//!
//! All fragments of a datagram meet at one worker, its tracker, which learns the ports from the first one. Others that
//! came before wait for it. The tracker hands them on to the worker that owns the flow; that one learns the ports too.
//! The datagram is not reassembled. One whose fragments overlap is dropped from there on (RFC 5722, RFC 8200 section
//! 4.5): whoever reassembles it never gets what the balancer has not seen. Where the first fragment was dropped, the rest
//! is dropped too, and all of them go to one host: else the next flow of a NAT port would get fragments of the one before.

mod coverage;
mod lists;
mod slab;
mod table;
#[cfg(test)]
mod tests;

use vl3lb_common::hash::{OwnerKey, reduce};
use vl3lb_common::{DropReason, Protocol, Timestamp};

use crate::packet::{self, Parsed, Transport};
use crate::pipeline::batch::Prepared;
use crate::pipeline::classify::Class;
use crate::pipeline::lookup::{Found, Lookup, find};
use crate::pipeline::reject::DropContext;
use crate::pipeline::tuple::Tuple;
use crate::pipeline::{Context, Engine, Origin, Verdict};
use crate::port::Frame;

pub(in crate::pipeline) use table::FragmentTable;
use table::{Course, Key, Piece, Tracked, Translated};
pub(crate) use table::{Release, Ticket};

impl Key {
    /// The worker where the fragments of this datagram meet. The steer program computes the same.
    fn tracker(&self, workers: u16, owner_key: &OwnerKey) -> u16 {
        let [a, b, c, d] = self.id.to_be_bytes();
        let hash = owner_key.hash(
            &self.source,
            u16::from_be_bytes([a, b]),
            u16::from_be_bytes([c, d]),
            self.protocol,
        );
        u16::try_from(reduce(hash, u32::from(workers))).unwrap_or(0)
    }
}

/// Whether a fragment is new, or has waited for the first one of its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pipeline) enum Arrival {
    New,
    Waited,
}

impl Engine {
    /// Decides about a packet with the verdict [`Verdict::Wait`] whose ticket was released.
    pub fn resume<F: Frame>(&mut self, packet: &mut [F], origin: Origin, now: Timestamp) -> Verdict {
        let mut prepared = Prepared::EMPTY;
        prepared.classify(&self.policy, self.tables.flows.table(), packet);
        if self.capture.is_active() {
            return self.resume_captured(packet, &prepared, now, |engine, packet| {
                engine.decide_waited(packet, &prepared, origin, now)
            });
        }
        self.decide_waited(packet, &prepared, origin, now)
    }

    fn decide_waited<F: Frame>(
        &mut self,
        packet: &mut [F],
        prepared: &Prepared,
        origin: Origin,
        now: Timestamp,
    ) -> Verdict {
        let &Class::SlowPath { local } = &prepared.class else {
            return self.decide(packet, prepared, origin, now);
        };
        let parsed = &prepared.parsed;
        self.slow_path(packet, parsed, local, Arrival::Waited, origin, now)
            .unwrap_or_else(|context| self.drop_packet(packet, parsed, context, now))
    }

    /// The next packets with the verdict [`Verdict::Wait`] that need not wait any longer; call it until there are none,
    /// after each burst and each sweep.
    #[inline]
    pub fn next_release(&mut self) -> Option<Release> {
        self.tables.fragments.next_release()
    }

    /// A fragment follows the flow of its datagram's first fragment.
    pub(super) fn fragment<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        local: u8,
        arrival: Arrival,
        origin: Origin,
        now: Timestamp,
    ) -> Result<Verdict, DropContext> {
        let (key, piece) = read(parsed, local, origin).ok_or(DropReason::Internal)?;
        let protocol = Protocol::from_number(key.protocol).ok_or(DropReason::UnsupportedProtocol)?;
        let tracker = key.tracker(self.policy.workers, &self.policy.owner_key);
        let is_tracker = tracker == self.policy.worker;
        let fragments = &mut self.tables.fragments;
        let tracked = match arrival {
            Arrival::New if origin == Origin::Queue && !is_tracker => return Ok(Verdict::Handoff(tracker)),
            Arrival::New => fragments.track(key, piece, is_tracker && !key.away, now)?,
            Arrival::Waited => fragments.resume(key, now)?,
        };
        let (ports, course) = match tracked {
            Tracked::Waiting(ticket) => {
                self.signals.stats.fragments_waited.add(1);
                return Ok(Verdict::Wait(ticket));
            }
            Tracked::Known { ports, course } => (ports, course),
        };
        let tuple = Tuple {
            protocol,
            source_port: ports.0,
            destination_port: ports.1,
            local,
        };
        let lookup = Lookup::new(
            &self.policy,
            self.tables.flows.table(),
            parsed,
            tuple,
            piece.flags,
        );
        let context = Context {
            parsed,
            lookup: &lookup,
            origin,
            now,
        };
        let is_first = piece.ports.is_some();
        // The flow of the first one has ended meanwhile, or was another worker's: this flow has nothing to do with it.
        let is_others = match course {
            Course::Translated(first) => self
                .destination(context)
                .is_some_and(|destination| destination != first.destination),
            Course::PassedOn => self.destination(context).is_some(),
            Course::Open | Course::Dropped => false,
        };
        if is_others {
            return Err(DropReason::FragmentUnmatched.into());
        }
        let verdict = self.balance(packet, context, None).inspect_err(|_| {
            if is_first {
                self.tables.fragments.set_course(key, Course::Dropped);
            }
        })?;
        if matches!(verdict, Verdict::Handoff(_) | Verdict::Overflow(_)) {
            if is_first {
                self.tables.fragments.set_course(key, Course::PassedOn);
            }
            return Ok(verdict);
        }
        let head = packet.first_mut().ok_or(DropReason::Internal)?.bytes_mut();
        let identification = if let Course::Translated(first) = course {
            first.identification
        } else {
            let (_, destination) = packet::addresses(head, parsed)?;
            let identification = self.tables.identifications.next(head, parsed, 1)?;
            let translated = Translated {
                destination,
                identification,
            };
            self.tables
                .fragments
                .set_course(key, Course::Translated(translated));
            identification
        };
        packet::set_identification(head, parsed, identification)?;
        Ok(verdict)
    }

    /// Where a packet goes by its flow at this worker, if it has one.
    fn destination(&self, context: Context<'_>) -> Option<[u8; 16]> {
        let table = self.tables.flows.table();
        match find(table, context) {
            Found::Reply(id) => Some(table.entry(id).client),
            Found::Request(id) => Some(table.endpoint(table.entry(id)).address),
            Found::Nothing(_) => {
                let local = self.local_reply_flow(context)?;
                Some(table.entry(local).client)
            }
        }
    }
}

/// A fragment and the datagram that it is part of.
fn read(parsed: &Parsed, local: u8, origin: Origin) -> Option<(Key, Piece)> {
    let Transport::Fragment {
        protocol,
        id,
        offset,
        more,
        ports,
        flags,
    } = parsed.transport
    else {
        return None;
    };
    let key = Key {
        source: parsed.source,
        local,
        protocol,
        id,
        away: origin == Origin::Overflow,
    };
    let length = u16::try_from(parsed.end() - parsed.l4()).ok()?;
    let piece = Piece {
        from: offset,
        to: offset.checked_add(length)?,
        more,
        ports,
        flags,
    };
    Some((key, piece))
}
