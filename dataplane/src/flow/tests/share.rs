//! The share of one client (RFC 6888 REQ-4).

use super::super::clients::{Clients, Scope};
use super::super::mapping::{Mapping, span};
use super::*;

/// Connection number `nth` of a client, open.
fn connection(client: u32, nth: u16, slot: u32) -> NewFlow {
    NewFlow {
        client_port: 1024 + nth,
        ..established(client, slot)
    }
}

fn try_open(table: &mut FlowTable, new: &NewFlow) -> Result<Opened, OpenError> {
    table.open(new, at(1), random(u64::from(table.len())), |_| true)
}

#[test]
fn one_client_cannot_take_the_last_ports_of_a_backend() {
    let mut table = FlowTable::new(1000, 5000..=5127, SEED).unwrap();
    for nth in 0..120 {
        try_open(&mut table, &connection(1, nth, 1)).unwrap();
    }
    let refused = try_open(&mut table, &connection(1, 120, 1));
    assert_eq!(refused, Err(OpenError::ClientLimit));
    assert!(
        try_open(&mut table, &connection(1, 120, 2)).is_ok(),
        "another backend"
    );
    for client in 2..10 {
        try_open(&mut table, &connection(client, 0, 1)).unwrap();
    }
    let refused = try_open(&mut table, &connection(10, 0, 1));
    assert_eq!(refused, Err(OpenError::PortsExhausted));
    assert_eq!(table.ports_used(BackendSlot(1)), 128);
}

#[test]
fn one_client_cannot_take_the_last_entries_of_the_table() {
    let mut table = FlowTable::new(160, PORTS, SEED).unwrap();
    for nth in 0..150 {
        try_open(&mut table, &connection(1, nth, u32::from(nth))).unwrap();
    }
    let refused = try_open(&mut table, &connection(1, 150, 150));
    assert_eq!(refused, Err(OpenError::ClientLimit));
    for client in 2..12 {
        try_open(&mut table, &connection(client, 0, 1)).unwrap();
    }
    let refused = try_open(&mut table, &connection(12, 0, 1));
    assert_eq!(refused, Err(OpenError::TableFull));
}

#[test]
fn clients_together_take_all_ports() {
    let mut table = FlowTable::new(1000, 5000..=5127, SEED).unwrap();
    for client in 0..128 {
        try_open(
            &mut table,
            &connection(client % 2, u16::try_from(client).unwrap(), 1),
        )
        .unwrap();
    }
}

#[test]
fn a_client_with_its_share_gets_a_flow_in_exchange_for_its_own_only() {
    let mut table = FlowTable::new(1000, 5000..=5127, SEED).unwrap();
    open(&mut table, &new_flow(9, 1), at(0));
    let own = open(&mut table, &new_flow(1, 1), at(0)).id;
    for nth in 0..118 {
        try_open(&mut table, &connection(1, nth, 1)).unwrap();
    }
    let opened = try_open(&mut table, &connection(1, 118, 1)).unwrap();
    assert_eq!(opened.reclaimed.map(|closed| closed.state), Some(State::Opening));
    assert_eq!(opened.id, own, "its entry");
    let refused = try_open(&mut table, &connection(1, 119, 1));
    assert_eq!(
        refused,
        Err(OpenError::ClientLimit),
        "client 9's half-open flow stays"
    );
}

#[test]
fn a_number_of_flows_for_each_client_is_kept() {
    let mut table = FlowTable::new(1000, PORTS, SEED).unwrap();
    let limited = |nth, slot| NewFlow {
        client_flows: 3,
        ..connection(1, nth, slot)
    };
    let ids = [0, 1, 2].map(|nth| try_open(&mut table, &limited(nth, nth.into())).unwrap().id);
    assert_eq!(try_open(&mut table, &limited(3, 7)), Err(OpenError::ClientLimit));
    let other = NewFlow {
        client_flows: 3,
        ..connection(2, 0, 1)
    };
    assert!(try_open(&mut table, &other).is_ok());

    // A flow that is over is not counted, one that lives again is.
    table.touch(ids[1], State::Reset, at(2), Duration::from_secs(240));
    assert!(try_open(&mut table, &limited(3, 7)).is_ok());
    table.touch(ids[1], State::Established, at(3), Duration::from_secs(240));
    table.close(ids[0]);
    assert_eq!(try_open(&mut table, &limited(4, 7)), Err(OpenError::ClientLimit));
    table.close(ids[1]);
    assert!(try_open(&mut table, &limited(4, 7)).is_ok());
}

#[test]
fn a_connection_in_the_place_of_its_own_predecessor_needs_no_room() {
    let mut table = FlowTable::new(1000, PORTS, SEED).unwrap();
    let limited = NewFlow {
        client_flows: 1,
        ..connection(1, 0, 1)
    };
    try_open(&mut table, &limited).unwrap();
    let again = try_open(&mut table, &limited).unwrap();
    assert_eq!(
        again.replaced.map(|closed| closed.state),
        Some(State::Established)
    );
    assert_eq!(table.len(), 1);
}

#[test]
fn counts_are_never_too_small_and_rarely_too_large() {
    let counters = Clients::counters_for(100_000);
    let mut mapping = Mapping::new(span::<u32>(counters), 0).unwrap();
    let mut clients = Clients::new(mapping.carve(counters));
    let seed = HashSeed::new(SEED);
    let address = |client: u32| new_flow(client, 0).client;
    for client in 0..100_000 {
        clients.add(&address(client), Scope::Table, &seed);
    }
    for _ in 0..5_000 {
        clients.add(&address(7), Scope::Table, &seed);
    }
    assert!((5_001..5_100).contains(&clients.flows(&address(7), Scope::Table, &seed)));
    let counts = (0..100_000).map(|client| clients.flows(&address(client), Scope::Table, &seed));
    let (mut largest, mut too_large) = (0, 0);
    for count in counts
        .enumerate()
        .filter(|(client, _)| *client != 7)
        .map(|(_, count)| count)
    {
        assert!(count > 0);
        largest = largest.max(count);
        too_large += u32::from(count > 40);
    }
    assert!(largest < 100 && too_large < 10, "{largest}, {too_large}");
    for client in 0..100_000 {
        clients.remove(&address(client), Scope::Table, &seed);
    }
    for _ in 0..5_000 {
        clients.remove(&address(7), Scope::Table, &seed);
    }
    assert!(clients.is_pristine());
}
