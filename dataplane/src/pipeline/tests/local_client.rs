//! Clients in the balancer's own network namespace.

use super::*;
use crate::testing::MemPort;
use flags::{ACK, RST, SYN};

/// With the service address that the client sends to, which is its own.
const CLIENTS: [&str; 2] = ["172.16.1.103:40000", "[2001:db8::67]:40000"];

impl World {
    /// Sends a packet from this network namespace.
    fn send_local(&mut self, packet: &[u8]) -> (Verdict, Vec<u8>) {
        let mut frames = frames_of(packet, 2_000);
        frames.iter_mut().for_each(|frame| frame.set_local(true));
        self.send_frames(frames)
    }

    fn forward_local(&mut self, packet: &[u8]) -> Seen {
        let (verdict, out) = self.send_local(packet);
        assert_eq!(verdict, Verdict::Transmit);
        validate::assert_valid(&out, self.ethernet());
        Seen::of(&out, self.ethernet())
    }

    /// Sends a packet of the network that must be delivered to this network namespace, valid.
    fn deliver(&mut self, packet: &[u8]) -> Seen {
        let (verdict, out) = self.send(packet);
        assert_eq!(verdict, Verdict::Deliver);
        validate::assert_valid(&out, self.ethernet());
        Seen::of(&out, self.ethernet())
    }

    fn connect_local(&mut self, client: &str) -> Seen {
        let syn = self.client_tcp(client, SYN, b"");
        let seen = self.forward_local(&syn);
        let syn_ack = self.backend_tcp(&seen, SYN | ACK, b"");
        self.deliver(&syn_ack);
        let ack = self.client_tcp(client, ACK, b"");
        self.forward_local(&ack);
        seen
    }
}

fn worlds() -> impl Iterator<Item = World> {
    [
        (Framing::Ethernet, 1, Duration::ZERO),
        (Framing::RawIp, 1, Duration::ZERO),
        (Framing::Ethernet, 4, Duration::ZERO),
        (Framing::RawIp, 4, Duration::from_secs(60)),
    ]
    .into_iter()
    .map(|(framing, workers, affinity)| {
        World::new(Setup {
            framing,
            workers,
            affinity,
            ..Setup::default()
        })
    })
}

#[test]
fn requests_go_to_a_backend_and_replies_to_this_namespace() {
    for mut world in worlds() {
        for client in CLIENTS {
            let seen = world.connect_local(client);
            let own: SocketAddr = client.parse().unwrap();
            assert_eq!((seen.source.ip(), seen.destination.port()), (own.ip(), 8081));
            assert_ne!(seen.source.port(), own.port());
            for payload in [&b"one"[..], b"two"] {
                let data = world.client_tcp(client, ACK, payload);
                let request = world.forward_local(&data);
                assert_eq!((request.source, &request.payload[..]), (seen.source, payload));
                let data = world.backend_tcp(&seen, ACK, payload);
                let reply = world.deliver(&data);
                assert_eq!((reply.source.ip(), reply.source.port()), (own.ip(), 8080));
                assert_eq!((reply.destination, &reply.payload[..]), (own, payload));
            }
            let datagram = world.client_udp(client, b"question");
            let seen = world.forward_local(&datagram);
            let answer = world.backend_udp(&seen, b"answer");
            assert_eq!(world.deliver(&answer).destination, own);
        }
        assert_eq!(world.drops(), []);
        assert_eq!(world.flows(), 4);
    }
}

/// An address of the balancer cannot come in by the interface, whether the flow of a local client is there or not.
#[test]
fn a_sender_outside_cannot_pass_for_a_local_client() {
    for mut world in worlds() {
        let mut forged = 0;
        for client in CLIENTS {
            for packet in [
                world.client_tcp(client, SYN, b""),
                world.client_udp(client, b"before"),
            ] {
                assert_eq!(world.send(&packet).0, Verdict::Drop);
                forged += 1;
            }
            world.connect_local(client);
            let datagram = world.client_udp(client, b"its own");
            world.forward_local(&datagram);
            let before = world.conversations.borrow()[&client.parse().unwrap()];
            for packet in [
                world.client_tcp(client, ACK, b"forged"),
                world.client_tcp(client, RST, b""),
                world.client_udp(client, b"forged"),
            ] {
                assert_eq!(world.send(&packet).0, Verdict::Drop);
                forged += 1;
            }
            world
                .conversations
                .borrow_mut()
                .insert(client.parse().unwrap(), before);
            let data = world.client_tcp(client, ACK, b"goes on");
            world.forward_local(&data);
        }
        assert_eq!(world.dropped(DropReason::Martian), forged);
        assert_eq!(world.drops(), [DropReason::Martian]);
    }
}

/// And a packet from this namespace is no other client's.
#[test]
fn only_own_addresses_are_local_clients() {
    let mut world = World::new(Setup::default());
    for source in ["127.0.0.1:40000", "172.16.1.255:40000"] {
        let packet = builder::udp(world.addresses(source, "172.16.1.103:8080"), b"");
        assert_eq!(world.send_local(&packet).0, Verdict::Drop, "{source}");
    }
    assert_eq!(world.drops(), [DropReason::Martian]);
    assert_eq!(world.flows(), 0);
}

#[test]
fn nat_ports_are_not_shared_with_flows_of_other_clients() {
    let mut world = World::new(Setup {
        backends: vec![("172.16.1.2:8081", BackendState::Active)],
        ..Setup::default()
    });
    let mut ports = std::collections::HashSet::new();
    for port in 0..32 {
        let local = world.connect_local(&format!("172.16.1.103:{}", 40_000 + port));
        let other = world.connect(&format!("172.16.1.100:{}", 40_000 + port));
        assert!(ports.insert(local.source.port()) && ports.insert(other.source.port()));
    }
    assert_eq!(ports.len(), 64, "all of them");
}

#[test]
fn a_flow_of_a_local_client_goes_on_with_new_snapshots_and_attachments() {
    for framing in [Framing::Ethernet, Framing::RawIp] {
        let mut world = World::new(Setup {
            framing,
            ..Setup::default()
        });
        let client = CLIENTS[0];
        let seen = world.connect_local(client);
        world.publish(|_| ());
        world.engines[0].set_framing(framing);
        let data = world.backend_tcp(&seen, ACK, b"still here");
        world.deliver(&data);
        let data = world.client_tcp(client, ACK, b"so am I");
        world.forward_local(&data);
        // Its address leaves the interface.
        world.publish(|snapshot| snapshot.addresses.retain(IpAddr::is_ipv6));
        world.sweep();
        assert_eq!(world.flows(), 0);
    }
}

/// The kernel of this namespace saw no reason to fragment, since the loopback interface takes 64 KB.
#[test]
fn long_datagrams_of_local_clients_are_fragmented() {
    let mut world = World::new(Setup::default());
    let packet = world.client_udp(CLIENTS[0], &[7; 4_000]);
    assert_eq!(packet[20] & 0x40, 0x40, "Don't Fragment");
    assert_eq!(world.send_local(&packet).0, Verdict::Fragment { mtu: 1_500 });
    let long = world.client_udp("172.16.1.100:40000", &[7; 4_000]);
    assert_eq!(world.send(&long).0, Verdict::Drop);
    assert_eq!(world.drops(), [DropReason::UdpSuperPacket]);
}

/// Over IPv6 only a sender fragments: the balancer does in the place of the local one.
#[test]
fn long_datagrams_of_local_clients_are_fragmented_over_ipv6_too() {
    for framing in [Framing::Ethernet, Framing::RawIp] {
        let mut world = World::new(Setup {
            framing,
            ..Setup::default()
        });
        let l3 = if world.ethernet() { 14 } else { 0 };
        let payload: Vec<u8> = (0..=250).cycle().take(4_000).collect();
        let packet = world.client_udp(CLIENTS[1], &payload);
        let (verdict, whole) = world.send_local(&packet);
        assert_eq!(verdict, Verdict::Fragment { mtu: 1_500 });
        validate::assert_valid(&whole, world.ethernet());
        let mut pieces = Vec::new();
        let mut port = MemPort::new(8);
        world.engines[0].fragment_packet(&mut port, &frames_of(&whole, 3_840), 1_500, &mut pieces);
        assert_eq!(world.stats[0].fragmented.get(), 1);
        let mut datagram = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let bytes = piece.bytes();
            assert!(bytes.len() <= l3 + 1_500);
            assert_eq!(bytes[..l3 + 4], whole[..l3 + 4]);
            assert_eq!(bytes[l3 + 8..l3 + 40], whole[l3 + 8..l3 + 40], "addresses");
            let ip = &bytes[l3..];
            assert_eq!(usize::from(u16::from_be_bytes([ip[4], ip[5]])) + 40, ip.len());
            assert_eq!((ip[6], ip[7], ip[40], ip[41]), (44, whole[l3 + 7], 17, 0));
            let field = usize::from(u16::from_be_bytes([ip[42], ip[43]]));
            let more = usize::from(index + 1 < pieces.len());
            assert_eq!(field, datagram.len() | more);
            assert_eq!(ip[44..48], pieces[0].bytes()[l3 + 44..l3 + 48], "identification");
            datagram.extend_from_slice(&ip[48..]);
        }
        assert_eq!(datagram, whole[l3 + 40..]);
        // The next number of this worker, so that no other datagram in fragments has it (RFC 8200 section 4.5).
        let mut next = Vec::new();
        world.engines[0].fragment_packet(&mut port, &frames_of(&whole, 3_840), 1_500, &mut next);
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes[l3 + 44..l3 + 48].try_into().unwrap());
        assert_eq!(number(next[0].bytes()), number(pieces[0].bytes()) + 1);
        // Those of other clients are refused.
        let packet = world.client_udp("[2001:db8::64]:40000", &payload);
        assert_eq!(world.send(&packet).0, Verdict::Drop);
        assert_eq!(world.drops(), [DropReason::UdpSuperPacket]);
    }
}

#[test]
fn responses_to_local_clients_are_marked_as_theirs() {
    let mut world = World::new(Setup {
        backends: Vec::new(),
        ..Setup::default()
    });
    for client in CLIENTS {
        let syn = world.client_tcp(client, SYN, b"");
        for local in [true, false] {
            let mut frames = vec![frame(&syn)];
            frames[0].set_local(local);
            let verdict = world.engines[0].forward(&mut frames, Origin::Queue, world.now);
            let want = if local { Verdict::Reject } else { Verdict::Drop };
            assert_eq!((verdict, frames[0].is_local()), (want, local));
        }
    }
}

#[test]
fn the_reset_of_a_dead_backends_connection_is_delivered() {
    let mut world = World::new(Setup {
        backends: vec![("172.16.1.2:8081", BackendState::Active)],
        ..Setup::default()
    });
    let client = CLIENTS[0];
    world.connect_local(client);
    world.publish_backends(vec![("172.16.1.2:8081", BackendState::Down)]);
    world.engines[0].sweep(world.now);
    let mut out = Vec::new();
    world.engines[0].reset_orphans(&mut MemPort::new(4), &mut out);
    let resets: Vec<_> = out
        .iter()
        .map(|frame| {
            (
                frame.is_local(),
                Seen::of(frame.bytes(), true).destination.to_string(),
            )
        })
        .collect();
    assert_eq!(
        resets,
        [(false, "172.16.1.2:8081".to_owned()), (true, client.to_owned())]
    );
}

#[test]
fn an_error_about_a_packet_of_a_local_client_is_delivered() {
    let mut world = World::new(Setup::default());
    let datagram = world.client_udp(CLIENTS[0], &[1; 600]);
    let (_, sent) = world.send_local(&datagram);
    let error = builder::icmp_error(
        world.addresses("172.16.1.2:0", "172.16.1.103:0"),
        3,
        3,
        0,
        &sent[14..],
    );
    let (verdict, out) = world.send(&error);
    assert_eq!(verdict, Verdict::Deliver);
    validate::assert_valid(&out, true);
    let quoted = Seen::of(&[&out[..14], &out[42..]].concat(), true);
    assert_eq!(quoted.source.to_string(), CLIENTS[0]);
}

/// The first fragment was another client's, whose flow made room for the local one.
#[test]
fn the_rest_of_another_clients_datagram_is_not_for_a_local_client_with_its_nat_port() {
    let mut world = World::new(Setup {
        nat_ports: (20_000, 20_000),
        ..Setup::default()
    });
    let request = world.client_udp("172.16.1.100:40000", b"request");
    let seen = world.forward(&request);
    let nat = format!("172.16.1.103:{}", seen.source.port());
    let backend = seen.destination.to_string();
    let datagram = builder::udp(world.addresses(&backend, &nat), &[9; 4_000]);
    let fragments = builder::fragments(&datagram, true, 1_400, 77);
    assert_eq!(world.send(&fragments[0]).0, Verdict::Transmit);
    let request = world.client_udp("172.16.1.103:40000", b"request");
    let (verdict, _) = world.send_local(&request);
    assert_eq!((verdict, world.flows()), (Verdict::Transmit, 1));
    for fragment in &fragments[1..] {
        assert_eq!(world.send(fragment).0, Verdict::Drop);
    }
    assert_eq!(world.dropped(DropReason::FragmentUnmatched), 2);
}
