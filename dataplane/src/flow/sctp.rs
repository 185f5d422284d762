//! The state machine of an SCTP association between one address of either end (RFC 9260 section 4), as observed between
//! them, and the verification tags that its packets are judged by (section 8.5).
//!
//! | packet | passes if | changes the state |
//! |---|---|---|
//! | INIT of the client | always: a client may have started anew (section 5.2) | no: it opens a flow if there is none, or one that is over |
//! | INIT ACK of the backend | always: it answers such an INIT | of a flow that opens |
//! | COOKIE ECHO of the client | always: its tag may be that of another INIT ACK | no |
//! | COOKIE ACK of the backend | it has the client's tag, or follows a COOKIE ECHO | to established |
//! | SHUTDOWN, SHUTDOWN ACK | it has the tag | to half-closed, to closing |
//! | SHUTDOWN COMPLETE, ABORT | it has the tag, or with the T bit that of the other direction | to closed, to reset |
//! | others | it has the tag | no |
//!
//! What does not pass is dropped: its receiver would discard it too (section 8.5), so nothing is lost, and a sender who
//! cannot see the association cannot end it.
//!
//! Only the backend knows whether a cookie is good. So the tags of a client that has started anew count from the COOKIE ACK
//! on, and a forged INIT or COOKIE ECHO changes nothing.
//!
//! While a flow opens, the backend may still have a former association from the same port, which it is closing: its SHUTDOWN
//! ACK and the answer to it pass (section 8.5.1 E).

use vl3lb_common::Timestamp;
use zerocopy::{FromBytes, IntoBytes};

use super::lifecycle::Flows;
use super::state::{Direction, State};
use super::table::FlowId;
use crate::packet::{SctpChunks, SctpPacket};

/// The verification tags of one SCTP flow, where a TCP flow has its sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes)]
#[repr(C)]
pub(crate) struct Tags {
    /// By sender: the tag of its packets, which their receiver has chosen; 0 while unknown.
    by_sender: [u32; 2],
    /// The tag of the client's COOKIE ECHO until the backend answers it; 0 for none.
    offered: u32,
}

impl Tags {
    /// Of a flow whose client's INIT has this tag.
    pub(crate) const fn of_init(initiate_tag: u32) -> Self {
        Self {
            by_sender: [0, initiate_tag],
            offered: 0,
        }
    }

    /// The tag of packets in this direction; 0 while unknown.
    pub(crate) const fn of(&self, sender: Direction) -> u32 {
        self.by_sender[sender as usize]
    }

    /// Whether a packet has the tag that its receiver has chosen, or as one that reflects it the other end's.
    const fn are_right(&self, direction: Direction, packet: &SctpPacket) -> bool {
        let own = packet.tag == self.of(direction);
        own || packet.is_reflected && packet.tag == self.of(direction.opposite())
    }

    /// Whether a packet of a flow in this state passes.
    #[must_use]
    pub(super) const fn pass(&self, state: State, direction: Direction, packet: &SctpPacket) -> bool {
        use Direction::{In, Out};
        let chunks = packet.chunks;
        let is_handshake = match direction {
            In => chunks.has(SctpChunks::INIT | SctpChunks::COOKIE_ECHO),
            Out => {
                chunks.has(SctpChunks::INIT_ACK) || chunks.has(SctpChunks::COOKIE_ACK) && self.offered != 0
            }
        };
        let is_of_former = matches!(state, State::Opening)
            && match direction {
                In => chunks.has(SctpChunks::SHUTDOWN_COMPLETE) && packet.is_reflected,
                Out => chunks.has(SctpChunks::SHUTDOWN_ACK),
            };
        is_handshake || is_of_former || packet.tag != 0 && self.are_right(direction, packet)
    }

    /// Takes in a packet that has [passed](Self::pass), and returns the state after it.
    #[must_use]
    pub(super) const fn advance(&mut self, state: State, direction: Direction, packet: &SctpPacket) -> State {
        use Direction::{In, Out};
        let chunks = packet.chunks;
        if state.is_over() {
            return state;
        }
        match direction {
            In if chunks.has(SctpChunks::INIT) => {
                match state {
                    State::Opening => *self = Self::of_init(packet.initiate_tag),
                    State::Answered => self.by_sender[Out as usize] = packet.initiate_tag,
                    _ => {}
                }
                return state;
            }
            Out if chunks.has(SctpChunks::INIT_ACK) => {
                let answers = matches!(state, State::Opening | State::Answered);
                if !answers || packet.tag != self.of(Out) {
                    return state;
                }
                self.by_sender[In as usize] = packet.initiate_tag;
                return State::Answered;
            }
            // One with the known tag is not replaced by another, which may be forged.
            In if chunks.has(SctpChunks::COOKIE_ECHO)
                && (packet.tag == self.of(In) || self.offered == 0 || self.offered != self.of(In)) =>
            {
                self.offered = packet.tag;
            }
            _ => {}
        }
        let state = match direction {
            Out if chunks.has(SctpChunks::COOKIE_ACK) => self.accept(state, packet.tag),
            _ => state,
        };
        if !self.are_right(direction, packet) {
            return state;
        }
        self.close(state, direction, chunks)
    }

    /// The backend has accepted a cookie.
    const fn accept(&mut self, state: State, tag: u32) -> State {
        let is_known = tag == self.of(Direction::Out);
        let opens = matches!(state, State::Opening | State::Answered);
        if self.offered == 0 || is_known && !opens {
            // It accepts the same one once more.
            self.offered = 0;
            return state;
        }
        self.by_sender = [self.offered, tag];
        self.offered = 0;
        State::Established
    }

    /// The state after a packet with the right tag.
    const fn close(&self, state: State, direction: Direction, chunks: SctpChunks) -> State {
        use Direction::{In, Out};
        if chunks.has(SctpChunks::ABORT) {
            return State::Reset;
        }
        if matches!(state, State::Opening | State::Answered) {
            return state;
        }
        if chunks.has(SctpChunks::SHUTDOWN_COMPLETE) {
            return State::Finished;
        }
        match (state, direction) {
            (_, In) if chunks.has(SctpChunks::SHUTDOWN_ACK) => State::ClosingByClient,
            (_, Out) if chunks.has(SctpChunks::SHUTDOWN_ACK) => State::ClosingByBackend,
            (State::Established, In) if chunks.has(SctpChunks::SHUTDOWN) => State::HalfClosedByClient,
            (State::Established, Out) if chunks.has(SctpChunks::SHUTDOWN) => State::HalfClosedByBackend,
            _ => state,
        }
    }
}

impl Flows {
    /// Whether a packet of this flow passes. Nothing changes.
    pub(crate) fn sctp_passes(&self, id: FlowId, direction: Direction, packet: &SctpPacket) -> bool {
        let entry = self.table.entry(id);
        entry.tags().pass(entry.state(), direction, packet)
    }

    /// Begins a flow's association by the INIT that has opened it.
    pub(crate) fn open_sctp(&mut self, id: FlowId, init: &SctpPacket) {
        self.table
            .entry_mut(id)
            .set_tags(Tags::of_init(init.initiate_tag));
    }

    /// Moves a flow's state machine by a packet that has passed, was sent and is counted. Returns the former state if it
    /// changed.
    pub(crate) fn advance_sctp(
        &mut self,
        id: FlowId,
        direction: Direction,
        packet: &SctpPacket,
        now: Timestamp,
    ) -> Option<State> {
        let entry = self.table.entry_mut(id);
        let (before, mut tags) = (entry.state(), entry.tags());
        let after = tags.advance(before, direction, packet);
        entry.set_tags(tags);
        if after != before {
            self.enter(id, after, direction, None, now);
            return Some(before);
        }
        if before == State::Opening && direction == Direction::In && packet.chunks.has(SctpChunks::INIT) {
            self.count_unanswered(id, now);
        }
        None
    }
}
