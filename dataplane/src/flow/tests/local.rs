//! The own addresses and their indexes.

use super::*;

#[test]
fn own_addresses_get_an_index_up_to_256() {
    let mut table = FlowTable::new(1, PORTS, SEED).unwrap();
    let nth = |n: u16| to_octets(std::net::Ipv6Addr::from(u128::from(n) + 1).into());
    assert_eq!(table.set_local_addresses((0..257).map(nth)), [nth(256)]);
    assert_eq!(table.find_local(&nth(17)), Some(17));
    assert_eq!(table.find_local(&nth(255)), Some(255));
    assert_eq!(table.find_local(&nth(256)), None);
    assert_eq!(table.local_address(17), nth(17));
    assert!(table.set_local_addresses((1..257).map(nth)).is_empty());
    assert_eq!(table.find_local(&nth(0)), None);
    assert_eq!(
        table.find_local(&nth(256)),
        Some(0),
        "an index without flows is reused"
    );
    assert_eq!(table.find_local(&nth(17)), Some(17));
}

#[test]
fn an_address_that_is_gone_keeps_its_index_while_it_has_flows() {
    let mut table = FlowTable::new(10, PORTS, SEED).unwrap();
    let (first, second, third) = (address("10.0.0.1"), address("10.0.0.2"), address("10.0.0.3"));
    let local = table.local_index(first);
    let opened = open(
        &mut table,
        &NewFlow {
            local,
            ..new_flow(1, 1)
        },
        at(0),
    );

    table.set_local_addresses([second].into_iter());
    assert_eq!(
        (table.find_local(&first), table.find_departed(&first)),
        (None, Some(local))
    );
    assert!(table.is_departed(local));
    assert_eq!(table.find_local(&second), Some(1));
    assert_eq!(table.find_departed(&second), None);
    assert_eq!(table.local_address(local), first);

    table.set_local_addresses([first, third].into_iter());
    assert_eq!(table.find_local(&first), Some(local));
    assert!(!table.is_departed(local));
    assert_eq!(table.find_local(&third), Some(1));

    table.set_local_addresses([third].into_iter());
    table.close(opened.id);
    assert_eq!(table.find_departed(&first), None);
    table.set_local_addresses([third, second].into_iter());
    assert_eq!(table.find_local(&second), Some(local));
}

/// Flows of local clients have keys of their own, and NAT ports of the same endpoint.
#[test]
fn local_clients_have_an_index_of_their_own() {
    let mut table = FlowTable::new(10, PORTS, SEED).unwrap();
    let (first, second, third) = (address("10.0.0.1"), address("10.0.0.2"), address("10.0.0.3"));
    let own = table.local_index(first);
    let local = table.local_clients(own).unwrap();
    assert!(table.is_local_client(local) && !table.is_local_client(own));
    assert_eq!(table.local_address(local), first);
    let new = |local| NewFlow {
        local,
        ..new_flow(1, 1)
    };
    let opened = open(&mut table, &new(local), at(0));
    let other = open(&mut table, &new(own), at(0));
    let (entry, another) = (table.entry(opened.id), table.entry(other.id));
    assert_eq!(entry.endpoint(), another.endpoint());
    assert_ne!(entry.nat_port, another.nat_port);
    assert_ne!(entry.request_key(), another.request_key());

    // The address keeps both indexes while any flow refers to it.
    table.close(other.id);
    table.set_local_addresses([second].into_iter());
    assert!(table.is_departed(local));
    assert_eq!(table.find_local(&second), Some(own + 1));
    table.set_local_addresses([first].into_iter());
    assert!(!table.is_departed(local));
    table.close(opened.id);
    table.set_local_addresses([third].into_iter());
    assert_eq!(table.find_local(&third), Some(own), "it is free");
    assert_eq!(table.local_address(local), third);
}

#[test]
fn the_first_128_own_addresses_have_local_clients() {
    let mut table = FlowTable::new(10, PORTS, SEED).unwrap();
    let nth = |n: u16| to_octets(std::net::Ipv6Addr::from(u128::from(n) + 1).into());
    assert!(table.set_local_addresses((0..128).map(nth)).is_empty());
    assert_eq!(table.local_clients(127), Some(255));
    let flow = NewFlow {
        local: table.local_clients(0).unwrap(),
        ..new_flow(1, 1)
    };
    let opened = open(&mut table, &flow, at(0));
    // Index 128 is in use.
    assert_eq!(table.set_local_addresses((0..129).map(nth)), [nth(128)]);
    table.close(opened.id);
    assert!(table.set_local_addresses((0..129).map(nth)).is_empty());
    assert_eq!(
        (table.local_clients(0), table.local_clients(1)),
        (None, Some(129))
    );
    assert_eq!(table.local_clients(128), None);
    assert!(!table.is_local_client(128));
}
