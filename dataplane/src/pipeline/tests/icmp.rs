//! ICMP errors through the balancer, in both directions and both families, and its own.

use super::*;

/// The IP packet inside an Ethernet frame.
fn inner(packet: &[u8]) -> &[u8] {
    &packet[14..]
}

struct Case {
    client: &'static str,
    router: &'static str,
    own: &'static str,
    icmp: usize,
    kind: u8,
    code: u8,
}

const CASES: [Case; 2] = [
    Case {
        client: "172.16.1.100:40000",
        router: "172.16.1.1:0",
        own: "172.16.1.103:0",
        icmp: 34,
        kind: 3,
        code: 4,
    },
    Case {
        client: "[2001:db8::64]:40000",
        router: "[2001:db8::1]:0",
        own: "[2001:db8::67]:0",
        icmp: 54,
        kind: 2,
        code: 0,
    },
];

#[test]
fn an_error_about_a_packet_to_the_backend_reaches_the_client_as_its_own() {
    for case in CASES {
        let mut world = World::new(Setup::default());
        world.connect(case.client);
        let data = world.client_tcp(case.client, flags::ACK, &[1; 600]);
        let (_, sent) = world.send(&data);
        let error = builder::icmp_error(
            world.addresses(case.router, case.own),
            case.kind,
            case.code,
            1_400,
            inner(&sent),
        );
        let (verdict, out) = world.send(&error);
        assert_eq!(verdict, Verdict::Transmit);
        validate::assert_valid(&out, true);
        assert_eq!((out[case.icmp], out[case.icmp + 1]), (case.kind, case.code));
        assert_eq!(&out[case.icmp + 4..case.icmp + 8], 1_400_u32.to_be_bytes());
        // The quoted packet is the client's own, except for its hop limit and what follows from it.
        let quoted = Seen::of(&[&out[..14], &out[case.icmp + 8..]].concat(), true);
        let original = Seen::of(&data, true);
        assert_eq!(
            (quoted.source, quoted.destination),
            (original.source, original.destination)
        );
        assert_eq!(quoted.payload, original.payload);
        let outer = &out[if case.icmp == 34 { 30..34 } else { 38..54 }];
        let client: SocketAddr = case.client.parse().unwrap();
        match client.ip() {
            IpAddr::V4(address) => assert_eq!(outer, address.octets()),
            IpAddr::V6(address) => assert_eq!(outer, address.octets()),
        }
    }
}

#[test]
fn an_error_about_a_packet_to_the_client_reaches_the_backend_as_its_own() {
    for case in CASES {
        let mut world = World::new(Setup::default());
        let seen = world.connect(case.client);
        let data = world.backend_tcp(&seen, flags::ACK, &[2; 600]);
        let (_, sent) = world.send(&data);
        let error = builder::icmp_error(
            world.addresses(case.router, case.own),
            case.kind,
            case.code,
            1_300,
            inner(&sent),
        );
        let (verdict, out) = world.send(&error);
        assert_eq!(verdict, Verdict::Transmit);
        validate::assert_valid(&out, true);
        let quoted = Seen::of(&[&out[..14], &out[case.icmp + 8..]].concat(), true);
        assert_eq!(
            (quoted.source, quoted.destination),
            (seen.destination, seen.source)
        );
        assert_eq!(&out[..6], BACKEND_MAC.0);
    }
}

#[test]
fn icmp_neither_refreshes_nor_ends_a_flow() {
    let mut world = World::new(Setup::default());
    let question = world.client_udp("172.16.1.100:40000", b"q");
    let (_, sent) = world.send(&question);
    world.pass(Duration::from_secs(200));
    let error = builder::icmp_error(
        world.addresses("172.16.1.2:0", "172.16.1.103:0"),
        3,
        3,
        0,
        inner(&sent),
    );
    assert_eq!(world.send(&error).0, Verdict::Transmit);
    assert_eq!(world.flows(), 1);
    assert_eq!(
        world.stats[0].backend(BackendSlot(16)).flows_failed[2].get(),
        1,
        "unreachable"
    );
    world.pass(Duration::from_secs(101));
    assert_eq!(world.send(&error).0, Verdict::Drop);
    assert_eq!(world.dropped(DropReason::IcmpUnmatched), 1);
}

#[test]
fn a_flow_whose_backend_is_unreachable_fails_once() {
    let mut world = World::new(Setup::default());
    for client in ["172.16.1.100:40000", "172.16.1.100:40001"] {
        let question = world.client_udp(client, b"q");
        let to = world.addresses("172.16.1.2:0", "172.16.1.103:0");
        // The client asks again, and each time a router says so.
        for _ in 0..3 {
            let (_, sent) = world.send(&question);
            let error = builder::icmp_error(to, 3, 1, 0, inner(&sent));
            assert_eq!(world.send(&error).0, Verdict::Transmit);
        }
    }
    assert_eq!(world.stats[0].backend(BackendSlot(16)).flows_failed[2].get(), 2);
}

#[test]
fn errors_about_unknown_packets_are_dropped() {
    let mut world = World::new(Setup::default());
    for (source, destination) in [
        ("172.16.1.103:20001", "172.16.1.2:8081"),
        ("172.16.1.103:8080", "172.16.1.100:40000"),
        ("172.16.1.99:20001", "172.16.1.2:8081"),
    ] {
        let stranger = builder::udp(Addresses::raw(source, destination), b"never sent");
        let error = builder::icmp_error(
            world.addresses("172.16.1.1:0", "172.16.1.103:0"),
            3,
            1,
            0,
            &stranger,
        );
        assert_eq!(world.send(&error).0, Verdict::Drop);
    }
    assert_eq!(world.dropped(DropReason::IcmpUnmatched), 3);
}

#[test]
fn a_packet_without_hops_left_is_rejected_with_time_exceeded() {
    for (client, icmp, kind) in [("172.16.1.100:40000", 34, 11), ("[2001:db8::64]:40000", 54, 3)] {
        let mut world = World::new(Setup::default());
        let seen = world.connect(client);
        let service = if icmp == 34 {
            "172.16.1.103:8080"
        } else {
            "[2001:db8::67]:8080"
        };
        let mut request = world.addresses(client, service);
        let mut reply = world.addresses(&seen.destination.to_string(), &seen.source.to_string());
        for addresses in [&mut request, &mut reply] {
            addresses.ttl = 1;
            let (verdict, error) = world.send(&builder::tcp(*addresses, &Tcp::flags(flags::ACK), b"x"));
            assert_eq!(verdict, Verdict::Reject);
            validate::assert_valid(&error, true);
            assert_eq!((error[icmp], error[icmp + 1]), (kind, 0));
        }
        assert_eq!(world.dropped(DropReason::TtlExpired), 2);
    }
}

#[test]
fn own_errors_are_limited_for_each_source_and_in_all() {
    let mut world = World::new(Setup {
        backends: vec![],
        ..Setup::default()
    });
    let answered = |world: &mut World, client: &str, packets: usize| {
        let question = world.client_udp(client, b"q");
        (0..packets)
            .filter(|_| world.send(&question).0 == Verdict::Reject)
            .count()
    };
    // A scanner.
    assert_eq!(answered(&mut world, "172.16.1.66:40000", 5_000), 20);
    assert_eq!(world.dropped(DropReason::NoBackend), 5_000);
    assert_eq!(world.stats[0].answers_suppressed.get(), 4_980);
    assert_eq!(
        answered(&mut world, "172.16.1.100:40000", 1),
        1,
        "others still get theirs"
    );
    world.pass(Duration::from_millis(100));
    assert_eq!(answered(&mut world, "172.16.1.66:40000", 5_000), 10);
    let all: usize = (1..250)
        .map(|host| answered(&mut world, &format!("172.16.2.{host}:40000"), 100))
        .sum();
    assert_eq!(all, 190, "200 in all");
}

/// An error about `sent` of kind 3, from a router.
fn error_about(world: &World, case: &Case, sent: &[u8]) -> Vec<u8> {
    let kind = if case.icmp == 34 { 3 } else { 1 };
    builder::icmp_error(world.addresses(case.router, case.own), kind, 1, 0, inner(sent))
}

/// What an end sees of its packet in an error behind the balancer: what it sent, one hop later.
fn one_hop_later(packet: &[u8]) -> Vec<u8> {
    let mut packet = inner(packet).to_vec();
    if packet[0] >> 4 == 4 {
        packet[8] -= 1;
        let header = etherparse::Ipv4HeaderSlice::from_slice(&packet)
            .unwrap()
            .to_header();
        packet[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    } else {
        packet[7] -= 1;
    }
    packet
}

/// RFC 5508 REQ-4 and REQ-5: byte by byte, in both directions, TCP and UDP.
#[test]
fn the_quoted_packet_is_the_one_that_its_sender_sent() {
    for case in CASES {
        let mut world = World::new(Setup::default());
        let seen = world.connect(case.client);
        let request = world.client_tcp(case.client, flags::ACK | flags::PSH, b"request");
        let reply = world.backend_tcp(&seen, flags::ACK | flags::PSH, b"reply");
        let question = world.client_udp(case.client, b"question");
        let asked = world.forward(&question);
        let answer = world.backend_udp(&asked, b"answer");
        for packet in [request, reply, question, answer] {
            let (_, sent) = world.send(&packet);
            let error = error_about(&world, &case, &sent);
            let (verdict, out) = world.send(&error);
            assert_eq!(verdict, Verdict::Transmit);
            validate::assert_valid(&out, true);
            assert_eq!(out[case.icmp + 8..], one_hop_later(&packet));
        }
    }
}

/// RFC 5508 REQ-7: the client of a service is one of its backends.
#[test]
fn errors_about_hairpinned_packets_reach_their_senders() {
    for case in CASES {
        let mut world = World::new(Setup::default());
        let client = if case.icmp == 34 {
            "172.16.1.2:40000"
        } else {
            "[2001:db8::2]:40000"
        };
        let seen = world.connect(client);
        assert_eq!(seen.destination.ip(), client.parse::<SocketAddr>().unwrap().ip());
        let request = world.client_tcp(client, flags::ACK, b"request");
        let reply = world.backend_tcp(&seen, flags::ACK, b"reply");
        for packet in [request, reply] {
            let (_, sent) = world.send(&packet);
            let error = error_about(&world, &case, &sent);
            let (verdict, out) = world.send(&error);
            assert_eq!(verdict, Verdict::Transmit);
            assert_eq!(out[case.icmp + 8..], one_hop_later(&packet));
        }
    }
}

/// RFC 5508 REQ-3, RFC 4884: what is wrong is dropped under its reason, options and extensions are passed over.
#[test]
fn errors_are_checked_before_they_are_forwarded() {
    let case = &CASES[0];
    let mut world = World::new(Setup::default());
    world.connect(case.client);
    let data = world.client_tcp(case.client, flags::ACK, &[1; 100]);
    let (_, sent) = world.send(&data);
    let quote = inner(&sent);
    let error = |world: &World, length: u32, original: &[u8]| {
        builder::icmp_error(world.addresses(case.router, case.own), 3, 1, length, original)
    };
    let mut wrong = error(&world, 0, quote);
    wrong[36] ^= 1;
    assert_eq!(world.send(&wrong).0, Verdict::Drop);
    assert_eq!(world.dropped(DropReason::BadChecksum), 1);

    let mut quote_with_wrong_checksum = quote.to_vec();
    quote_with_wrong_checksum[10] ^= 1;
    let wrong = error(&world, 0, &quote_with_wrong_checksum);
    assert_eq!(world.send(&wrong).0, Verdict::Drop);
    assert_eq!(world.dropped(DropReason::BadChecksum), 2);

    // A message in several frames.
    let long = error(&world, 0, &[quote, &[0; 4_000]].concat());
    let mut wrong = long.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(world.send_frames(frames_of(&wrong, 1_000)).0, Verdict::Drop);
    assert_eq!(world.dropped(DropReason::BadChecksum), 3);

    // Extensions behind 128 bytes, which is 32 words (RFC 4884 section 5.2).
    let mut padded = quote[..60].to_vec();
    padded.resize(128, 0);
    let extensions = [0x20, 0, 0xdf, 0xff, 0, 8, 1, 1, 0x12, 0x34, 0x51, 0xff];
    padded.extend(extensions);
    let with_extensions = error(&world, 32 << 16, &padded);
    let (verdict, out) = world.send(&with_extensions);
    assert_eq!(verdict, Verdict::Transmit);
    validate::assert_valid(&out, true);
    assert_eq!(out[out.len() - 12..], extensions);
    assert_eq!(out[38..42], [0, 32, 0, 0]);

    // Options in the quoted header: no-operation four times.
    let mut options = quote.to_vec();
    options.splice(20..20, [1; 4]);
    options[0] = 0x46;
    options[3] += 4;
    let header = etherparse::Ipv4HeaderSlice::from_slice(&options)
        .unwrap()
        .to_header();
    options[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    let with_options = error(&world, 0, &options);
    let (verdict, out) = world.send(&with_options);
    assert_eq!(verdict, Verdict::Transmit);
    validate::assert_valid(&out, true);
    assert_eq!(out[62..66], [1; 4]);
    assert_eq!(
        out[66..68],
        40_000_u16.to_be_bytes(),
        "the client's port behind them"
    );
}

/// The kernel's neighbour of the client changed after the flow's last packet.
#[test]
fn errors_go_to_the_present_neighbour_of_the_client() {
    let case = &CASES[0];
    let mut world = World::new(Setup::default());
    world.connect(case.client);
    let data = world.client_tcp(case.client, flags::ACK, b"data");
    let (_, sent) = world.send(&data);
    let moved = MacAddr([2, 0, 0, 0, 0, 0x99]);
    world.publish(|snapshot| {
        let routes = vec![Route {
            kind: RouteKind::Unicast,
            destination: "172.16.1.0".parse().unwrap(),
            prefix_length: 24,
            gateway: None,
            metric: 0,
            mtu: None,
        }];
        let neighbors = HashMap::from([("172.16.1.100".parse().unwrap(), moved)]);
        snapshot.next_hops = NextHops::new(Link::Ethernet(OWN_MAC), 2, routes, neighbors);
    });
    let error = error_about(&world, case, &sent);
    let (verdict, out) = world.send(&error);
    assert_eq!(verdict, Verdict::Transmit);
    assert_eq!(out[..6], moved.0);
}
