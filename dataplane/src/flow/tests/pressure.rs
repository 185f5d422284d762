//! NAT ports or entries have run out: which flows make room, and which never do.

use super::*;

const TRANSITORY: Duration = Duration::from_secs(240);
const UDP: Duration = Duration::from_secs(300);

/// A UDP flow without a reply.
fn datagram(client: u32, slot: u32) -> NewFlow {
    NewFlow {
        protocol: Protocol::Udp.number(),
        state: State::Unreplied,
        timeout: UDP,
        ..new_flow(client, slot)
    }
}

/// A UDP flow with a reply.
fn replied(client: u32, slot: u32) -> NewFlow {
    NewFlow {
        state: State::Replied,
        ..datagram(client, slot)
    }
}

/// The flow number `nth` of a client.
fn nth_of(new: NewFlow, nth: u16) -> NewFlow {
    NewFlow {
        client_port: 50_000 + nth,
        ..new
    }
}

/// When the flow was opened that made room for `new`.
fn evicts(table: &mut FlowTable, new: &NewFlow, now: Timestamp) -> Timestamp {
    let opened = open(table, new, now);
    assert_eq!(opened.replaced, None);
    opened.reclaimed.expect("a flow that makes room").created
}

/// 94 SYNs a second hold 22,528 ports for 240 s.
#[test]
fn a_trickle_of_syns_does_not_keep_clients_out() {
    let mut table = FlowTable::new(1000, 5000..=5063, SEED).unwrap();
    let mut flood = Vec::new();
    for client in 0..64 {
        flood.push(open(&mut table, &new_flow(client, 1), at(client.into())).id);
    }
    // Each of them repeats its SYN.
    for id in flood {
        table.touch(id, State::Opening, at(100), TRANSITORY);
    }
    for client in 0..200 {
        let before = table.len();
        let opened = evicts(
            &mut table,
            &new_flow(1000 + client, 1),
            at(101 + u64::from(client)),
        );
        assert_eq!(table.len(), before);
        let oldest = if client < 64 { client } else { 101 + client - 64 };
        assert_eq!(opened, at(oldest.into()), "the oldest, whoever repeated its SYN");
    }
}

/// DNS-like traffic: a source port for each query.
#[test]
fn queries_from_one_client_are_not_limited_by_the_timeout_of_udp() {
    let mut table = FlowTable::new(1000, 5000..=5063, SEED).unwrap();
    for query in 0..1000_u16 {
        let now = at(query.into());
        let opened = open(&mut table, &nth_of(datagram(1, 1), query), now);
        table.touch(opened.id, State::Replied, now, UDP);
    }
    assert_eq!(table.ports_used(BackendSlot(1)), 64);
}

#[test]
fn established_connections_never_make_room() {
    for state in [
        State::Established,
        State::HalfClosedByClient,
        State::HalfClosedByBackend,
        State::ClosingByClient,
        State::ClosingByBackend,
    ] {
        let mut table = FlowTable::new(1000, 5000..=5007, SEED).unwrap();
        for client in 0..8 {
            let opened = open(&mut table, &new_flow(client, 1), at(0));
            table.touch(opened.id, State::Answered, at(1), TRANSITORY);
            table.touch(opened.id, State::Established, at(1), Duration::from_secs(7440));
            table.touch(opened.id, state, at(1), TRANSITORY);
        }
        let refused = table.open(&new_flow(8, 1), at(200), 0, |_| true);
        assert_eq!(refused, Err(OpenError::PortsExhausted), "{state:?}");
        assert!(table.open(&new_flow(8, 2), at(200), 0, |_| true).is_ok());
    }
}

#[test]
fn finished_flows_go_before_half_open_ones_then_unreplied_and_replied_ones() {
    let full = |full_table: bool| {
        let (capacity, ports) = if full_table {
            (6, 5000..=5999)
        } else {
            (1000, 5000..=5005)
        };
        FlowTable::new(capacity, ports, SEED).unwrap()
    };
    for mut table in [full(false), full(true)] {
        // One endpoint for all, as ports are by protocol.
        let of_state = |client, state| NewFlow {
            state,
            ..new_flow(client, 1)
        };
        for (client, state) in [
            (0, State::Replied),
            (1, State::Unreplied),
            (2, State::Answered),
            (3, State::Established),
            (4, State::Finished),
            (5, State::Opening),
        ] {
            open(&mut table, &of_state(client, state), at(client.into()));
        }
        let order: Vec<_> = (10..15)
            .map(|client| evicts(&mut table, &of_state(client, State::Established), at(20)))
            .collect();
        assert_eq!(order, [at(4), at(2), at(5), at(1), at(0)]);
    }
}

#[test]
fn among_the_oldest_half_open_flows_the_heaviest_client_loses_one() {
    let mut table = FlowTable::new(1000, 5000..=5009, SEED).unwrap();
    for client in 0..3 {
        open(&mut table, &new_flow(client, 1), at(client.into()));
    }
    for nth in 0..7 {
        open(&mut table, &nth_of(new_flow(7, 1), nth), at(10 + u64::from(nth)));
    }
    for (client, oldest) in [(20, 10), (21, 11), (22, 12), (23, 13), (24, 14), (25, 15)] {
        assert_eq!(evicts(&mut table, &new_flow(client, 1), at(30)), at(oldest));
    }
    assert_eq!(
        evicts(&mut table, &new_flow(26, 1), at(30)),
        at(0),
        "all have one flow each: the oldest"
    );
}

#[test]
fn udp_flows_in_use_survive_those_that_are_idle() {
    let mut table = FlowTable::new(1000, 5000..=5015, SEED).unwrap();
    let ids: Vec<_> = (0..16)
        .map(|client| open(&mut table, &replied(client, 1), at(client.into())).id)
        .collect();
    // Ten are used every second; the others are idle.
    let idle = [3, 5, 8, 12, 13, 15];
    let mut now = 20;
    for (round, oldest) in idle.into_iter().enumerate() {
        for (client, id) in ids.iter().enumerate() {
            if !idle.contains(&client) {
                table.touch(*id, State::Replied, at(now), UDP);
            }
        }
        now += 1;
        let client = 100 + u32::try_from(round).unwrap();
        let evicted = evicts(&mut table, &replied(client, 1), at(now));
        assert_eq!(evicted, at(oldest as u64), "round {round}");
    }
}

#[test]
fn a_full_table_takes_the_oldest_half_open_flow_of_any_backend() {
    let mut table = FlowTable::new(6, PORTS, SEED).unwrap();
    for (client, slot) in [(0, 4), (1, 2), (2, 3), (3, 4), (4, 2), (5, 1)] {
        open(&mut table, &new_flow(client, slot), at(client.into()));
    }
    let order: Vec<_> = (10..16)
        .map(|client| evicts(&mut table, &established(client, 9), at(20)))
        .collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5].map(at));
    let refused = table.open(&new_flow(16, 1), at(20), 0, |_| true);
    assert_eq!(refused, Err(OpenError::TableFull));
}

#[test]
fn with_many_backends_each_has_its_turn_in_a_full_table() {
    let mut table = FlowTable::new(200, PORTS, SEED).unwrap();
    for client in 0..200 {
        open(&mut table, &new_flow(client, client % 100), at(client.into()));
    }
    let mut evicted: Vec<_> = (0..200)
        .map(|client| evicts(&mut table, &established(1000 + client, 100), at(300)))
        .collect();
    let early = evicted[..100].iter().filter(|opened| **opened < at(100)).count();
    assert!(early >= 80, "{early} of the 100 oldest in the first 100 searches");
    evicted.sort_unstable();
    assert_eq!(evicted, (0..200).map(at).collect::<Vec<_>>());
}

/// The backend has a half-open connection of the port's former flow: it answers the client's first SYN with an ACK, the
/// client resets that, and repeats its SYN.
#[test]
fn a_connection_attempt_that_was_reset_keeps_its_port_for_the_next_syn() {
    let mut table = FlowTable::new(1000, 5000..=5003, SEED).unwrap();
    for client in 0..4 {
        open(&mut table, &new_flow(client, 1), at(client.into()));
    }
    let legitimate = open(&mut table, &new_flow(9, 1), at(10)).id;
    let port = table.entry(legitimate).nat_port;
    table.touch(legitimate, State::Reset, at(10), TRANSITORY);
    assert_eq!(evicts(&mut table, &new_flow(20, 1), at(11)), at(1));
    let again = open(&mut table, &new_flow(9, 1), at(11));
    assert_eq!(table.entry(again.id).nat_port, port);

    // With nothing but such attempts, they make room for each other.
    let mut table = FlowTable::new(1000, 5000..=5003, SEED).unwrap();
    for client in 0..4 {
        let id = open(&mut table, &new_flow(client, 1), at(10)).id;
        table.touch(id, State::Reset, at(10), TRANSITORY);
    }
    assert_eq!(evicts(&mut table, &new_flow(20, 1), at(11)), at(10));
}

/// A repeated SYN does not move its flow, and a revived flow is in no queue.
#[test]
fn a_flow_that_is_established_leaves_the_queue() {
    let mut table = FlowTable::new(1000, 5000..=5001, SEED).unwrap();
    let first = open(&mut table, &new_flow(0, 1), at(0)).id;
    open(&mut table, &new_flow(1, 1), at(1));
    table.touch(first, State::Answered, at(2), TRANSITORY);
    table.touch(first, State::Established, at(2), Duration::from_secs(7440));
    assert_eq!(evicts(&mut table, &new_flow(2, 1), at(3)), at(1));
    table.touch(first, State::Reset, at(4), TRANSITORY);
    assert_eq!(evicts(&mut table, &new_flow(3, 1), at(5)), at(0));
}
