//! Connections whose backend dies end at both ends, though nobody sends.

use super::*;
use crate::testing::MemPort;
use flags::{ACK, RST};

/// Sequence and acknowledgment number.
fn numbers(packet: &[u8], ethernet: bool) -> (u32, u32) {
    use etherparse::{SlicedPacket, TransportSlice};
    let sliced = if ethernet {
        SlicedPacket::from_ethernet(packet)
    } else {
        SlicedPacket::from_ip(packet)
    };
    match sliced.unwrap().transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.sequence_number(), tcp.acknowledgment_number()),
        other => panic!("{other:?} is no TCP"),
    }
}

#[test]
fn both_ends_of_a_dead_backends_connection_are_reset_with_exact_numbers() {
    for (framing, client, backend) in [
        (Framing::Ethernet, "172.16.1.100:40000", "172.16.1.2:8081"),
        (Framing::Ethernet, "[2001:db8::100]:40000", "[2001:db8::2]:8081"),
        (Framing::RawIp, "172.16.1.100:40000", "172.16.1.2:8081"),
    ] {
        let mut world = World::new(Setup {
            framing,
            backends: vec![(backend, BackendState::Active)],
            ..Setup::default()
        });
        let seen = world.connect(client);
        let data = world.client_tcp(client, ACK, b"a question");
        world.forward(&data);
        let data = world.backend_tcp(&seen, ACK, b"an answer");
        let answer = world.forward(&data);
        let next = world.conversations.borrow()[&client.parse().unwrap()];
        world.publish_backends(vec![(backend, BackendState::Down)]);
        assert!(world.engines[0].is_urgent());
        world.engines[0].sweep(world.now);
        assert!(!world.engines[0].is_urgent(), "all is swept");

        let mut port = MemPort::new(4);
        let mut out = Vec::new();
        world.engines[0].reset_orphans(&mut port, &mut out);
        let out: Vec<_> = out.iter().map(|frame| frame.bytes().to_vec()).collect();
        let [to_backend, to_client] = &out[..] else {
            panic!("{} resets", out.len());
        };
        for (reset, like, sender) in [
            (to_backend, &seen, Direction::In),
            (to_client, &answer, Direction::Out),
        ] {
            validate::assert_valid(reset, world.ethernet());
            let sent = Seen::of(reset, world.ethernet());
            assert_eq!(
                (sent.source, sent.destination, sent.tcp_flags),
                (like.source, like.destination, RST | ACK)
            );
            assert_eq!(sent.macs, like.macs);
            assert_eq!(
                numbers(reset, world.ethernet()),
                (next.next(sender), next.next(sender.opposite()))
            );
        }
        world.engines[0].reset_orphans(&mut port, &mut Vec::new());
        assert_eq!(world.flows(), 0);
    }
}

#[test]
fn resets_wait_for_frames_and_for_no_more_than_there_is_room() {
    let mut world = World::new(Setup {
        backends: vec![("172.16.1.2:8081", BackendState::Active)],
        ..Setup::default()
    });
    for port in 0..40 {
        world.connect(&format!("172.16.1.100:{}", 1_024 + port));
    }
    world.publish_backends(vec![("172.16.1.2:8081", BackendState::Down)]);
    world.sweep();
    let mut sent = 0;
    for _ in 0..20 {
        let mut port = MemPort::new(5);
        let mut out = Vec::new();
        world.engines[0].reset_orphans(&mut port, &mut out);
        assert!(out.len() <= 4);
        sent += out.len();
    }
    assert_eq!(sent, 80);
}

/// With few NAT ports the next connection has the one of the half-open one, which the backend must have forgotten by then.
#[test]
fn the_backend_of_a_half_open_connection_that_made_room_is_reset() {
    for (client, backend) in [
        ("172.16.1.", "172.16.1.2:8081"),
        ("2001:db8::", "[2001:db8::2]:8081"),
    ] {
        let mut world = World::new(Setup {
            backends: vec![(backend, BackendState::Active)],
            ..Setup::default()
        });
        let client = |number: u16| {
            if client.contains(':') {
                format!("[{client}{number}]:40000")
            } else {
                format!("{client}{number}:40000")
            }
        };
        let resets = |world: &mut World| {
            let mut out = Vec::new();
            world.engines[0].reset_orphans(&mut MemPort::new(16), &mut out);
            out.iter().map(|frame| frame.bytes().to_vec()).collect::<Vec<_>>()
        };
        let syn = |world: &mut World, number| {
            let syn = world.client_tcp(&client(number), flags::SYN, b"");
            world.forward(&syn)
        };
        let mut half_open = Vec::new();
        for number in 0..64 {
            let seen = syn(&mut world, 110 + number);
            // The last one has no answer yet.
            if number > 0 {
                let answer = world.backend_tcp(&seen, flags::SYN | ACK, b"");
                world.forward(&answer);
            }
            half_open.push(seen);
        }
        world.pass(Duration::from_secs(3));
        assert_eq!(syn(&mut world, 200).source, half_open[0].source);
        assert_eq!(
            resets(&mut world),
            Vec::<Vec<u8>>::new(),
            "the backend has nothing"
        );

        let next = world.conversations.borrow()[&client(111).parse().unwrap()];
        assert_eq!(syn(&mut world, 201).source, half_open[1].source);
        let sent = resets(&mut world);
        assert_eq!(sent.len(), 1, "the client gets none");
        validate::assert_valid(&sent[0], true);
        let reset = Seen::of(&sent[0], true);
        assert_eq!(
            (reset.source, reset.destination, reset.tcp_flags),
            (half_open[1].source, half_open[1].destination, RST | ACK)
        );
        assert_eq!(
            numbers(&sent[0], true),
            (next.next(Direction::In), next.next(Direction::Out))
        );
        assert_eq!(resets(&mut world).len(), 0);
    }
}

/// Each SYN of a flood evicts a half-open connection.
#[test]
fn resets_of_half_open_connections_are_limited() {
    let mut world = World::new(Setup {
        backends: vec![("172.16.1.2:8081", BackendState::Active)],
        ..Setup::default()
    });
    let count = |world: &mut World, round: u16| {
        let mut sent = 0;
        for number in 0..400 {
            let client = format!("10.{round}.{}.{}:40000", number / 250, number % 250 + 1);
            let syn = world.client_tcp(&client, flags::SYN, b"");
            let seen = world.forward(&syn);
            let answer = world.backend_tcp(&seen, flags::SYN | ACK, b"");
            world.forward(&answer);
            let mut out = Vec::new();
            world.engines[0].reset_orphans(&mut MemPort::new(16), &mut out);
            sent += out.len();
        }
        sent
    };
    count(&mut world, 1);
    world.pass(Duration::from_secs(3));
    assert_eq!(count(&mut world, 2), 200);
}
