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
fn too_big_makes_super_packets_smaller() {
    let mut world = World::new(Setup::default());
    world.connect("172.16.1.100:40000");
    let data = world.client_tcp("172.16.1.100:40000", flags::ACK, &[1; 600]);
    let (_, sent) = world.send(&data);
    let error = builder::icmp_error(
        world.addresses("172.16.1.1:0", "172.16.1.103:0"),
        3,
        4,
        1_240,
        inner(&sent),
    );
    assert_eq!(world.send(&error).0, Verdict::Transmit);
    let large = world.client_tcp("172.16.1.100:40000", flags::ACK, &[1; 6_000]);
    let (verdict, _) = world.send_frames(frames_of(&large, 3_840));
    assert_eq!(verdict, Verdict::Segment { mss: 1_200 });
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
fn own_errors_are_rate_limited() {
    let mut world = World::new(Setup {
        backends: vec![],
        ..Setup::default()
    });
    let question = world.client_udp("172.16.1.100:40000", b"q");
    let answered = (0..5_000)
        .filter(|_| world.send(&question).0 == Verdict::Reject)
        .count();
    assert_eq!(answered, 200);
    assert_eq!(world.dropped(DropReason::NoBackend), 5_000);
    assert_eq!(world.stats[0].answers_suppressed.get(), 4_800);
    world.pass(Duration::from_millis(100));
    let answered = (0..5_000)
        .filter(|_| world.send(&question).0 == Verdict::Reject)
        .count();
    assert_eq!(answered, 100);
}
