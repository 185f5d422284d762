//! The TCP state machine of a flow: RFC 6146 section 3.5.2 with the changes of RFC 7857 section 2, as
//! observed between the two ends, and judged by sequence numbers ([`Sequence`]).
//!
//! | segment | counts if | else |
//! |---|---|---|
//! | the client's first ACK | it acknowledges the backend's SYN (RFC 9293 section 3.10.7.4) | the flow stays half-open |
//! | FIN | it is in the window and knows what the other end has sent (RFC 5961 section 5) | the flow stays open |
//! | the last ACK | it acknowledges the FIN | the flow stays closing |
//! | RST | it has exactly the next sequence number (RFC 5961 section 3.2), or answers the SYN | nothing changes |
//! | SYN | the flow is half-open or over | nothing changes (RFC 5961 section 4) |
//!
//! Segments that do not count are forwarded all the same: RFC 7857 section 2.2 says so for RST, and the receiver knows
//! better. If it is one that the receiver minds, its challenge ACK makes the sender repeat the RST with the exact
//! number.
//!
//! Even a RST that counts does not end the flow at once: it is kept for a while and goes on as what it was with the
//! next segment of the end that seemed to have sent the RST. The other end's do not revive it, since they may be on
//! their way or be the challenge ACK. ICMP never changes a state (RFC 5382 REQ-10).

use super::sequence::{Fit, Sequence};
use super::state::{Direction, State};
use crate::packet::{TcpFlags, TcpSegment};

/// The state of a TCP flow after a segment, which is taken into `sequence`.
#[must_use]
pub(crate) fn advance(
    state: State,
    sequence: &mut Sequence,
    direction: Direction,
    segment: &TcpSegment,
) -> State {
    if state == State::Reset {
        return after_reset(sequence, direction, segment);
    }
    if segment.flags.rst() {
        // Many ends send RST instead of their last ACK; that flow has finished in order.
        if state == State::Finished || !resets(state, sequence, direction, segment) {
            return state;
        }
        sequence.note_reset(state, direction);
        return State::Reset;
    }
    match state {
        State::Opening => opening(sequence, direction, segment),
        State::Answered => answered(sequence, direction, segment),
        State::Established
        | State::HalfClosedByClient
        | State::HalfClosedByBackend
        | State::ClosingByClient
        | State::ClosingByBackend => open(state, sequence, direction, segment),
        State::Finished | State::Reset | State::Unreplied | State::Replied => state,
    }
}

/// Whether a client's packet with these flags begins a new connection in place of this flow, which
/// is over: the caller opens a new flow.
#[inline]
pub(crate) const fn reopens(state: State, flags: TcpFlags) -> bool {
    opens(flags)
        && matches!(
            state,
            State::ClosingByClient | State::ClosingByBackend | State::Finished | State::Reset
        )
}

/// Whether a client's packet with these flags may open a flow: SYN alone.
#[inline]
pub(crate) const fn opens(flags: TcpFlags) -> bool {
    flags.0 & (TcpFlags::SYN | TcpFlags::ACK | TcpFlags::RST | TcpFlags::FIN) == TcpFlags::SYN
}

/// The backend has not answered yet.
const fn opening(sequence: &mut Sequence, direction: Direction, segment: &TcpSegment) -> State {
    match direction {
        // With ACK or without: in a simultaneous open both ends send a bare SYN.
        Direction::Out if segment.flags.syn() => {
            sequence.answer(segment);
            State::Answered
        }
        // Perhaps of a client that has started anew.
        Direction::In if opens(segment.flags) => {
            sequence.open(segment);
            State::Opening
        }
        _ => State::Opening,
    }
}

/// The client has not confirmed yet that it got the backend's SYN. Until then the flow is not kept for longer:
/// SYNs with forged sources would fill the table.
fn answered(sequence: &mut Sequence, direction: Direction, segment: &TcpSegment) -> State {
    match direction {
        Direction::Out => {
            if segment.flags.syn() {
                sequence.answer(segment);
            } else {
                sequence.send_early(segment);
            }
            State::Answered
        }
        Direction::In if sequence.confirm(segment) => match (segment.flags.fin(), sequence.is_early_fin()) {
            (false, false) => State::Established,
            (true, false) => State::HalfClosedByClient,
            (false, true) => State::HalfClosedByBackend,
            (true, true) => State::ClosingByClient,
        },
        Direction::In => State::Answered,
    }
}

/// The connection is open, or its ends are closing it.
fn open(state: State, sequence: &mut Sequence, direction: Direction, segment: &TcpSegment) -> State {
    use Direction::{In, Out};
    if segment.flags.syn() {
        return state;
    }
    let fit = sequence.judge(direction, segment);
    if fit == Fit::Outside {
        return state;
    }
    sequence.follow(fit, direction, segment);
    if state.is_open() {
        sequence.catch_up(fit, direction, segment);
    }
    // One that was seen before changes nothing, in whatever order they come.
    let fin = segment.flags.fin() && segment.end() == sequence.end(direction);
    match (state, direction) {
        (State::Established, In) if fin => State::HalfClosedByClient,
        (State::Established, Out) if fin => State::HalfClosedByBackend,
        (State::HalfClosedByClient, Out) if fin => State::ClosingByBackend,
        (State::HalfClosedByBackend, In) if fin => State::ClosingByClient,
        (State::ClosingByBackend, In) | (State::ClosingByClient, Out)
            if sequence.acknowledges_all(direction, segment) =>
        {
            State::Finished
        }
        _ => state,
    }
}

/// Whether a RST ends the connection at its receiver.
const fn resets(state: State, sequence: &Sequence, direction: Direction, rst: &TcpSegment) -> bool {
    let is_next = rst.sequence == sequence.end(direction);
    match (state, direction) {
        // The client knows no sequence number of the backend yet, but its own.
        (State::Opening, Direction::Out) => sequence.acknowledges_syn(rst),
        // It may still be in the same state.
        (State::Answered, Direction::Out) => is_next || sequence.acknowledges_all(direction, rst),
        _ => is_next,
    }
}

/// A reset flow advances what it was, and goes on as that.
fn after_reset(sequence: &mut Sequence, direction: Direction, segment: &TcpSegment) -> State {
    let (former, by) = sequence.reset();
    // The caller opens a new flow for a SYN that may; see `reopens`.
    if segment.flags.rst() || (direction == Direction::In && opens(segment.flags)) {
        return State::Reset;
    }
    let fits = sequence.judge(direction, segment) != Fit::Outside;
    let next = advance(former, sequence, direction, segment);
    let is_alive = match former {
        State::Opening | State::Answered => next != former,
        _ => fits,
    };
    if direction == by && is_alive {
        return next;
    }
    sequence.note_reset(next, by);
    State::Reset
}
