//! Clients with affinity that have more flows than their home has NAT ports.

use std::collections::HashSet;

use super::*;

const BACKENDS: [&str; 2] = ["172.16.1.2:8081", "172.16.1.3:8081"];

fn office(nat_ports: (u16, u16), client_flows: Option<u32>) -> World {
    World::new(Setup {
        workers: 8,
        flows: 10_000,
        client_flows,
        nat_ports,
        affinity: Duration::from_secs(3_600),
        backends: BACKENDS.map(|address| (address, BackendState::Active)).into(),
        ..Setup::default()
    })
}

/// Opens a connection, each packet of which comes in at another worker's queue. `None` if it is refused.
fn try_connect(world: &mut World, client: &str, nth: u16) -> Option<Seen> {
    let enter = |world: &mut World| world.enters = (world.enters + 3 + nth) % 8;
    let syn = world.client_tcp(client, flags::SYN, b"");
    enter(world);
    let (verdict, out) = world.send(&syn);
    if verdict != Verdict::Transmit {
        return None;
    }
    let seen = Seen::of(&out, true);
    let answer = world.backend_tcp(&seen, flags::SYN | flags::ACK, b"");
    enter(world);
    assert_eq!(world.forward(&answer).destination.to_string(), client);
    let confirmation = world.client_tcp(client, flags::ACK, b"");
    enter(world);
    assert_eq!(world.forward(&confirmation).source, seen.source);
    Some(seen)
}

/// Opens connections of one address until no more are possible.
fn fill(world: &mut World, attempts: u16) -> Vec<(String, Seen)> {
    let clients = (0..attempts).map(|nth| (nth, format!("172.16.1.100:{}", 1_024 + nth)));
    clients
        .filter_map(|(nth, client)| try_connect(world, &client, nth).map(|seen| (client, seen)))
        .collect()
}

#[test]
fn an_office_behind_one_address_has_the_nat_ports_of_all_workers() {
    let mut world = office((10_240, 32_767), None);
    let flows = fill(&mut world, 24_000);
    // All but the sixteenth that is kept for others.
    assert!((21_000..=22_528).contains(&flows.len()), "{}", flows.len());
    assert_eq!(world.drops(), [DropReason::ClientLimit]);
    let ports: HashSet<_> = flows.iter().map(|(_, seen)| seen.source).collect();
    assert_eq!(ports.len(), flows.len(), "each has its own port");
    let backends: HashSet<_> = flows.iter().map(|(_, seen)| seen.destination).collect();
    assert_eq!(backends.len(), 1, "the client keeps its backend");

    for (client, seen) in flows.iter().step_by(97) {
        for enters in 0..8 {
            world.enters = enters;
            let data = world.client_tcp(client, flags::ACK, b"x");
            assert_eq!(world.forward(&data).source, seen.source);
            let reply = world.backend_tcp(seen, flags::ACK, b"x");
            assert_eq!(world.forward(&reply).destination.to_string(), *client);
            for packet in [data, reply] {
                let (_, sent) = world.send(&packet);
                let to = world.addresses("172.16.1.1:0", "172.16.1.103:0");
                let error = builder::icmp_error(to, 3, 1, 0, &sent[14..]);
                assert_eq!(world.send(&error).0, Verdict::Transmit, "{client}");
            }
        }
    }
    for host in 0..100 {
        let other = format!("172.16.1.{}:40000", 110 + host);
        assert!(
            try_connect(&mut world, &other, host).is_some(),
            "{other} has its place"
        );
    }
}

#[test]
fn the_flows_of_a_client_are_limited_at_all_workers_together() {
    let mut world = office((20_000, 20_511), Some(200));
    // 64 at home; then each worker knows how many there are.
    assert_eq!(fill(&mut world, 1_000).len(), 200);
    assert_eq!(world.drops(), [DropReason::ClientLimit]);
}

#[test]
fn a_client_returns_home_with_its_backend_when_no_flow_is_away() {
    let mut world = office((20_000, 20_511), None);
    let flows = fill(&mut world, 1_000);
    assert_eq!(flows.len(), 512);
    for (client, _) in &flows {
        let reset = world.client_tcp(client, flags::RST, b"");
        world.forward(&reset);
    }
    world.pass(Duration::from_secs(300));
    world.sweep();
    assert_eq!(world.flows(), 0);
    let before = flows[0].1.destination;
    let openers: HashSet<_> = (0..40)
        .map(|nth| {
            let client = format!("172.16.1.100:{}", 50_000 + nth);
            let seen = try_connect(&mut world, &client, nth).expect("there is room");
            assert_eq!(seen.destination, before);
            (seen.source.port() - 20_000) % 8
        })
        .collect();
    assert_eq!(openers.len(), 1, "all are opened at one worker again");
}

#[test]
fn a_client_whose_backend_is_gone_gets_one_other_at_all_workers() {
    let mut world = office((20_000, 20_511), None);
    let flows = fill(&mut world, 300);
    let [first, second] = BACKENDS;
    let old = flows[0].1.destination.to_string();
    let draining = BackendState::Draining { since: world.now };
    let state = |address: &'static str| {
        let state = if address == old {
            draining
        } else {
            BackendState::Active
        };
        (address, state)
    };
    world.publish_backends(vec![state(first), state(second)]);
    for nth in 0..100 {
        let client = format!("172.16.1.100:{}", 50_000 + nth);
        let seen = try_connect(&mut world, &client, nth).expect("there is room");
        assert_ne!(seen.destination.to_string(), old);
    }
    for (client, seen) in flows.iter().step_by(7) {
        let data = world.client_tcp(client, flags::ACK, b"x");
        assert_eq!(world.forward(&data).source, seen.source, "{client} goes on");
    }
}

/// One in eight comes to the worker of its new flow a second time, from the client's home.
#[test]
fn a_datagram_in_fragments_opens_a_flow_away_from_home() {
    let mut world = office((20_000, 20_511), None);
    for nth in 0..300 {
        let client = format!("172.16.1.100:{}", 40_000 + nth);
        let packet = world.client_udp(&client, &[7; 4_000]);
        let mut identifications = HashSet::new();
        for (enters, fragment) in (nth..).zip(&builder::fragments(&packet, true, 1_480, nth)) {
            world.enters = enters % 8;
            let (verdict, out) = world.send(fragment);
            assert_eq!(verdict, Verdict::Transmit, "{client}: {:?}", world.drops());
            identifications.insert([out[18], out[19]]);
        }
        assert_eq!(identifications.len(), 1, "{client}");
    }
    assert_eq!(world.flows(), 300);
}

#[test]
fn datagrams_and_their_fragments_follow_a_flow_away_from_home() {
    let mut world = office((20_000, 20_511), None);
    let mut ports = HashMap::new();
    for _ in 0..2 {
        for nth in 0..300 {
            let client = format!("172.16.1.100:{}", 40_000 + nth);
            world.enters = nth % 8;
            let question = world.client_udp(&client, b"q");
            let seen = world.forward(&question);
            assert_eq!(*ports.entry(client).or_insert(seen.source), seen.source);
        }
    }
    assert_eq!(world.flows(), 300);
    for nth in 0..300 {
        let client = format!("172.16.1.100:{}", 40_000 + nth);
        let packet = world.client_udp(&client, &[7; 4_000]);
        for (enters, fragment) in (nth..).zip(&builder::fragments(&packet, true, 1_480, nth)) {
            world.enters = enters % 8;
            assert_eq!(world.send(fragment).0, Verdict::Transmit, "{:?}", world.drops());
        }
    }
    assert_eq!(world.flows(), 300, "fragments open no other flows");
}
