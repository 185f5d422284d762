//! NAT ports: exact, never shared, hard to guess.

use std::collections::HashSet;

use vl3lb_common::PortSet;

use super::*;

#[test]
fn every_port_of_the_slice_is_used_once_and_then_they_are_exhausted() {
    // Not a multiple of 64, and not all usable.
    let (slice, service_port) = (20_000..=20_200, 20_077);
    let mut table = FlowTable::new(1000, slice.clone(), SEED).unwrap();
    let usable = |port| port != service_port;
    let mut ports = HashSet::new();
    for client in 0..200 {
        let opened = table
            .open(&established(client, 1), at(0), random(u64::from(client)), usable)
            .unwrap();
        assert!(ports.insert(table.entry(opened.id).nat_port));
        assert_eq!(table.ports_used(BackendSlot(1)), client + 1);
    }
    assert_eq!(ports, slice.filter(|port| usable(*port)).collect());

    let refused = table.open(&new_flow(200, 1), at(0), 0, usable);
    assert_eq!(refused, Err(OpenError::PortsExhausted));
    let other = table.open(&new_flow(200, 2), at(0), 0, usable);
    assert!(other.is_ok(), "another backend has all its ports");
}

#[test]
fn the_whole_port_range_of_one_worker_can_be_used() {
    let mut table = FlowTable::new(65_535, 1..=u16::MAX, SEED).unwrap();
    for client in 0..65_535 {
        open(&mut table, &new_flow(client, 0), at(0));
    }
    assert_eq!(table.ports_used(BackendSlot(0)), 65_535);
}

#[test]
fn a_freed_port_is_found_again() {
    let mut table = FlowTable::new(100, 5000..=5063, SEED).unwrap();
    let ids: Vec<_> = (0..64)
        .map(|client| open(&mut table, &new_flow(client, 1), at(0)).id)
        .collect();
    let port = table.entry(ids[40]).nat_port;
    table.close(ids[40]);
    for start in 0..64 {
        let opened = table
            .open(&new_flow(99, 1), at(0), start << 58, |_| true)
            .unwrap();
        assert_eq!(table.entry(opened.id).nat_port, port);
        table.close(opened.id);
    }
}

#[test]
fn among_free_ports_the_random_number_alone_decides() {
    let mut table = FlowTable::new(1, 5000..=5063, SEED).unwrap();
    for start in 0..64 {
        let opened = table
            .open(&new_flow(1, 1), at(0), u64::from(start) << 58, |_| true)
            .unwrap();
        assert_eq!(table.entry(opened.id).nat_port, 5000 + start);
        table.close(opened.id);
    }
}

#[test]
fn exhausted_ports_are_reclaimed_from_the_oldest_finished_flow() {
    let mut table = FlowTable::new(100, 5000..=5009, SEED).unwrap();
    let ids: Vec<_> = (0..10)
        .map(|client| open(&mut table, &new_flow(client, 1), at(u64::from(client))).id)
        .collect();
    let port = table.entry(ids[6]).nat_port;
    table.touch(ids[6], State::Reset, at(20), Duration::from_secs(240));
    table.touch(ids[2], State::Finished, at(21), Duration::from_secs(240));

    let opened = open(&mut table, &new_flow(10, 1), at(22));
    assert_eq!(opened.reclaimed.unwrap().created, at(6));
    assert_eq!(table.entry(opened.id).nat_port, port);
    assert_eq!(table.ports_used(BackendSlot(1)), 10);
}

/// The backend may be in TIME-WAIT: only there do sequence numbers and timestamps go on.
#[test]
fn a_connection_in_the_place_of_its_predecessor_keeps_the_port_at_the_same_backend() {
    for start in 0..64 {
        let mut table = FlowTable::new(100, 5000..=5063, SEED).unwrap();
        let open_at = |table: &mut FlowTable, backend, start: u64, usable: fn(u16) -> bool| {
            let opened = table
                .open(&new_flow(1, backend), at(0), start << 58, usable)
                .unwrap();
            table.touch(opened.id, State::Reset, at(0), Duration::from_secs(240));
            table.entry(opened.id).nat_port
        };
        assert_eq!(open_at(&mut table, 1, 17, |_| true), 5017);
        assert_eq!(open_at(&mut table, 1, start, |_| true), 5017);
        let elsewhere = u16::try_from(5000 + start).unwrap();
        assert_eq!(
            open_at(&mut table, 2, start, |_| true),
            elsewhere,
            "another backend"
        );
        open_at(&mut table, 1, 17, |_| true);
        let became_service = open_at(&mut table, 1, start, |port| port != 5017);
        assert_ne!(became_service, 5017);
    }
}

#[test]
fn an_expired_flow_leaves_its_port_to_the_flow_that_replaces_it() {
    let mut table = FlowTable::new(100, 5000..=5000, SEED).unwrap();
    open(&mut table, &new_flow(1, 1), at(0));
    let opened = open(&mut table, &new_flow(1, 1), at(300));
    assert_eq!(opened.replaced.unwrap().created, at(0));
    assert_eq!(table.entry(opened.id).nat_port, 5000);
    assert_eq!(table.ports_used(BackendSlot(1)), 1);
}

#[test]
fn services_that_share_a_backend_share_its_ports() {
    let mut table = FlowTable::new(100, 5000..=5009, SEED).unwrap();
    let shared = new_flow(0, 1);
    let mut replies = HashSet::new();
    for client in 0..10 {
        let new = NewFlow {
            client: new_flow(client, 1).client,
            backend_slot: BackendSlot(client % 2),
            service_port: if client % 2 == 0 { 80 } else { 443 },
            state: State::Established,
            ..shared
        };
        let opened = open(&mut table, &new, at(0));
        assert!(replies.insert(table.reply_key(table.entry(opened.id))));
    }
    for slot in [0, 1] {
        let new = NewFlow {
            client: new_flow(99, 1).client,
            backend_slot: BackendSlot(slot),
            ..shared
        };
        let asked = std::cell::Cell::new(0);
        let refused = table.open(&new, at(0), 0, |_| {
            asked.set(asked.get() + 1);
            true
        });
        assert_eq!(refused, Err(OpenError::PortsExhausted));
        assert_eq!(asked.get(), 0, "no port is looked at in vain");
    }
    assert_eq!(
        table.ports_used(BackendSlot(0)) + table.ports_used(BackendSlot(1)),
        10
    );
}

#[test]
fn protocols_have_ports_of_their_own() {
    let mut table = FlowTable::new(100, 5000..=5000, SEED).unwrap();
    let tcp = new_flow(1, 1);
    let udp = NewFlow {
        protocol: Protocol::Udp.number(),
        backend_slot: BackendSlot(2),
        state: State::Unreplied,
        ..tcp
    };
    open(&mut table, &tcp, at(0));
    open(&mut table, &udp, at(0));
    assert_eq!(table.len(), 2);
}

#[test]
fn a_backend_slot_that_cannot_be_has_no_ports() {
    let mut table = FlowTable::new(1, PORTS, SEED).unwrap();
    for slot in [16_384, u32::MAX] {
        let new = NewFlow {
            backend_slot: BackendSlot(slot),
            ..new_flow(1, 1)
        };
        let refused = table.open(&new, at(0), 0, |_| true);
        assert_eq!(refused, Err(OpenError::PortsExhausted));
        assert_eq!(table.ports_used(BackendSlot(slot)), 0);
    }
}

/// RFC 6056: the next port does not follow from the ones before.
#[test]
fn ports_follow_the_random_numbers_and_cover_the_slice() {
    let mut table = FlowTable::new(4096, PORTS, SEED).unwrap();
    let mut ports = Vec::new();
    for client in 0..4096_u32 {
        let opened = table
            .open(&new_flow(client, 1), at(0), random(u64::from(client)), |_| true)
            .unwrap();
        ports.push(table.entry(opened.id).nat_port);
    }
    let neighbors = ports
        .windows(2)
        .filter(|pair| pair[0].abs_diff(pair[1]) == 1)
        .count();
    assert!(
        neighbors < 20,
        "{neighbors} of 4096 ports follow their predecessor"
    );
    let mut sixteenths = [0_u32; 16];
    for port in &ports {
        sixteenths[usize::from(port - PORTS.start()) * 16 / PORTS.len()] += 1;
    }
    assert!(
        sixteenths.iter().all(|count| (180..=330).contains(count)),
        "{sixteenths:?}"
    );
}

#[test]
fn ports_that_are_left_out_are_not_used_and_do_not_make_others_more_likely() {
    let mut table = FlowTable::new(40_000, 1024..=u16::MAX, SEED).unwrap();
    let mut flow_ports = PortSet::from(1024..=32_767);
    flow_ports.insert_range(61_000..=u16::MAX);
    table.use_ports(&flow_ports);
    let mut firsts = 0;
    for client in 0..36_280 {
        let opened = table
            .open(&established(client, 1), at(0), random(u64::from(client)), |_| {
                true
            })
            .unwrap();
        let port = table.entry(opened.id).nat_port;
        assert!(flow_ports.contains(port), "{port}");
        // The first ports behind the gap, which has nearly half of all.
        firsts += u32::from(client < 1000 && (61_000..61_100).contains(&port));
    }
    assert!(
        firsts < 20,
        "{firsts} of 1000 flows have a port of 100 among 36,280"
    );
    let refused = table.open(&new_flow(40_000, 1), at(0), 0, |_| true);
    assert_eq!(refused, Err(OpenError::PortsExhausted));
    table.use_ports(&PortSet::from(1024..=u16::MAX));
    assert!(table.open(&new_flow(40_000, 1), at(0), 0, |_| true).is_ok());
}

#[test]
fn every_worker_has_every_nth_port() {
    let ports = vl3lb_common::snapshot::NatPorts::new(5000, 5009).unwrap();
    let mut all = HashSet::new();
    for (worker, count) in [(0, 4), (1, 3), (2, 3)] {
        let mut table = FlowTable::new(100, ports.of_worker(worker, 3), SEED).unwrap();
        for client in 0..count {
            let opened = open(&mut table, &established(client, 1), at(0));
            let port = table.entry(opened.id).nat_port;
            assert_eq!(ports.owner(port, 3), worker);
            assert!(all.insert(port));
        }
        let refused = table.open(&new_flow(99, 1), at(0), 0, |_| true);
        assert_eq!(refused, Err(OpenError::PortsExhausted));
    }
    assert_eq!(all.len(), 10);
}

#[test]
fn each_own_address_has_all_ports_towards_a_backend() {
    let mut table = FlowTable::new(100, 5000..=5009, SEED).unwrap();
    let mut replies = HashSet::new();
    for client in 0..30 {
        let new = NewFlow {
            local: u8::try_from(client % 3).unwrap(),
            ..established(client, 1)
        };
        let opened = open(&mut table, &new, at(0));
        assert!(replies.insert(table.reply_key(table.entry(opened.id))));
    }
    assert_eq!(table.ports_used(BackendSlot(1)), 30);
    for local in 0..3 {
        let new = NewFlow {
            local,
            ..new_flow(99, 1)
        };
        let refused = table.open(&new, at(0), 0, |_| true);
        assert_eq!(refused, Err(OpenError::PortsExhausted));
    }
    let another = NewFlow {
        local: 3,
        ..new_flow(99, 1)
    };
    assert!(table.open(&another, at(0), 0, |_| true).is_ok());
}
