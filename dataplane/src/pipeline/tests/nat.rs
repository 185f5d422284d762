//! Both translations, there and back.

use super::*;
use crate::testing::frames_of;
use etherparse::TcpOptionElement;

#[test]
fn requests_and_replies_are_translated_both_ways() {
    for framing in [Framing::Ethernet, Framing::RawIp] {
        for (client, service, backend) in [
            ("172.16.1.100:40000", "172.16.1.103:8080", "172.16.1.2:8081"),
            (
                "[2001:db8::64]:40000",
                "[2001:db8::67]:8080",
                "[2001:db8::2]:8081",
            ),
        ] {
            for tcp in [true, false] {
                let mut world = World::new(Setup {
                    framing,
                    ..Setup::default()
                });
                let request = if tcp {
                    world.client_tcp(client, flags::SYN, b"")
                } else {
                    world.client_udp(client, b"question")
                };
                let seen = world.forward(&request);
                assert_eq!(seen.destination.to_string(), backend);
                assert_eq!(
                    seen.source.ip().to_string(),
                    service.parse::<SocketAddr>().unwrap().ip().to_string()
                );
                assert!(
                    (NAT_PORTS.0..=NAT_PORTS.1).contains(&seen.source.port()),
                    "{seen:?}"
                );
                assert_eq!(seen.ttl, 63);
                assert_eq!(
                    seen.macs,
                    (framing == Framing::Ethernet).then_some((OWN_MAC, BACKEND_MAC))
                );

                let reply = if tcp {
                    world.backend_tcp(&seen, flags::SYN | flags::ACK, b"")
                } else {
                    world.backend_udp(&seen, b"answer")
                };
                let back = world.forward(&reply);
                assert_eq!(
                    (
                        back.source.to_string().as_str(),
                        back.destination.to_string().as_str()
                    ),
                    (service, client)
                );
                // The kernel knows no neighbour: the reply goes where the request came from.
                assert_eq!(
                    back.macs,
                    (framing == Framing::Ethernet).then_some((OWN_MAC, CLIENT_MAC))
                );
                assert_eq!(back.payload, if tcp { b"".to_vec() } else { b"answer".to_vec() });
            }
        }
    }
}

#[test]
fn two_clients_with_one_source_port_get_a_nat_port_each() {
    let mut world = World::new(Setup::default());
    let first = world.connect("172.16.1.100:5060");
    let second = world.connect("172.16.1.101:5060");
    assert_eq!(first.destination, second.destination);
    assert_ne!(first.source, second.source);
    for (seen, client) in [(&first, "172.16.1.100:5060"), (&second, "172.16.1.101:5060")] {
        let reply = world.backend_tcp(seen, flags::ACK | flags::PSH, client.as_bytes());
        let back = world.forward(&reply);
        assert_eq!(back.destination.to_string(), client);
        assert_eq!(back.payload, client.as_bytes());
    }
}

#[test]
fn a_backend_that_calls_its_own_service_gets_replies_from_the_service() {
    let mut world = World::new(Setup::default());
    let seen = world.connect("172.16.1.2:50000");
    assert_eq!(seen.destination.to_string(), "172.16.1.2:8081");
    assert_eq!(seen.source.ip().to_string(), "172.16.1.103");
}

#[test]
fn partial_checksums_are_completed() {
    let mut world = World::new(Setup::default());
    world.connect("172.16.1.100:40000");
    let mut data = world.client_tcp(
        "172.16.1.100:40000",
        flags::ACK,
        b"from a sender that offloads checksums",
    );
    builder::make_checksum_partial(&mut data, true);
    assert_eq!(
        world.forward(&data).payload,
        b"from a sender that offloads checksums"
    );
    let mut question = world.client_udp("172.16.1.100:40000", b"odd");
    builder::make_checksum_partial(&mut question, true);
    assert_eq!(world.forward(&question).payload, b"odd");
}

#[test]
fn the_kernels_neighbour_is_used_when_it_is_known() {
    let mut world = World::new(Setup::default());
    let seen = world.connect("172.16.1.100:40000");
    let router = MacAddr([2, 0, 0, 0, 0, 0x99]);
    world.publish(|snapshot| {
        let gateway = "172.16.1.1".parse().unwrap();
        let routes = vec![Route {
            kind: RouteKind::Unicast,
            destination: "0.0.0.0".parse().unwrap(),
            prefix_length: 0,
            gateway: Some(gateway),
            metric: 0,
            mtu: None,
        }];
        snapshot.next_hops = NextHops::new(
            Link::Ethernet(OWN_MAC),
            2,
            routes,
            HashMap::from([(gateway, router)]),
        );
    });
    let reply = world.backend_tcp(&seen, flags::ACK, b"x");
    assert_eq!(world.forward(&reply).macs, Some((OWN_MAC, router)));
}

#[test]
fn without_a_kernel_neighbour_replies_go_to_the_source_of_the_last_request() {
    let mut world = World::new(Setup::default());
    let seen = world.connect("172.16.1.100:40000");
    let moved = MacAddr([2, 0, 0, 0, 0, 0x77]);
    let mut addresses = world.addresses("172.16.1.100:40000", "172.16.1.103:8080");
    addresses.macs = Some((moved, OWN_MAC));
    world.forward(&builder::tcp(addresses, &Tcp::flags(flags::ACK), b"x"));
    let reply = world.backend_tcp(&seen, flags::ACK, b"x");
    assert_eq!(world.forward(&reply).macs, Some((OWN_MAC, moved)));
}

#[test]
fn a_backend_without_a_mac_address_is_asked_for_and_no_flow_is_opened() {
    let mut world = World::new(Setup::default());
    world.publish(|snapshot| {
        for backend in snapshot.backend_slots.iter_mut().flatten() {
            backend.mac = None;
        }
    });
    let syn = world.client_tcp("172.16.1.100:40000", flags::SYN, b"");
    assert_eq!(world.send(&syn).0, Verdict::Drop);
    assert_eq!(world.dropped(DropReason::NeighborUnresolved), 1);
    assert_eq!(world.flows(), 0);
    let asked = world.engines[0].signals.events.pop();
    assert_eq!(
        asked,
        Some(WorkerEvent::Unresolved("172.16.1.2".parse().unwrap()))
    );
}

#[test]
fn tcp_super_packets_are_segmented_to_the_agreed_mss() {
    let mut world = World::new(Setup::default());
    let addresses = world.addresses("172.16.1.100:40000", "172.16.1.103:8080");
    let options = [TcpOptionElement::MaximumSegmentSize(1_460)];
    let syn = Tcp {
        options: &options,
        ..Tcp::flags(flags::SYN)
    };
    let seen = world.forward(&builder::tcp(addresses, &syn, b""));
    let options = [TcpOptionElement::MaximumSegmentSize(1_200)];
    let syn_ack = Tcp {
        options: &options,
        ..Tcp::flags(flags::SYN | flags::ACK)
    };
    world.forward(&builder::tcp(
        world.addresses(&seen.destination.to_string(), &seen.source.to_string()),
        &syn_ack,
        b"",
    ));
    let data = world.client_tcp("172.16.1.100:40000", flags::ACK | flags::PSH, &[7; 20_000]);
    let (verdict, _) = world.send_frames(frames_of(&data, 3_840));
    assert_eq!(verdict, Verdict::Segment { mss: 1_200 });

    let addresses = world.addresses("172.16.1.101:40000", "172.16.1.103:8080");
    world.forward(&builder::tcp(addresses, &Tcp::flags(flags::SYN), b""));
    let timestamps = [TcpOptionElement::Timestamp(1, 2)];
    let data = Tcp {
        options: &timestamps,
        ..Tcp::flags(flags::ACK)
    };
    let (verdict, _) = world.send_frames(frames_of(&builder::tcp(addresses, &data, &[7; 5_000]), 3_840));
    // 1500 less IPv4 and TCP headers, the latter with 12 bytes of options.
    assert_eq!(verdict, Verdict::Segment { mss: 1_448 });
}

#[test]
fn udp_super_packets_are_refused_under_their_own_reason() {
    let mut world = World::new(Setup::default());
    let packet = world.client_udp("172.16.1.100:40000", &[1; 20_000]);
    assert_eq!(world.send_frames(frames_of(&packet, 3_840)).0, Verdict::Drop);
    assert_eq!(world.dropped(DropReason::UdpSuperPacket), 1);
}

#[test]
fn strays_are_counted_under_their_reasons() {
    let mut world = World::new(Setup::default());
    for (source, destination, reason) in [
        ("172.16.1.100:1000", "172.16.1.104:8080", DropReason::NoService),
        ("172.16.1.100:1000", "172.16.1.103:8079", DropReason::NoService),
        ("172.16.1.103:1000", "172.16.1.103:8080", DropReason::Martian),
        ("127.0.0.1:1000", "172.16.1.103:8080", DropReason::Martian),
        ("172.16.1.255:1000", "172.16.1.103:8080", DropReason::Martian),
        ("172.16.1.255:1000", "172.16.1.104:8080", DropReason::Martian),
        ("172.16.1.2:8081", "172.16.1.103:20000", DropReason::UnknownReply),
    ] {
        let packet = builder::udp(world.addresses(source, destination), b"x");
        assert_ne!(world.send(&packet).0, Verdict::Transmit);
        assert_eq!(world.dropped(reason), 1, "{source} -> {destination}: {reason}");
        world = World::new(Setup::default());
    }
    assert_eq!(world.send(&[0; 3]).0, Verdict::Drop);
    assert_eq!(world.dropped(DropReason::Malformed), 1);
}

/// Two backends would answer each other for ever.
#[test]
fn a_datagram_from_a_live_backend_socket_of_its_service_is_refused() {
    const STATES: [(BackendState, bool); 5] = [
        (BackendState::Active, true),
        (BackendState::Unknown, true),
        (BackendState::Draining { since: Timestamp(0) }, true),
        (BackendState::Down, true),
        (BackendState::Gone, false),
    ];
    for (scheduler, workers) in [
        (Scheduler::RoundRobin, 1),
        (Scheduler::Maglev, 1),
        (Scheduler::Maglev, 4),
    ] {
        for (state, refused) in STATES {
            let mut world = World::new(Setup {
                scheduler,
                workers,
                backends: vec![
                    ("172.16.1.2:8081", state),
                    ("172.16.1.3:8081", BackendState::Active),
                    ("[2001:db8::2]:8081", state),
                    ("[2001:db8::3]:8081", BackendState::Active),
                ],
                ..Setup::default()
            });
            for client in ["172.16.1.2:8081", "[2001:db8::2]:8081"] {
                let looping = world.client_udp(client, b"x");
                let verdict = world.send(&looping).0;
                assert_eq!(verdict == Verdict::Drop, refused, "{client} {state:?} {workers}");
            }
            let expected = if refused { 2 } else { 0 };
            assert_eq!(world.dropped(DropReason::BackendLoop), expected, "{state:?}");
            assert_eq!(world.flows(), 2 - u32::try_from(expected).unwrap());
        }
    }
}

#[test]
fn a_backend_uses_its_own_service_from_other_ports_and_by_tcp() {
    let mut world = World::new(Setup::default());
    let question = world.client_udp("172.16.1.2:40000", b"q");
    let seen = world.forward(&question);
    assert_eq!(seen.destination.to_string(), "172.16.1.2:8081", "hairpin");
    let answer = world.backend_udp(&seen, b"a");
    assert_eq!(world.forward(&answer).destination.to_string(), "172.16.1.2:40000");
    world.connect("172.16.1.2:8081");
    assert_eq!(world.drops(), []);
}

/// The fragments of a looping datagram are no way around it.
#[test]
fn a_fragmented_datagram_from_a_live_backend_socket_is_refused() {
    let mut world = World::new(Setup::default());
    let packet = world.client_udp("172.16.1.2:8081", &[7; 2_000]);
    let fragments = builder::fragments(&packet, true, 1_480, 77);
    assert_eq!(world.send(&fragments[0]).0, Verdict::Drop);
    assert_eq!(world.dropped(DropReason::BackendLoop), 1);
}
