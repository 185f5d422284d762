//! Segments of senders who cannot see the connection: they change nothing.

use super::*;
use crate::flow::{FlowId, RequestKey, State};
use flags::{ACK, FIN, RST, SYN};

const CLIENT: &str = "172.16.1.100:40000";

fn state(world: &World, client: &str) -> Option<State> {
    let client: SocketAddr = client.parse().unwrap();
    let table = world.engines[0].tables.flows.table();
    let key = RequestKey {
        client: to_octets(client.ip()),
        client_port: client.port(),
        local: 0,
        service_port: 8080,
        protocol: Protocol::Tcp.number(),
    };
    let id: FlowId = table.request(&key, world.now)?;
    Some(table.entry(id).state())
}

/// A segment with these numbers, from the client or from the backend that saw this.
fn forge(world: &mut World, from: Result<&str, &Seen>, tcp: &Tcp<'_>) {
    let (source, destination) = match from {
        Ok(client) => (client.to_owned(), "172.16.1.103:8080".to_owned()),
        Err(seen) => (seen.destination.to_string(), seen.source.to_string()),
    };
    let packet = builder::tcp(world.addresses(&source, &destination), tcp, b"");
    world.forward(&packet);
}

/// Numbers all over the space, as a blind sender has to try them.
fn guesses() -> impl Iterator<Item = u32> {
    (0..64).map(|n: u32| n.wrapping_mul(0x0400_0000) + 0x00a5_a5a5)
}

#[test]
fn handshakes_with_forged_sources_do_not_become_flows_that_last() {
    let mut world = World::new(Setup::default());
    let clients = ["172.16.1.100:1", "172.16.1.100:2"];
    let seen = clients.map(|client| {
        let syn = world.client_tcp(client, SYN, b"");
        world.forward(&syn)
    });
    // One resets its flow itself, and then sends an ACK; the other waits for the SYN-ACK to go to its victim.
    let reset = world.client_tcp(clients[0], RST, b"");
    world.forward(&reset);
    let syn_ack = world.backend_tcp(&seen[1], SYN | ACK, b"");
    world.forward(&syn_ack);
    for acknowledgment in guesses() {
        for client in clients {
            let ack = Tcp {
                flags: ACK,
                sequence: 1_001,
                acknowledgment,
                options: &[],
            };
            forge(&mut world, Ok(client), &ack);
        }
    }
    assert_eq!(state(&world, clients[0]), Some(State::Reset));
    assert_eq!(state(&world, clients[1]), Some(State::Answered));
    world.pass(Duration::from_secs(242));
    world.sweep();
    assert_eq!(world.flows(), 0);
}

#[test]
fn forged_fins_and_resets_do_not_free_the_nat_port() {
    let mut world = World::new(Setup::default());
    let mut seen = Vec::new();
    for port in 0..=NAT_PORTS.1 - NAT_PORTS.0 {
        seen.push(world.connect(&format!("172.16.1.100:{}", 1_024 + port)));
    }
    for sequence in guesses() {
        for flags in [FIN | ACK, RST, RST | ACK, SYN] {
            let tcp = Tcp {
                flags,
                sequence,
                acknowledgment: sequence,
                options: &[],
            };
            forge(&mut world, Ok("172.16.1.100:1024"), &tcp);
            if flags != SYN {
                forge(&mut world, Err(&seen[0]), &tcp);
            }
        }
    }
    assert_eq!(state(&world, "172.16.1.100:1024"), Some(State::Established));
    let syn = world.client_tcp("172.16.1.101:1024", SYN, b"");
    assert_eq!(world.send(&syn).0, Verdict::Reject);
    assert_eq!(world.dropped(DropReason::NatPortsExhausted), 1);
    assert_eq!(world.stats[0].backend(BackendSlot(0)).flows.get(), 64);
    // The true one does.
    let reset = world.client_tcp("172.16.1.100:1024", RST, b"");
    world.forward(&reset);
    assert_eq!(world.connect("172.16.1.101:1024").source, seen[0].source);
}

#[test]
fn a_drain_does_not_make_a_forged_reset_lethal() {
    let mut world = World::new(Setup::default());
    let seen = world.connect(CLIENT);
    let draining = BackendState::Draining { since: world.now };
    world.publish_backends(vec![("172.16.1.2:8081", draining)]);
    // Even one with the right number.
    let reset = world.client_tcp(CLIENT, RST, b"");
    world.forward(&reset);
    world.pass(Duration::from_secs(1));
    world.sweep();
    let data = world.client_tcp(CLIENT, ACK, b"still here");
    assert_eq!(world.forward(&data).source, seen.source);
    world.pass(Duration::from_secs(11));
    world.sweep();
    assert_eq!(state(&world, CLIENT), Some(State::Established));
    // A true one does not keep the backend's slot.
    let reset = world.client_tcp(CLIENT, RST, b"");
    world.forward(&reset);
    world.pass(Duration::from_secs(11));
    world.sweep();
    assert_eq!(world.flows(), 0);
}

/// The receiver did not get it, and its sender sends it again.
#[test]
fn a_dropped_segment_does_not_change_the_state() {
    let mut world = World::new(Setup::default());
    world.connect(CLIENT);
    let fin = world.client_tcp(CLIENT, FIN | ACK, b"");
    world.publish(|snapshot| {
        for backend in snapshot.backend_slots.iter_mut().flatten() {
            backend.mac = None;
        }
    });
    assert_eq!(world.send(&fin).0, Verdict::Drop);
    assert_eq!(world.dropped(DropReason::NeighborUnresolved), 1);
    assert_eq!(state(&world, CLIENT), Some(State::Established));
    world.publish_backends(vec![("172.16.1.2:8081", BackendState::Active)]);
    world.forward(&fin);
    assert_eq!(state(&world, CLIENT), Some(State::HalfClosedByClient));
}
