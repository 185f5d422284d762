//! The states of a flow, and how long it may be silent in each.

use vl3lb_common::Duration;
use vl3lb_common::flow_query::FlowState;
use vl3lb_common::stats::CloseCause;

use super::entry::Lifetime;
use crate::config::Timeouts;

/// The direction of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client to the backend.
    In,
    /// From the backend to the client.
    Out,
}

impl Direction {
    /// The other direction.
    #[inline]
    #[must_use]
    pub(crate) const fn opposite(self) -> Self {
        match self {
            Self::In => Self::Out,
            Self::Out => Self::In,
        }
    }
}

/// The state of a flow. How TCP packets change it: [`super::tcp::advance`]; SCTP packets: [`super::sctp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum State {
    /// TCP: the client's SYN was seen; SCTP: its INIT.
    Opening,
    /// TCP: the backend's SYN was seen too; the client has not confirmed it. SCTP: INIT ACK, and no COOKIE ACK yet.
    Answered,
    /// TCP and SCTP: open.
    Established,
    /// TCP: the client has sent FIN; SCTP: SHUTDOWN, and the backend may still send data.
    HalfClosedByClient,
    /// The same of the backend.
    HalfClosedByBackend,
    /// TCP: both have sent FIN, the client last; SCTP: the client has sent SHUTDOWN ACK.
    ClosingByClient,
    /// The same of the backend.
    ClosingByBackend,
    /// TCP: both have sent FIN, and the last one was acknowledged; SCTP: SHUTDOWN COMPLETE was seen.
    Finished,
    /// TCP: RST was seen; SCTP: ABORT.
    Reset,
    /// UDP: no packet from the backend yet.
    Unreplied,
    /// UDP: the backend has replied.
    Replied,
}

impl State {
    /// All states, in the order of their codes.
    pub(crate) const ALL: [Self; 11] = [
        Self::Opening,
        Self::Answered,
        Self::Established,
        Self::HalfClosedByClient,
        Self::HalfClosedByBackend,
        Self::ClosingByClient,
        Self::ClosingByBackend,
        Self::Finished,
        Self::Reset,
        Self::Unreplied,
        Self::Replied,
    ];

    /// The state with this code in an entry. Unknown codes count as [`State::Reset`], which is short.
    #[inline]
    pub(super) const fn from_code(code: u8) -> Self {
        // Not by `ALL`, which would be read from memory.
        match code {
            0 => Self::Opening,
            1 => Self::Answered,
            2 => Self::Established,
            3 => Self::HalfClosedByClient,
            4 => Self::HalfClosedByBackend,
            5 => Self::ClosingByClient,
            6 => Self::ClosingByBackend,
            7 => Self::Finished,
            9 => Self::Unreplied,
            10 => Self::Replied,
            _ => Self::Reset,
        }
    }

    /// Whether data goes in one direction at least, on a TCP or SCTP flow.
    #[inline]
    pub(crate) const fn is_open(self) -> bool {
        matches!(
            self,
            Self::Established | Self::HalfClosedByClient | Self::HalfClosedByBackend
        )
    }

    /// The state of a flow after a packet without a TCP segment: a UDP flow's, after a datagram, or any TCP
    /// flow's, after a fragment. SCTP packets change it later, by their chunks.
    #[inline]
    #[must_use]
    pub(crate) const fn after_datagram(self, direction: Direction) -> Self {
        match (self, direction) {
            (Self::Unreplied, Direction::Out) => Self::Replied,
            _ => self,
        }
    }

    /// How long a flow may be silent in this state (RFC 5382 REQ-5, RFC 7857 section 2.1, RFC 4787
    /// REQ-5). A half-closed TCP flow still carries data and is kept as an open one (RFC 6146
    /// section 3.5.2.2).
    #[inline]
    pub(crate) const fn timeout(self, timeouts: &Timeouts) -> Duration {
        match self {
            Self::Established | Self::HalfClosedByClient | Self::HalfClosedByBackend => {
                timeouts.tcp_established
            }
            Self::Opening | Self::Answered => timeouts.tcp_opening,
            Self::ClosingByClient | Self::ClosingByBackend | Self::Finished | Self::Reset => {
                timeouts.tcp_closing
            }
            Self::Unreplied | Self::Replied => timeouts.udp,
        }
    }

    /// Whether a packet that does not change the state restarts the timeout. At the end of a TCP flow it
    /// does not (RFC 6146 section 3.5.2.2).
    #[inline]
    pub(crate) const fn is_refreshed(self) -> bool {
        !matches!(
            self,
            Self::ClosingByClient | Self::ClosingByBackend | Self::Finished | Self::Reset
        )
    }

    /// Whether the flow is over, in order or by RST, and may make room for another.
    #[inline]
    pub(crate) const fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Reset)
    }

    /// The cause of the end of a flow that expires in this state.
    pub(crate) const fn close_cause(self) -> CloseCause {
        match self {
            Self::ClosingByClient | Self::ClosingByBackend | Self::Finished => CloseCause::Fin,
            Self::Reset => CloseCause::Rst,
            _ => CloseCause::Idle,
        }
    }

    /// The state as it is shown.
    pub(crate) const fn shown(self) -> FlowState {
        match self {
            Self::Opening => FlowState::Opening,
            Self::Answered | Self::Established | Self::Replied => FlowState::Established,
            Self::HalfClosedByClient | Self::HalfClosedByBackend => FlowState::HalfClosed,
            Self::ClosingByClient | Self::ClosingByBackend | Self::Finished => FlowState::Closing,
            Self::Reset => FlowState::Reset,
            Self::Unreplied => FlowState::Unreplied,
        }
    }
}

/// The timeouts of all states in the unit of deadlines: [`State::timeout`] without the conversion for
/// each packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetimes {
    by_state: [Lifetime; State::ALL.len()],
    /// By code, of states that packets refresh.
    by_code: [Option<Lifetime>; CODES],
}

/// A power of two, so that no code needs a comparison.
const CODES: usize = 16;
const _: () = assert!(State::ALL.len() <= CODES);

impl Lifetimes {
    pub(super) fn new(timeouts: &Timeouts) -> Self {
        let mut by_code = [None; CODES];
        for state in State::ALL.into_iter().filter(|state| state.is_refreshed()) {
            by_code[state as usize] = Some(state.timeout(timeouts).into());
        }
        Self {
            by_state: State::ALL.map(|state| state.timeout(timeouts).into()),
            by_code,
        }
    }

    /// How long a flow may be silent in `state`.
    #[inline]
    pub(super) const fn of(&self, state: State) -> Lifetime {
        self.by_state[state as usize]
    }

    /// The same for the state with this code in an entry, `None` if packets do not refresh it.
    #[inline(always)]
    pub(super) const fn of_code(&self, code: u8) -> Option<Lifetime> {
        self.by_code[code as usize % CODES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_its_code() {
        for state in State::ALL {
            assert_eq!(State::from_code(state as u8), state);
        }
        assert_eq!(State::from_code(200), State::Reset);
    }

    #[test]
    fn what_is_read_by_the_code_is_what_the_state_says() {
        let timeouts = Timeouts::default();
        let lifetimes = Lifetimes::new(&timeouts);
        for state in State::ALL {
            let refreshed = state.is_refreshed().then(|| lifetimes.of(state));
            assert_eq!(lifetimes.of_code(state as u8), refreshed, "{state:?}");
            assert_eq!(lifetimes.of(state), state.timeout(&timeouts).into(), "{state:?}");
        }
        assert_eq!(lifetimes.of_code(200), None);
    }

    #[test]
    fn timeouts_are_at_or_above_the_minima_of_the_rfcs() {
        let timeouts = Timeouts::default();
        for state in State::ALL {
            let seconds = state.timeout(&timeouts).as_secs();
            let minimum = match state.shown() {
                FlowState::Unreplied => 300,
                FlowState::Established if state == State::Replied => 300,
                FlowState::Established if state == State::Established => 7440,
                FlowState::HalfClosed => 7440,
                _ => 240,
            };
            assert_eq!(seconds, minimum, "{state:?}");
        }
    }

    /// RFC 7857 section 2.1: separate for opening and closing.
    #[test]
    fn each_timeout_counts_for_its_states() {
        let timeouts = Timeouts {
            tcp_established: Duration::from_secs(1),
            tcp_opening: Duration::from_secs(2),
            tcp_closing: Duration::from_secs(3),
            udp: Duration::from_secs(4),
        };
        let seconds = State::ALL.map(|state| state.timeout(&timeouts).as_secs());
        assert_eq!(seconds, [2, 2, 1, 1, 1, 3, 3, 3, 3, 4, 4]);
    }

    #[test]
    fn only_a_backends_datagram_makes_a_udp_flow_replied() {
        assert_eq!(State::Unreplied.after_datagram(Direction::In), State::Unreplied);
        assert_eq!(State::Unreplied.after_datagram(Direction::Out), State::Replied);
        assert_eq!(State::Replied.after_datagram(Direction::In), State::Replied);
    }
}
