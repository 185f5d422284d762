//! A flood of new flows with forged sources, more than the worker can take.

use super::*;
use crate::testing::sctp;
use flags::{ACK, RST, SYN};

const CLIENT: &str = "172.16.1.100:40000";

/// A worker with room for the flood's flows.
fn world() -> World {
    World::new(Setup {
        nat_ports: (10_000, 60_000),
        flows: 20_000,
        ..Setup::default()
    })
}

/// The SYN or datagram number `number` of a flood.
fn forged(world: &World, number: u16, protocol: Protocol) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let addresses = world.addresses(&format!("10.64.{high}.{low}:4000"), "172.16.1.103:8080");
    match protocol {
        Protocol::Tcp => {
            let tcp = Tcp {
                sequence: u32::from(number) << 8,
                ..Tcp::flags(SYN)
            };
            builder::tcp(addresses, &tcp, b"")
        }
        Protocol::Udp => builder::udp(addresses, b"?"),
        Protocol::Sctp => {
            let tag = u32::from(number) + 1;
            sctp::sctp(addresses, 0, &sctp::init(sctp::chunks::INIT, tag, &[]))
        }
    }
}

/// Intervals of 10 ms with losses, and 100 packets of a flood behind each; the first is `from`.
fn flood(world: &mut World, intervals: u16, from: u16, protocol: Protocol) {
    for interval in 0..intervals {
        world.pass(Duration::from_millis(10));
        let now = world.now;
        world.engines[0].end_interval(100, 10, now);
        for number in 0..100 {
            let packet = forged(world, from + interval * 100 + number, protocol);
            let (verdict, _) = world.send(&packet);
            assert!(
                matches!(verdict, Verdict::Transmit | Verdict::Drop),
                "{verdict:?}"
            );
        }
    }
}

fn syn(world: &World, client: &str, sequence: u32) -> Vec<u8> {
    let tcp = Tcp {
        sequence,
        ..Tcp::flags(SYN)
    };
    builder::tcp(world.addresses(client, "172.16.1.103:8080"), &tcp, b"")
}

#[test]
fn a_flood_beyond_what_the_worker_takes_leaves_no_state() {
    for protocol in Protocol::ALL {
        let mut world = world();
        flood(&mut world, 20, 0, protocol);
        let flows = world.flows();
        assert!(flows < 600, "{flows} of 2,000");
        assert_eq!(world.drops(), [DropReason::Overload]);
        flood(&mut world, 100, 2_000, protocol);
        // A thousand a second are admitted in any case.
        let later = world.flows() - flows;
        assert!((900..=1_000).contains(&later), "{later}");
        assert_eq!(
            world.dropped(DropReason::Overload) + u64::from(world.flows()),
            12_000
        );
    }
}

#[test]
fn connections_and_clients_that_have_had_one_do_not_notice_a_flood() {
    let mut world = world();
    world.connect(CLIENT);
    flood(&mut world, 50, 0, Protocol::Tcp);
    let data = world.client_tcp(CLIENT, ACK, b"data");
    world.forward(&data);
    for port in 40_001..40_101 {
        world.connect(&format!("172.16.1.100:{port}"));
    }
    let datagram = world.client_udp(CLIENT, b"?");
    world.forward(&datagram);
}

#[test]
fn a_new_client_connects_with_its_second_syn() {
    let mut world = world();
    flood(&mut world, 50, 0, Protocol::Tcp);
    let first = syn(&world, CLIENT, 999);
    assert_eq!(world.send(&first).0, Verdict::Drop);
    // A copy is not what a host does.
    assert_eq!(world.send(&first).0, Verdict::Drop);
    flood(&mut world, 100, 5_000, Protocol::Tcp);
    let answered = world.stats[0].answers.get();
    // Of another connection.
    let other = syn(&world, CLIENT, 12_345_678);
    assert_eq!(world.send(&other).0, Verdict::Drop);
    assert_eq!(
        world.stats[0].answers.get(),
        answered,
        "no answer to a forged source"
    );
    let seen = world.forward(&first);
    let syn_ack = world.backend_tcp(&seen, SYN | ACK, b"");
    world.forward(&syn_ack);
    let tcp = Tcp {
        flags: ACK,
        sequence: 1_000,
        acknowledgment: 3_000_000_001,
        options: &[],
    };
    let ack = builder::tcp(world.addresses(CLIENT, "172.16.1.103:8080"), &tcp, b"");
    world.forward(&ack);
    // From then on it is known.
    world.connect("172.16.1.100:40001");
}

/// A sender that does not see the backend's SYN cannot pass for a proven source.
#[test]
fn a_source_is_proven_by_a_whole_handshake_only() {
    let mut world = world();
    let seen = world.forward(&syn(&world, CLIENT, 999));
    let syn_ack = world.backend_tcp(&seen, SYN | ACK, b"");
    world.forward(&syn_ack);
    for (flags, sequence, acknowledgment) in [(ACK, 1_000, 77), (ACK, 1_000, 3_000_000_002), (RST, 1_000, 0)]
    {
        let tcp = Tcp {
            flags,
            sequence,
            acknowledgment,
            options: &[],
        };
        let packet = builder::tcp(world.addresses(CLIENT, "172.16.1.103:8080"), &tcp, b"");
        world.forward(&packet);
    }
    flood(&mut world, 50, 0, Protocol::Tcp);
    let next = syn(&world, "172.16.1.100:40001", 5);
    assert_eq!(world.send(&next).0, Verdict::Drop);
}

#[test]
fn after_a_flood_everybody_is_admitted_at_once() {
    let mut world = world();
    flood(&mut world, 50, 0, Protocol::Tcp);
    for _ in 0..102 {
        world.pass(Duration::from_millis(10));
        let now = world.now;
        world.engines[0].end_interval(10, 0, now);
    }
    for client in 1..100 {
        world.connect(&format!("172.16.1.{client}:40000"));
    }
}
