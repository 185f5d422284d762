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
