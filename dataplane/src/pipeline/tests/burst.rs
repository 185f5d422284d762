//! Bursts: the same decisions as packet by packet.

use std::collections::BTreeSet;

use super::*;

/// One after the other on one world, as bursts on another that is equal; returns the number of flows.
fn check(script: &[Vec<Vec<MemFrame>>]) -> u32 {
    let (mut single, mut burst) = (World::new(Setup::default()), World::new(Setup::default()));
    for packets in script {
        let mut expected = Vec::new();
        for packet in packets {
            let mut frames = copy(packet);
            let verdict = single.engines[0].forward(&mut frames, Origin::Queue, single.now);
            expected.push((verdict, frames));
        }
        let mut frames: Vec<MemFrame> = packets.iter().flat_map(|packet| copy(packet)).collect();
        let mut verdicts = Vec::new();
        burst.engines[0].forward_burst(&mut frames, Origin::Queue, burst.now, &mut verdicts);
        let counts: Vec<_> = expected
            .iter()
            .map(|(verdict, frames)| (*verdict, frames.len()))
            .collect();
        assert_eq!(verdicts, counts);
        let bytes = |frames: &[MemFrame]| {
            frames
                .iter()
                .map(|frame| frame.bytes().to_vec())
                .collect::<Vec<_>>()
        };
        let expected: Vec<_> = expected.iter().flat_map(|(_, frames)| bytes(frames)).collect();
        assert_eq!(bytes(&frames), expected);
    }
    assert_eq!(single.drops(), burst.drops());
    assert_eq!(single.flows(), burst.flows());
    burst.flows()
}

fn copy(packet: &[MemFrame]) -> Vec<MemFrame> {
    let last = packet.len() - 1;
    let copied = |(index, from): (usize, &MemFrame)| {
        let mut copy = frame(from.bytes());
        copy.set_continues(index < last);
        copy
    };
    packet.iter().enumerate().map(copied).collect()
}

/// Requests of ten clients, a wrong frame between them and a packet in several frames at the end, over and
/// over: much longer than a group.
#[test]
fn a_burst_is_decided_like_its_packets_one_by_one() {
    let world = World::new(Setup::default());
    let mut packets = Vec::new();
    for round in 0..10 {
        for client in 0..10 {
            let client = format!("172.16.1.{client}:40000", client = 10 + client);
            let flags = if round == 0 { flags::SYN } else { flags::ACK };
            packets.push(vec![frame(&world.client_tcp(&client, flags, b""))]);
            packets.push(vec![frame(&world.client_udp(&client, b"data"))]);
        }
        packets.push(vec![frame(b"neither long nor IP")]);
        packets.push(vec![frame(&world.client_tcp(
            "172.16.1.99:1",
            flags::ACK,
            b"of no flow",
        ))]);
        packets.push(frames_of(
            &world.client_udp("[2001:db8::64]:40000", &[0x5a; 900]),
            400,
        ));
    }
    let flows = check(&[packets]);
    assert_eq!(flows, 21);
}

/// The flow that is found when the group is prepared is not the one that the packets belong to when
/// their turn comes.
#[test]
fn a_connection_reopened_within_a_burst_gets_the_packets_behind_it() {
    let world = World::new(Setup::default());
    let tcp = |flags| vec![frame(&world.client_tcp("172.16.1.100:40000", flags, b""))];
    let first = vec![tcp(flags::SYN)];
    let second = vec![
        tcp(flags::RST),
        tcp(flags::SYN),
        tcp(flags::ACK),
        tcp(flags::RST),
        tcp(flags::SYN),
    ];
    assert_eq!(check(&[first, second]), 1);
}

/// A world whose backends are chosen by hash, so before a packet's turn comes.
fn by_hash(backends: &[&'static str]) -> World {
    World::new(Setup {
        backends: backends
            .iter()
            .map(|&backend| (backend, BackendState::Active))
            .collect(),
        scheduler: Scheduler::Maglev,
        ..Setup::default()
    })
}

/// First datagrams of so many clients in one burst, as they come out if they do.
fn open_in_one_burst(world: &mut World, clients: u16) -> Vec<Option<Seen>> {
    let mut frames: Vec<MemFrame> = (0..clients)
        .map(|client| frame(&world.client_udp(&format!("172.16.1.10:{}", 40_000 + client), b"data")))
        .collect();
    let mut verdicts = Vec::new();
    world.engines[0].forward_burst(&mut frames, Origin::Queue, world.now, &mut verdicts);
    verdicts
        .iter()
        .zip(&frames)
        .map(|((verdict, _), frame)| (*verdict == Verdict::Transmit).then(|| Seen::of(frame.bytes(), true)))
        .collect()
}

/// Of 64 NAT ports, chosen at random for many packets before the first of them is claimed, many are
/// chosen twice.
#[test]
fn flows_that_are_opened_in_one_burst_get_all_nat_ports_and_none_twice() {
    let mut world = by_hash(&["172.16.1.2:8081"]);
    let opened = open_in_one_burst(&mut world, 64);
    let ports: BTreeSet<u16> = opened.iter().flatten().map(|seen| seen.source.port()).collect();
    assert_eq!(ports, (NAT_PORTS.0..=NAT_PORTS.1).collect());
}

#[test]
fn flows_that_are_opened_in_one_burst_leave_out_the_ports_of_services() {
    let mut world = by_hash(&["172.16.1.2:8081"]);
    let service = ServiceKey {
        address: "172.16.1.103".parse().unwrap(),
        port: NAT_PORTS.0 + 9,
        protocol: Protocol::Udp,
    };
    world.publish(|snapshot| {
        snapshot.services.insert(service, ServiceSlot(1));
    });
    let opened = open_in_one_burst(&mut world, 64);
    let ports: BTreeSet<u16> = opened.iter().flatten().map(|seen| seen.source.port()).collect();
    assert_eq!((ports.len(), ports.contains(&service.port)), (63, false));
    assert_eq!(
        opened.iter().flatten().count(),
        64,
        "the last one in place of the first"
    );
    assert_eq!(world.drops(), []);
}

#[test]
fn a_burst_goes_to_the_backends_that_its_packets_would_go_to_one_by_one() {
    let backends = ["172.16.1.2:8081", "172.16.1.3:8081", "172.16.1.4:8081"];
    let (mut single, mut burst) = (by_hash(&backends), by_hash(&backends));
    for (client, seen) in (40_000..).zip(open_in_one_burst(&mut burst, 50)) {
        let packet = single.client_udp(&format!("172.16.1.10:{client}"), b"data");
        assert_eq!(seen.unwrap().destination, single.forward(&packet).destination);
    }
}
