//! How long flows live, on a virtual clock (RFC 4787 REQ-5 and 6, RFC 5382 REQ-5, RFC 7857
//! section 2).

use super::*;

/// A flow in `state` at second 0, and the second of its last sign of life.
struct Life {
    table: FlowTable,
    id: FlowId,
    request: RequestKey,
    reply: ReplyKey,
}

impl Life {
    fn new(state: State) -> Self {
        let mut table = FlowTable::new(1, PORTS, SEED).unwrap();
        let new = NewFlow {
            state,
            timeout: state.timeout(&Timeouts::default()),
            ..new_flow(1, 1)
        };
        let id = open(&mut table, &new, at(0)).id;
        let reply = table.reply_key(table.entry(id));
        Self {
            table,
            id,
            request: request_key(&new),
            reply,
        }
    }

    fn lives(&self, second: u64) -> bool {
        let request = self.table.request(&self.request, at(second));
        assert_eq!(request, self.table.reply(&self.reply, at(second)));
        request.is_some()
    }

    fn packet(&mut self, second: u64, state: State) {
        let timeout = state.timeout(&Timeouts::default());
        self.table.touch(self.id, state, at(second), timeout);
    }
}

#[test]
fn silent_flows_live_as_long_as_their_state_allows() {
    for (state, lives, is_gone) in [
        (State::Unreplied, 119, 301),
        (State::Replied, 299, 301),
        (State::Opening, 239, 241),
        (State::Answered, 239, 241),
        (State::Established, 7439, 7441),
        (State::HalfClosedByClient, 7439, 7441),
        (State::HalfClosedByBackend, 7439, 7441),
        (State::ClosingByBackend, 239, 241),
        (State::Finished, 239, 241),
        (State::Reset, 239, 241),
    ] {
        let life = Life::new(state);
        assert!(life.lives(lives), "{state:?} after {lives} s");
        assert!(!life.lives(is_gone), "{state:?} after {is_gone} s");
    }
}

#[test]
fn datagrams_of_either_side_refresh_a_udp_flow() {
    for direction in [Direction::In, Direction::Out] {
        let mut life = Life::new(State::Unreplied);
        let next = State::Unreplied.after_datagram(direction);
        life.packet(200, next);
        life.packet(450, next);
        assert!(life.lives(749), "{direction:?}");
        assert!(!life.lives(751), "{direction:?}");
    }
}

#[test]
fn a_reset_shortens_a_flow_only_until_its_next_packet() {
    let mut life = Life::new(State::Established);
    life.packet(100, State::Reset);
    assert!(life.lives(339));
    assert!(!life.lives(341));
    life.packet(300, State::Established);
    assert!(life.lives(300 + 7439));
}

#[test]
fn more_resets_do_not_keep_a_flow() {
    let mut life = Life::new(State::Established);
    for second in [100, 200, 300] {
        life.packet(second, State::Reset);
    }
    assert!(!life.lives(341));
}

#[test]
fn a_shorter_timeout_of_a_new_state_counts_at_once() {
    let mut life = Life::new(State::Established);
    life.packet(10, State::ClosingByClient);
    life.packet(100, State::Finished);
    life.packet(200, State::Finished);
    assert!(life.lives(339));
    assert!(!life.lives(341));
}
