//! The TCP state machine of a flow: RFC 6146 section 3.5.2 with the changes of RFC 7857 section 2, as
//! observed between the two ends.
//!
//! It depends on flags only. A forged RST therefore shortens a flow's timeout but does not end it: the
//! flow is kept, and the next packet of either end restores it (RFC 7857 section 2.2). ICMP
//! never changes a state (RFC 5382 REQ-10).

use super::state::{Direction, State};

/// Flags of the TCP header (RFC 9293 section 3.1), as in its 14th byte.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// The state of a TCP flow after a packet with these flags.
#[inline]
#[must_use]
pub const fn advance(state: State, direction: Direction, flags: u8) -> State {
    use Direction::{In, Out};
    let (fin, syn, ack) = (flags & FIN != 0, flags & SYN != 0, flags & ACK != 0);
    if flags & (FIN | SYN | RST | ACK) == 0 {
        // Of no segment: a fragment other than the first one.
        return state;
    }
    if flags & RST != 0 {
        // Many ends send RST instead of their last ACK; that flow has finished in order.
        return match state {
            State::Finished => State::Finished,
            _ => State::Reset,
        };
    }
    match (state, direction) {
        // With ACK or without: in a simultaneous open both ends send a bare SYN.
        (State::Opening, Out) if syn => State::Answered,
        (State::Answered | State::Established, In) if fin => State::HalfClosedByClient,
        (State::Answered | State::Established, Out) if fin => State::HalfClosedByBackend,
        // Not before the client has confirmed: otherwise SYNs with forged sources would fill the table
        // with flows that are kept for hours.
        (State::Answered, In) if ack => State::Established,
        (State::HalfClosedByClient, Out) if fin => State::ClosingByBackend,
        (State::HalfClosedByBackend, In) if fin => State::ClosingByClient,
        (State::ClosingByBackend, In) | (State::ClosingByClient, Out) if ack && !fin => State::Finished,
        // The backend's SYN-ACK crossed the client's RST.
        (State::Reset, Out) if syn => State::Answered,
        // The caller opens a new flow instead; see `reopens`.
        (State::Reset, In) if syn => State::Reset,
        (State::Reset, _) => advance(State::Established, direction, flags),
        _ => state,
    }
}

/// Whether a client's packet with these flags begins a new connection in place of this flow, which
/// is over: the caller opens a new flow.
#[inline]
pub const fn reopens(state: State, flags: u8) -> bool {
    opens(flags)
        && matches!(
            state,
            State::ClosingByClient | State::ClosingByBackend | State::Finished | State::Reset
        )
}

/// Whether a client's packet with these flags may open a flow: SYN alone.
#[inline]
pub const fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{In, Out};
    use State::*;

    /// Plays packets on a flow that has just been opened by a SYN.
    fn play(packets: &[(Direction, u8)]) -> State {
        packets.iter().fold(Opening, |state, &(direction, flags)| {
            advance(state, direction, flags)
        })
    }

    const OPEN: [(Direction, u8); 2] = [(Out, SYN | ACK), (In, ACK)];

    #[test]
    fn conversations_end_where_they_should() {
        let after_open = |rest: &[(Direction, u8)]| play(&[&OPEN, rest].concat());
        let rows = [
            ("SYN", play(&[]), Opening),
            ("SYN again", play(&[(In, SYN)]), Opening),
            ("SYN-ACK", play(&OPEN[..1]), Answered),
            ("SYN-ACK twice", play(&[OPEN[0], OPEN[0]]), Answered),
            ("SYN after its SYN-ACK", play(&[OPEN[0], (In, SYN)]), Answered),
            ("handshake", play(&OPEN), Established),
            (
                "simultaneous open",
                play(&[(Out, SYN), (In, SYN | ACK)]),
                Established,
            ),
            ("no SYN-ACK, then data of the client", play(&[(In, ACK)]), Opening),
            ("ACK of an older connection", play(&[(Out, ACK)]), Opening),
            ("refused", play(&[(Out, RST | ACK)]), Reset),
            ("data", after_open(&[(In, ACK), (Out, ACK)]), Established),
            (
                "client closes",
                after_open(&[(In, FIN | ACK)]),
                HalfClosedByClient,
            ),
            (
                "backend closes",
                after_open(&[(Out, FIN | ACK)]),
                HalfClosedByBackend,
            ),
            (
                "data after FIN",
                after_open(&[(In, FIN | ACK), (Out, ACK), (In, ACK)]),
                HalfClosedByClient,
            ),
            (
                "FIN again",
                after_open(&[(Out, FIN | ACK), (Out, FIN | ACK)]),
                HalfClosedByBackend,
            ),
            (
                "both close",
                after_open(&[(In, FIN | ACK), (Out, FIN | ACK)]),
                ClosingByBackend,
            ),
            (
                "both close, client last",
                after_open(&[(Out, FIN | ACK), (In, FIN | ACK)]),
                ClosingByClient,
            ),
            (
                "last FIN again",
                after_open(&[(In, FIN | ACK), (Out, FIN | ACK), (Out, FIN | ACK)]),
                ClosingByBackend,
            ),
            (
                "first FIN again",
                after_open(&[(In, FIN | ACK), (Out, FIN | ACK), (In, FIN | ACK)]),
                ClosingByBackend,
            ),
            (
                "finished",
                after_open(&[(In, FIN | ACK), (Out, FIN | ACK), (In, ACK)]),
                Finished,
            ),
            (
                "finished, client last",
                after_open(&[(Out, FIN | ACK), (In, FIN | ACK), (Out, ACK)]),
                Finished,
            ),
            (
                "RST at the end",
                after_open(&[(In, FIN | ACK), (Out, FIN | ACK), (In, ACK), (In, RST)]),
                Finished,
            ),
            (
                "RST instead of the last ACK",
                after_open(&[(In, FIN | ACK), (Out, FIN | ACK), (In, RST)]),
                Reset,
            ),
            ("RST of the client", after_open(&[(In, RST)]), Reset),
            ("RST of the backend", after_open(&[(Out, RST | ACK)]), Reset),
            ("RST with SYN", after_open(&[(In, RST | SYN)]), Reset),
            (
                "forged RST, then data of the client",
                after_open(&[(Out, RST), (In, ACK)]),
                Established,
            ),
            (
                "forged RST, then data of the backend",
                after_open(&[(In, RST), (Out, ACK)]),
                Established,
            ),
            (
                "forged RST, then FIN",
                after_open(&[(In, RST), (In, FIN | ACK)]),
                HalfClosedByClient,
            ),
            (
                "RST crosses the SYN-ACK",
                play(&[(In, RST), (Out, SYN | ACK)]),
                Answered,
            ),
            ("SYN after RST", after_open(&[(In, RST), (In, SYN)]), Reset),
            ("SYN on an open flow", after_open(&[(In, SYN)]), Established),
            (
                "backend closes before the handshake is complete",
                play(&[OPEN[0], (Out, FIN | ACK)]),
                HalfClosedByBackend,
            ),
            (
                "client closes with its first ACK",
                play(&[OPEN[0], (In, FIN | ACK)]),
                HalfClosedByClient,
            ),
        ];
        for (conversation, state, expected) in rows {
            assert_eq!(state, expected, "{conversation}");
        }
    }

    #[test]
    fn only_a_bare_syn_on_a_flow_that_is_over_begins_a_new_one() {
        for state in State::ALL {
            let over = matches!(state, ClosingByClient | ClosingByBackend | Finished | Reset);
            assert_eq!(reopens(state, SYN), over, "{state:?}");
            for flags in [SYN | ACK, SYN | RST, SYN | FIN, ACK, FIN | ACK, RST, 0] {
                assert!(!reopens(state, flags), "{state:?} {flags:#x}");
            }
        }
        // ECN set-up (RFC 3168 section 6.1.1) is a SYN with ECE and CWR.
        assert!(reopens(Finished, SYN | 0xc0));
    }

    #[test]
    fn no_flags_lead_out_of_tcp() {
        let is_udp = |state| matches!(state, Unreplied | Replied);
        for state in State::ALL.into_iter().filter(|state| !is_udp(*state)) {
            for flags in 0..=u8::MAX {
                for direction in [In, Out] {
                    let next = advance(state, direction, flags);
                    assert!(!is_udp(next), "{state:?} {flags:#x}");
                }
            }
        }
    }
}
