//! The same decisions whatever the number of flows (RFC 4787 REQ-11).

use super::*;
use flags::{ACK, FIN, RST, SYN};

/// What a receiver gets of a packet, apart from the NAT port, which is random.
type Outcome = (Verdict, Option<(IpAddr, SocketAddr, u8, u8, Vec<u8>)>);

fn outcome(world: &mut World, packet: &[u8]) -> (Outcome, Option<Seen>) {
    let (verdict, out) = world.send(packet);
    if verdict != Verdict::Transmit {
        return ((verdict, None), None);
    }
    validate::assert_valid(&out, true);
    let seen = Seen::of(&out, true);
    let fields = (
        seen.source.ip(),
        seen.destination,
        seen.ttl,
        seen.tcp_flags,
        seen.payload.clone(),
    );
    ((verdict, Some(fields)), Some(seen))
}

/// A TCP connection, datagrams and strays of one client beside `others` flows of other clients.
fn decisions(others: u32, client: &str, open: &str) -> Vec<Outcome> {
    let mut world = World::new(Setup {
        nat_ports: (20_000, 30_000),
        ..Setup::default()
    });
    for other in 0..others {
        let source = format!("10.1.{}.{}:40000", other / 250, other % 250 + 1);
        let packet = world.client_udp(&source, b"x");
        assert_eq!(world.send(&packet).0, Verdict::Transmit);
    }
    let mut outcomes = Vec::new();
    let mut send = |world: &mut World, packet: &[u8]| {
        let (outcome, seen) = outcome(world, packet);
        outcomes.push(outcome);
        seen
    };
    let stray = world.client_tcp(client, ACK, b"no flow");
    send(&mut world, &stray);
    let syn = world.client_tcp(open, SYN, b"");
    let seen = send(&mut world, &syn).expect("the SYN is forwarded");
    let segments = [
        (false, SYN | ACK),
        (true, ACK),
        (true, ACK),
        (false, ACK),
        (true, FIN | ACK),
        (false, FIN | ACK),
        (true, ACK),
        (true, RST),
    ];
    for (of_client, bits) in segments {
        let packet = if of_client {
            world.client_tcp(open, bits, b"")
        } else {
            world.backend_tcp(&seen, bits, b"")
        };
        send(&mut world, &packet);
    }
    let question = world.client_udp(client, b"question");
    let seen = send(&mut world, &question).expect("the datagram is forwarded");
    world.pass(Duration::from_secs(119));
    let answer = world.backend_udp(&seen, b"answer");
    send(&mut world, &answer);
    outcomes
}

#[test]
fn decisions_are_the_same_in_an_empty_and_in_a_nearly_full_table() {
    for (client, open) in [
        ("172.16.1.100:40000", "172.16.1.100:40001"),
        ("[2001:db8::64]:40000", "[2001:db8::64]:40001"),
    ] {
        let alone = decisions(0, client, open);
        assert!(alone.iter().filter(|(_, packet)| packet.is_some()).count() >= 10);
        // Of 1,000.
        assert_eq!(decisions(900, client, open), alone);
    }
}
