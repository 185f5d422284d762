//! Packets that are longer than the next hop takes: refused with the right MTU, fragmented or segmented.

use super::*;
use crate::pipeline::path_mtu::LIFETIME;
use crate::testing::MemPort;
use crate::testing::builder::TcpOptionElement;

const V4: &str = "172.16.1.100:40000";
const V6: &str = "[2001:db8::64]:40000";

/// Gives host routes an MTU: towards the clients and towards the backends.
fn narrow(world: &mut World, client: u16, backend: u16) {
    world.publish(|snapshot| {
        let hosts = [
            ("172.16.1.100", client),
            ("2001:db8::64", client),
            ("172.16.1.2", backend),
            ("2001:db8::2", backend),
        ];
        let mut routes: Vec<Route> = hosts
            .iter()
            .map(|&(host, mtu)| {
                let destination: IpAddr = host.parse().unwrap();
                Route {
                    kind: RouteKind::Unicast,
                    destination,
                    prefix_length: if destination.is_ipv4() { 32 } else { 128 },
                    gateway: None,
                    metric: 0,
                    mtu: Some(mtu),
                }
            })
            .collect();
        routes.push(Route {
            kind: RouteKind::Unicast,
            destination: "172.16.1.0".parse().unwrap(),
            prefix_length: 24,
            gateway: None,
            metric: 0,
            mtu: None,
        });
        snapshot.next_hops = NextHops::new(Link::Ethernet(OWN_MAC), 2, routes, HashMap::new());
    });
}

/// The packet is refused with Fragmentation Needed or Packet Too Big, which says `mtu` and quotes it.
#[track_caller]
fn assert_too_big(world: &mut World, packet: &[u8], mtu: u16) {
    let (verdict, error) = world.send_frames(frames_of(packet, 3_840));
    assert_eq!(verdict, Verdict::Reject);
    validate::assert_valid(&error, true);
    let is_v4 = packet[14] >> 4 == 4;
    let (icmp, kind, source, quote) = if is_v4 {
        (34, [3, 4], 26..30, 42)
    } else {
        (54, [2, 0], 22..38, 62)
    };
    assert_eq!(error[icmp..icmp + 2], kind);
    assert_eq!(
        u32::from_be_bytes(error[icmp + 4..icmp + 8].try_into().unwrap()),
        u32::from(mtu)
    );
    let own = if is_v4 { 30..34 } else { 38..54 };
    assert_eq!(
        error[source], packet[own],
        "from the address that the packet was sent to"
    );
    assert_eq!(error[quote..], packet[14..14 + error.len() - quote]);
}

/// Without DF; the IPv4 header checksum follows.
fn fragmentable(mut packet: Vec<u8>) -> Vec<u8> {
    packet[20] &= !0x40;
    let header = etherparse::Ipv4HeaderSlice::from_slice(&packet[14..])
        .unwrap()
        .to_header();
    packet[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    packet
}

/// A TCP connection whose ends announce these segment sizes; how the backend sees the client.
fn connect(world: &mut World, client: &str, mss: (u16, u16)) -> Seen {
    let service = if client.starts_with('[') {
        "[2001:db8::67]:8080"
    } else {
        "172.16.1.103:8080"
    };
    let options = [TcpOptionElement::MaximumSegmentSize(mss.0)];
    let syn = Tcp {
        options: &options,
        ..Tcp::flags(flags::SYN)
    };
    let seen = world.forward(&builder::tcp(world.addresses(client, service), &syn, b""));
    let options = [TcpOptionElement::MaximumSegmentSize(mss.1)];
    let syn_ack = Tcp {
        options: &options,
        acknowledgment: 1,
        ..Tcp::flags(flags::SYN | flags::ACK)
    };
    let back = world.addresses(&seen.destination.to_string(), &seen.source.to_string());
    world.forward(&builder::tcp(back, &syn_ack, b""));
    seen
}

fn data(world: &World, client: &str, length: usize) -> Vec<u8> {
    let service = if client.starts_with('[') {
        "[2001:db8::67]:8080"
    } else {
        "172.16.1.103:8080"
    };
    let segment = Tcp {
        sequence: 1,
        acknowledgment: 1,
        ..Tcp::flags(flags::ACK)
    };
    builder::tcp(world.addresses(client, service), &segment, &vec![1; length])
}

fn send_data(world: &mut World, client: &str, length: usize) -> Verdict {
    let packet = data(world, client, length);
    world.send_frames(frames_of(&packet, 3_840)).0
}

#[test]
fn datagrams_that_do_not_fit_the_route_are_refused_with_its_mtu_in_both_directions() {
    for (client, headers) in [(V4, 28), (V6, 48)] {
        let mut world = World::new(Setup::default());
        narrow(&mut world, 1_300, 1_400);
        let fitting = world.client_udp(client, &vec![1; 1_400 - headers]);
        let seen = world.forward(&fitting);
        let long = world.client_udp(client, &vec![1; 1_401 - headers]);
        assert_too_big(&mut world, &long, 1_400);
        let fitting = world.backend_udp(&seen, &vec![1; 1_300 - headers]);
        world.forward(&fitting);
        let long = world.backend_udp(&seen, &vec![1; 1_301 - headers]);
        assert_too_big(&mut world, &long, 1_300);
        assert_eq!(world.drops(), [DropReason::MtuExceeded]);
        // Other clients have the interface's.
        let other = if client == V4 {
            "172.16.1.99:1000"
        } else {
            "[2001:db8::63]:1000"
        };
        let question = world.client_udp(other, b"q");
        let seen = world.forward(&question);
        let answer = world.backend_udp(&seen, &vec![1; 1_500 - headers]);
        world.forward(&answer);
    }
}

#[test]
fn a_first_datagram_that_does_not_fit_opens_no_flow() {
    for (client, headers) in [(V4, 28), (V6, 48)] {
        let mut world = World::new(Setup::default());
        narrow(&mut world, 1_300, 1_400);
        let long = world.client_udp(client, &vec![1; 1_401 - headers]);
        assert_too_big(&mut world, &long, 1_400);
        assert_eq!(world.flows(), 0);
    }
}

#[test]
fn without_df_a_datagram_is_fragmented_in_order() {
    let mut world = World::new(Setup::default());
    narrow(&mut world, 600, 700);
    let question = fragmentable(world.client_udp(V4, &[5; 1_400]));
    let mut port = MemPort::new(64);
    let mut fragment = |world: &mut World, packet: (Verdict, Vec<u8>), mtu: u16| {
        assert_eq!(packet.0, Verdict::Fragment { mtu });
        let mut out = Vec::new();
        world.engines[0].fragment_packet(&mut port, &frames_of(&packet.1, 3_840), mtu, &mut out);
        let pieces: Vec<Vec<u8>> = out.iter().map(|frame| frame.bytes().to_vec()).collect();
        assert!(pieces.iter().all(|piece| piece.len() <= usize::from(mtu) + 14));
        pieces
    };
    let sent = world.send(&question);
    let nat_port = u16::from_be_bytes([sent.1[34], sent.1[35]]);
    let pieces = fragment(&mut world, sent, 700);
    assert_eq!(fragments::udp_payload_of(&pieces), [5; 1_400]);
    let nat = format!("172.16.1.103:{nat_port}");
    let answer = builder::udp(world.addresses("172.16.1.2:8081", &nat), &[6; 1_400]);
    let sent = world.send(&fragmentable(answer));
    let pieces = fragment(&mut world, sent, 600);
    assert_eq!(fragments::udp_payload_of(&pieces), [6; 1_400]);
    assert_eq!(world.stats[0].fragmented.get(), 2);

    // Fragments that are too long become smaller ones of the same datagram.
    let long = world.client_udp(V4, &[7; 2_000]);
    let mut pieces = Vec::new();
    for piece in builder::fragments(&long, true, 1_208, 3) {
        let sent = world.send(&piece);
        if sent.0 == Verdict::Transmit {
            pieces.push(sent.1);
        } else {
            pieces.extend(fragment(&mut world, sent, 700));
        }
    }
    assert_eq!(fragments::udp_payload_of(&pieces), [7; 2_000]);
}

/// The segments of a super-packet are as long as the ends agreed on. If that is too long for the next hop, the sender
/// has to know; but a super-packet does not show whether it does.
#[test]
fn the_sender_of_a_super_packet_whose_segments_do_not_fit_is_told_once() {
    for (client, headers) in [(V4, 40), (V6, 60)] {
        let mut world = World::new(Setup::default());
        connect(&mut world, client, (1_460, 1_460));
        narrow(&mut world, 1_300, 1_400);
        let long = data(&world, client, 20_000);
        assert_too_big(&mut world, &long, 1_400);
        let mss = 1_400 - headers;
        assert_eq!(send_data(&mut world, client, 20_000), Verdict::Segment { mss });
        world.pass(LIFETIME);
        world.sweep();
        assert_too_big(&mut world, &long, 1_400);
    }
}

#[test]
fn a_single_segment_that_does_not_fit_the_route_is_refused_with_its_mtu() {
    let mut world = World::new(Setup::default());
    let seen = connect(&mut world, V4, (1_460, 1_460));
    narrow(&mut world, 1_300, 1_400);
    let long = data(&world, V4, 1_460);
    assert_too_big(&mut world, &long, 1_400);
    let back = world.addresses(&seen.destination.to_string(), &seen.source.to_string());
    let segment = Tcp {
        sequence: 1,
        acknowledgment: 1,
        ..Tcp::flags(flags::ACK)
    };
    let long = builder::tcp(back, &segment, &[1; 1_460]);
    assert_too_big(&mut world, &long, 1_300);
}

#[test]
fn a_super_packet_shorter_than_the_mtu_is_segmented_to_what_the_ends_agreed_on() {
    for (client, own) in [(V4, 1_460), (V6, 1_440)] {
        let mut world = World::new(Setup {
            mtu: 9_000,
            ..Setup::default()
        });
        connect(&mut world, client, (own, 8_960));
        assert_eq!(send_data(&mut world, client, own.into()), Verdict::Transmit);
        assert_eq!(
            send_data(&mut world, client, usize::from(own) + 1),
            Verdict::Segment { mss: own }
        );
        assert_eq!(
            send_data(&mut world, client, 6_000),
            Verdict::Segment { mss: own }
        );
    }
}

/// One byte made 2,340 packets of each 64 KB.
#[test]
fn an_announced_segment_size_has_a_floor() {
    for (client, floor) in [(V4, 512), (V6, 1_220)] {
        let mut world = World::new(Setup::default());
        connect(&mut world, client, (1, 1_460));
        assert_eq!(
            send_data(&mut world, client, 20_000),
            Verdict::Segment { mss: floor }
        );
    }
}

/// An ICMP error about the last packet that the backend would get.
fn too_big_about(world: &mut World, packet: &[u8], mtu: u32) -> Verdict {
    let (_, sent) = world.send(packet);
    let (router, own, kind, code) = if packet[14] >> 4 == 4 {
        ("172.16.1.1:0", "172.16.1.103:0", 3, 4)
    } else {
        ("[2001:db8::1]:0", "[2001:db8::67]:0", 2, 0)
    };
    let error = builder::icmp_error(world.addresses(router, own), kind, code, mtu, &sent[14..]);
    world.send(&error).0
}

#[test]
fn what_a_router_says_has_a_floor_and_ends() {
    for (client, mtu, floor) in [(V4, 68, 512), (V4, 1_000, 960), (V6, 1_280, 1_220)] {
        let mut world = World::new(Setup::default());
        connect(&mut world, client, (1_400, 1_400));
        let packet = data(&world, client, 1_300);
        assert_eq!(too_big_about(&mut world, &packet, mtu), Verdict::Transmit);
        assert_eq!(
            send_data(&mut world, client, 20_000),
            Verdict::Segment { mss: floor }
        );
        world.pass(LIFETIME - Duration::from_millis(1));
        world.sweep();
        assert_eq!(
            send_data(&mut world, client, 20_000),
            Verdict::Segment { mss: floor }
        );
        world.pass(Duration::from_millis(1));
        world.sweep();
        assert_eq!(
            send_data(&mut world, client, 20_000),
            Verdict::Segment { mss: 1_400 }
        );
    }
}

/// The end that gets the error judges it; here it changes nothing.
#[test]
fn implausible_errors_are_forwarded_and_not_believed() {
    for (client, mtu) in [
        (V4, 0),
        (V4, 67),
        (V4, 1_340),
        (V4, 9_000),
        (V6, 1_279),
        (V6, 70_000),
    ] {
        let mut world = World::new(Setup::default());
        connect(&mut world, client, (1_400, 1_400));
        // 1,340 bytes over IPv4: fits each of the larger MTUs.
        let packet = data(&world, client, 1_300);
        assert_eq!(too_big_about(&mut world, &packet, mtu), Verdict::Transmit);
        assert_eq!(
            send_data(&mut world, client, 20_000),
            Verdict::Segment { mss: 1_400 },
            "{mtu}"
        );
    }
}

/// The error itself is too long for the client's route, and no error is sent about an error.
#[test]
fn an_error_that_is_dropped_changes_nothing() {
    for (client, narrowest, mtu) in [(V4, 600, 1_000), (V6, 1_280, 1_300)] {
        let mut world = World::new(Setup::default());
        narrow(&mut world, narrowest, 1_500);
        connect(&mut world, client, (1_400, 1_400));
        let packet = data(&world, client, 1_300);
        assert_eq!(too_big_about(&mut world, &packet, mtu), Verdict::Drop);
        assert_eq!(world.dropped(DropReason::MtuExceeded), 1);
        assert_eq!(
            send_data(&mut world, client, 20_000),
            Verdict::Segment { mss: 1_400 }
        );
        let (_, sent) = world.send(&packet);
        let (router, own, kind, code) = if client == V4 {
            ("172.16.1.1:0", "172.16.1.103:0", 3, 1)
        } else {
            ("[2001:db8::1]:0", "[2001:db8::67]:0", 1, 3)
        };
        let error = builder::icmp_error(world.addresses(router, own), kind, code, 0, &sent[14..]);
        assert_eq!(world.send(&error).0, Verdict::Drop);
        let failed = (0..32).map(|slot| world.stats[0].backend(BackendSlot(slot)).flows_failed[2].get());
        assert_eq!(failed.sum::<u64>(), 0, "unreachable");
    }
}

#[test]
fn a_flow_lowered_twice_has_its_first_size_back() {
    let mut world = World::new(Setup::default());
    connect(&mut world, V4, (1_400, 1_400));
    for mtu in [1_200, 1_000] {
        let packet = data(&world, V4, 1_300);
        let packet = if mtu == 1_000 {
            data(&world, V4, 1_100)
        } else {
            packet
        };
        assert_eq!(too_big_about(&mut world, &packet, mtu), Verdict::Transmit);
        world.pass(Duration::from_secs(1));
    }
    assert_eq!(send_data(&mut world, V4, 20_000), Verdict::Segment { mss: 960 });
    world.pass(LIFETIME);
    world.sweep();
    assert_eq!(send_data(&mut world, V4, 20_000), Verdict::Segment { mss: 1_400 });
}

#[test]
fn a_new_flow_in_the_same_entry_keeps_its_own_size() {
    let mut world = World::new(Setup::default());
    connect(&mut world, V4, (1_400, 1_400));
    let packet = data(&world, V4, 1_300);
    assert_eq!(too_big_about(&mut world, &packet, 1_000), Verdict::Transmit);
    let reset = Tcp {
        sequence: 1_301,
        acknowledgment: 1,
        ..Tcp::flags(flags::RST | flags::ACK)
    };
    world.forward(&builder::tcp(
        world.addresses(V4, "172.16.1.103:8080"),
        &reset,
        b"",
    ));
    world.pass(Duration::from_secs(1));
    connect(&mut world, V4, (800, 1_400));
    assert_eq!(send_data(&mut world, V4, 800), Verdict::Transmit);
    world.pass(LIFETIME);
    world.sweep();
    assert_eq!(send_data(&mut world, V4, 20_000), Verdict::Segment { mss: 800 });
}
