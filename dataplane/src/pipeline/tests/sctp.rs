//! SCTP associations through the balancer.

use super::*;
use crate::testing::MemPort;
use crate::testing::sctp::{chunk, chunks, init, parameter, sctp};
use vl3lb_common::flow_feed::FlowFeed;
use vl3lb_common::flow_query::FlowState;
use vl3lb_common::stats::CloseCause;

const CLIENT: &str = "172.16.1.100:40000";
/// The tags that the client and the backend choose.
const CLIENT_TAG: u32 = 0xc1c1_c1c1;
const BACKEND_TAG: u32 = 0xbebe_bebe;
const SERVICE: ServiceSlot = ServiceSlot(2);

const ENDS: [(&str, &str, &str); 2] = [
    (CLIENT, "172.16.1.103:8080", "172.16.1.2:8081"),
    (
        "[2001:db8::64]:40000",
        "[2001:db8::67]:8080",
        "[2001:db8::2]:8081",
    ),
];

fn service(client: &str) -> &'static str {
    ENDS[usize::from(client.starts_with('['))].1
}

/// An association with one client.
struct Peer {
    client: &'static str,
    /// How the backend sees the client.
    seen: Seen,
}

impl World {
    fn client_sctp(&self, client: &str, tag: u32, chunks: &[u8]) -> Vec<u8> {
        sctp(self.addresses(client, service(client)), tag, chunks)
    }

    fn backend_sctp(&self, seen: &Seen, tag: u32, chunks: &[u8]) -> Vec<u8> {
        let (source, destination) = (seen.destination.to_string(), seen.source.to_string());
        sctp(self.addresses(&source, &destination), tag, chunks)
    }

    /// The four-way handshake.
    fn associate(&mut self, client: &'static str) -> Peer {
        let packet = self.client_sctp(client, 0, &init(chunks::INIT, CLIENT_TAG, &[]));
        let seen = self.forward(&packet);
        let packet = self.backend_sctp(&seen, CLIENT_TAG, &init(chunks::INIT_ACK, BACKEND_TAG, &[]));
        self.forward(&packet);
        let packet = self.client_sctp(client, BACKEND_TAG, &chunk(chunks::COOKIE_ECHO, 0, b"cookie"));
        assert_eq!(self.forward(&packet).source, seen.source);
        let packet = self.backend_sctp(&seen, CLIENT_TAG, &chunk(chunks::COOKIE_ACK, 0, &[]));
        self.forward(&packet);
        Peer { client, seen }
    }

    fn client_sends(&mut self, peer: &Peer, chunks: &[u8]) -> Seen {
        let packet = self.client_sctp(peer.client, BACKEND_TAG, chunks);
        self.forward(&packet)
    }

    fn backend_sends(&mut self, peer: &Peer, chunks: &[u8]) -> Seen {
        let packet = self.backend_sctp(&peer.seen, CLIENT_TAG, chunks);
        self.forward(&packet)
    }

    /// Both ends close in order, the client first.
    fn close(&mut self, peer: &Peer) {
        self.client_sends(peer, &chunk(chunks::SHUTDOWN, 0, &[0; 4]));
        self.backend_sends(peer, &chunk(chunks::SHUTDOWN_ACK, 0, &[]));
        self.client_sends(peer, &chunk(chunks::SHUTDOWN_COMPLETE, 0, &[]));
    }

    fn states(&mut self) -> Vec<FlowState> {
        let now = self.now;
        let slices = self
            .engines
            .iter_mut()
            .map(|engine| engine.flow_slice(0, 64, now));
        slices
            .flat_map(|slice| slice.flows)
            .inspect(|flow| assert_eq!(flow.protocol, Protocol::Sctp))
            .map(|flow| flow.state)
            .collect()
    }
}

fn data(payload: &[u8]) -> Vec<u8> {
    chunk(chunks::DATA, 3, &[&[0; 12], payload].concat())
}

/// Tag, checksum, chunks: what [`Seen`] has of an SCTP packet.
fn tag_and_chunks(seen: &Seen) -> (u32, &[u8]) {
    let tag = seen.payload.first_chunk().expect("a tag");
    (u32::from_be_bytes(*tag), &seen.payload[8..])
}

#[test]
fn an_association_is_translated_both_ways_from_init_to_shutdown_complete() {
    for framing in [Framing::Ethernet, Framing::RawIp] {
        for (client, own, backend) in ENDS {
            let mut world = World::new(Setup {
                framing,
                ..Setup::default()
            });
            let peer = world.associate(client);
            assert_eq!(peer.seen.destination.to_string(), backend);
            assert_eq!(
                peer.seen.source.ip().to_string(),
                own.parse::<SocketAddr>().unwrap().ip().to_string()
            );
            assert!((NAT_PORTS.0..=NAT_PORTS.1).contains(&peer.seen.source.port()));
            assert_eq!(peer.seen.ttl, 63);
            assert_eq!(world.states(), [FlowState::Established]);
            let there = world.client_sends(&peer, &data(b"question"));
            assert_eq!(
                (there.source, there.destination),
                (peer.seen.source, peer.seen.destination)
            );
            assert_eq!(tag_and_chunks(&there), (BACKEND_TAG, &data(b"question")[..]));
            let back = world.backend_sends(&peer, &data(b"answer"));
            assert_eq!(
                (
                    back.source.to_string().as_str(),
                    back.destination.to_string().as_str()
                ),
                (own, client)
            );
            assert_eq!(tag_and_chunks(&back), (CLIENT_TAG, &data(b"answer")[..]));
            world.close(&peer);
            assert_eq!(world.states(), [FlowState::Closing]);
            let stats = world.stats[0].service(SERVICE);
            assert_eq!(
                (
                    stats.flows_opened.get(),
                    stats.flows_closed[CloseCause::Fin as usize].get()
                ),
                (1, 1)
            );
            assert_eq!(stats.connect.counts().iter().sum::<u64>(), 1, "INIT to INIT ACK");
            assert_eq!(world.drops(), []);
        }
    }
}

/// RFC 9260 section 3.3.2: a host with several addresses lists them.
#[test]
fn addresses_in_init_and_init_ack_are_hidden() {
    for (client, ..) in ENDS {
        let mut world = World::new(Setup::default());
        let cookie = parameter(7, b"state cookie");
        let listed = [
            cookie.clone(),
            parameter(5, &[10, 0, 0, 1]),
            parameter(6, &[0x20; 16]),
        ]
        .concat();
        let hidden = [
            cookie,
            parameter(0x8005, &[10, 0, 0, 1]),
            parameter(0x8005, &[0x20; 16]),
        ]
        .concat();
        let packet = world.client_sctp(client, 0, &init(chunks::INIT, CLIENT_TAG, &listed));
        let seen = world.forward(&packet);
        assert_eq!(
            tag_and_chunks(&seen),
            (0, &init(chunks::INIT, CLIENT_TAG, &hidden)[..])
        );
        let packet = world.backend_sctp(&seen, CLIENT_TAG, &init(chunks::INIT_ACK, BACKEND_TAG, &listed));
        let back = world.forward(&packet);
        assert_eq!(
            tag_and_chunks(&back),
            (CLIENT_TAG, &init(chunks::INIT_ACK, BACKEND_TAG, &hidden)[..])
        );
    }
}

#[test]
fn all_packets_of_an_association_meet_at_one_worker_wherever_they_arrive() {
    for workers in [2, 4] {
        for (client, ..) in ENDS {
            for enters in 0..workers {
                let mut world = World::new(Setup {
                    workers,
                    ..Setup::default()
                });
                world.enters = enters;
                let peer = world.associate(client);
                world.enters = (enters + 1) % workers;
                world.client_sends(&peer, &data(b"question"));
                world.backend_sends(&peer, &data(b"answer"));
                world.close(&peer);
                assert_eq!(world.states(), [FlowState::Closing]);
                assert_eq!(world.drops(), []);
            }
        }
    }
}

#[test]
fn a_blind_abort_does_not_end_an_association() {
    let mut world = World::new(Setup::default());
    let peer = world.associate(CLIENT);
    for (tag, flags) in [(BACKEND_TAG + 1, 0), (CLIENT_TAG, 0), (CLIENT_TAG + 1, 1)] {
        let abort = world.client_sctp(CLIENT, tag, &chunk(chunks::ABORT, flags, &[]));
        assert_eq!(world.send(&abort).0, Verdict::Drop);
    }
    let abort = world.backend_sctp(&peer.seen, CLIENT_TAG + 1, &chunk(chunks::ABORT, 0, &[]));
    assert_eq!(world.send(&abort).0, Verdict::Drop);
    assert_eq!(world.dropped(DropReason::VerificationTag), 4);
    assert_eq!(world.states(), [FlowState::Established]);
    let counted = world.stats[0].service(SERVICE);
    assert_eq!(counted.drops[DropReason::VerificationTag.index()].get(), 4);
    world.client_sends(&peer, &chunk(chunks::ABORT, 0, &[]));
    assert_eq!(world.states(), [FlowState::Reset]);
}

#[test]
fn a_corrupt_packet_does_not_become_valid() {
    for (client, ..) in ENDS {
        let mut world = World::new(Setup::default());
        let peer = world.associate(client);
        let mut packet = world.client_sctp(client, BACKEND_TAG, &data(b"question"));
        *packet.last_mut().unwrap() ^= 1;
        assert_eq!(world.send(&packet).0, Verdict::Drop);
        assert_eq!(world.drops(), [DropReason::BadChecksum]);
        // A sender's kernel leaves the checksum to its hardware, which virtual links do not have.
        let mut packet = world.client_sctp(client, BACKEND_TAG, &data(b"question"));
        let at = packet.len() - 12 - data(b"question").len() + 8;
        packet[at..at + 4].fill(0);
        let seen = world.forward(&packet);
        assert_eq!(tag_and_chunks(&seen), (BACKEND_TAG, &data(b"question")[..]));
        world.backend_sends(&peer, &data(b"answer"));
    }
}

/// What the sender gets: the kind of chunk, its flags and the tag.
fn answer(world: &mut World, packet: &[u8]) -> (u8, u8, u32) {
    let (verdict, out) = world.send(packet);
    assert_eq!(verdict, Verdict::Reject);
    validate::assert_valid(&out, world.ethernet());
    let (seen, sent) = (
        Seen::of(&out, world.ethernet()),
        Seen::of(packet, world.ethernet()),
    );
    assert_eq!((seen.source, seen.destination), (sent.destination, sent.source));
    let (tag, chunk) = tag_and_chunks(&seen);
    (chunk[0], chunk[1], tag)
}

#[test]
fn packets_without_an_association_are_aborted() {
    for (client, _, backend) in ENDS {
        let mut world = World::new(Setup::default());
        let packet = world.client_sctp(client, 9, &data(b"question"));
        assert_eq!(answer(&mut world, &packet), (chunks::ABORT, 1, 9));
        assert_eq!(world.drops(), [DropReason::NotInit]);
        let peer = world.associate(client);
        let stranger = Seen {
            source: SocketAddr::new(peer.seen.source.ip(), NAT_PORTS.1),
            ..peer.seen.clone()
        };
        if peer.seen.source.port() != NAT_PORTS.1 {
            let packet = world.backend_sctp(&stranger, 9, &chunk(chunks::SHUTDOWN_ACK, 0, &[]));
            assert_eq!(answer(&mut world, &packet), (chunks::SHUTDOWN_COMPLETE, 1, 9));
            assert_eq!(world.dropped(DropReason::UnknownReply), 1);
        }
        // No backend: as a host where nobody listens.
        world.publish_backends(vec![(backend, BackendState::Gone)]);
        world.sweep();
        let packet = world.client_sctp(client, 0, &init(chunks::INIT, CLIENT_TAG, &[]));
        assert_eq!(answer(&mut world, &packet), (chunks::ABORT, 0, CLIENT_TAG));
        assert_eq!(world.dropped(DropReason::NoBackend), 1);
    }
}

#[test]
fn both_ends_of_a_dead_backends_association_are_aborted() {
    for framing in [Framing::Ethernet, Framing::RawIp] {
        for (client, own, backend) in ENDS {
            let mut world = World::new(Setup {
                framing,
                backends: vec![(backend, BackendState::Active)],
                ..Setup::default()
            });
            let peer = world.associate(client);
            // The second one is half open: its backend has no association.
            let other = client.replace("40000", "40001");
            let packet = world.client_sctp(&other, 0, &init(chunks::INIT, 7, &[]));
            world.forward(&packet);
            world.publish_backends(vec![(backend, BackendState::Down)]);
            world.engines[0].sweep(world.now);
            let mut out = Vec::new();
            world.engines[0].reset_orphans(&mut MemPort::new(8), &mut out);
            let mut ends: Vec<_> = out
                .iter()
                .map(|frame| {
                    validate::assert_valid(frame.bytes(), world.ethernet());
                    let seen = Seen::of(frame.bytes(), world.ethernet());
                    let (tag, chunks) = tag_and_chunks(&seen);
                    assert_eq!(chunks, chunk(chunks::ABORT, 0, &[]));
                    (seen.source.to_string(), seen.destination.to_string(), tag)
                })
                .collect();
            ends.sort();
            let mut expected = vec![
                (peer.seen.source.to_string(), backend.to_owned(), BACKEND_TAG),
                (own.to_owned(), client.to_owned(), CLIENT_TAG),
                (own.to_owned(), other, 7),
            ];
            expected.sort();
            assert_eq!(ends, expected);
            assert_eq!(world.flows(), 0);
        }
    }
}

#[test]
fn a_client_reuses_its_port_when_its_association_is_over() {
    let mut world = World::new(Setup::default());
    let first = world.associate(CLIENT);
    world.close(&first);
    let second = world.associate(CLIENT);
    assert_eq!(second.seen.source, first.seen.source, "the NAT port stays");
    assert_eq!(world.states(), [FlowState::Established]);
    assert_eq!(world.stats[0].service(SERVICE).flows_opened.get(), 2);
    // And while it is open, if the client has started anew.
    world.associate(CLIENT);
    assert_eq!(world.stats[0].service(SERVICE).flows_opened.get(), 2);
    world.client_sends(&second, &data(b"question"));
    assert_eq!(world.drops(), []);
}

#[test]
fn associations_time_out_as_connections_do() {
    for (open, seconds) in [(false, 241), (true, 7_441)] {
        let mut world = World::new(Setup::default());
        if open {
            world.associate(CLIENT);
        } else {
            let packet = world.client_sctp(CLIENT, 0, &init(chunks::INIT, CLIENT_TAG, &[]));
            world.forward(&packet);
        }
        world.pass(Duration::from_secs(seconds - 2));
        world.sweep();
        assert_eq!(world.flows(), 1);
        world.pass(Duration::from_secs(3));
        world.sweep();
        assert_eq!(world.flows(), 0);
    }
    let mut world = World::new(Setup::default());
    let peer = world.associate(CLIENT);
    for _ in 0..3 {
        world.pass(Duration::from_secs(7_000));
        world.backend_sends(&peer, &chunk(chunks::HEARTBEAT, 0, &[0; 8]));
    }
}

/// A sender's hardware would divide it; its bytes do not show where.
#[test]
fn super_packets_and_fragments_are_dropped_under_their_own_reasons() {
    let mut world = World::new(Setup::default());
    let peer = world.associate(CLIENT);
    let long = [data(&[1; 1_000]), data(&[2; 1_000])].concat();
    let packet = world.client_sctp(CLIENT, BACKEND_TAG, &long);
    assert_eq!(world.send_frames(frames_of(&packet, 1_000)).0, Verdict::Drop);
    assert_eq!(world.drops(), [DropReason::SctpSuperPacket]);
    let packet = world.client_sctp(CLIENT, BACKEND_TAG, &data(&[1; 1_000]));
    for fragment in builder::fragments(&packet, true, 480, 9) {
        assert_eq!(world.send(&fragment).0, Verdict::Drop);
    }
    assert_eq!(world.dropped(DropReason::SctpFragment), 3);
    world.client_sends(&peer, &data(&[1; 1_400]));
}

/// The sender divides messages at what it learns. A packet that may be fragmented is, with its checksum.
#[test]
fn a_packet_that_is_too_long_for_the_next_hop_is_reported_or_fragmented() {
    let mut world = World::new(Setup::default());
    world.associate(CLIENT);
    world.publish(|snapshot| {
        let route = |destination: &str, prefix_length, mtu| Route {
            kind: RouteKind::Unicast,
            destination: destination.parse().unwrap(),
            prefix_length,
            gateway: None,
            metric: 0,
            mtu,
        };
        let routes = vec![
            route("172.16.1.2", 32, Some(1_300)),
            route("172.16.1.0", 24, None),
        ];
        let last = &snapshot.next_hops;
        snapshot.next_hops = NextHops::succeed(last, last.link, routes, HashMap::new());
    });
    let mut packet = world.client_sctp(CLIENT, BACKEND_TAG, &data(&[1; 1_280]));
    let (verdict, out) = world.send(&packet);
    assert_eq!(verdict, Verdict::Reject);
    validate::assert_valid(&out, true);
    assert_eq!((out[23], out[34], out[35]), (1, 3, 4), "Fragmentation Needed");
    assert_eq!(out[40..42], 1_300_u16.to_be_bytes());
    assert_eq!(world.drops(), [DropReason::MtuExceeded]);
    // Without DF, which the checksum of the header notices.
    packet[20] = 0;
    let (sum, carry) = u16::from_be_bytes([packet[24], packet[25]]).overflowing_add(0x4000);
    packet[24..26].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    validate::assert_valid(&packet, true);
    let (verdict, out) = world.send(&packet);
    assert_eq!(verdict, Verdict::Fragment { mtu: 1_300 });
    validate::assert_valid(&out, true);
}

#[test]
fn an_icmp_error_about_a_packet_to_the_backend_reaches_the_client_as_its_own() {
    for ((client, ..), (router, own, icmp, kind, code)) in ENDS.into_iter().zip([
        ("172.16.1.1:0", "172.16.1.103:0", 34, 3, 4),
        ("[2001:db8::1]:0", "[2001:db8::67]:0", 54, 2, 0),
    ]) {
        let mut world = World::new(Setup::default());
        world.associate(client);
        let packet = world.client_sctp(client, BACKEND_TAG, &data(&[1; 600]));
        let (_, sent) = world.send(&packet);
        let error = builder::icmp_error(world.addresses(router, own), kind, code, 1_400, &sent[14..]);
        let (verdict, out) = world.send(&error);
        assert_eq!(verdict, Verdict::Transmit);
        validate::assert_valid(&out, true);
        let quoted = Seen::of(&[&out[..14], &out[icmp + 8..]].concat(), true);
        assert_eq!(
            (
                quoted.source.to_string().as_str(),
                quoted.destination.to_string().as_str()
            ),
            (client, service(client))
        );
        assert_eq!(tag_and_chunks(&quoted).0, BACKEND_TAG);
    }
}

#[test]
fn the_end_of_an_association_is_emitted_with_all_its_packets() {
    let mut world = World::new(Setup::default());
    let feed = Arc::new(FlowFeed::default());
    world.engines[0].set_flow_feed(Arc::clone(&feed));
    feed.subscribe();
    let peer = world.associate(CLIENT);
    world.close(&peer);
    let changes: Vec<_> = std::iter::from_fn(|| feed.pop()).collect();
    let [opened, closed] = &changes[..] else {
        panic!("{changes:?}");
    };
    assert_eq!((opened.closed, closed.closed), (None, Some(CloseCause::Fin)));
    assert_eq!(opened.flow.protocol, Protocol::Sctp);
    assert_eq!((closed.flow.packets_in, closed.flow.packets_out), (4, 3));
    let slice = world.engines[0].flow_slice(0, 16, world.now);
    assert_eq!(slice.flows[0].packets_in, 4);
}

/// A backend whose client repeats its INIT does not answer; one that aborts refuses.
#[test]
fn failures_of_backends_are_counted() {
    let mut world = World::new(Setup {
        backends: vec![("172.16.1.2:8081", BackendState::Active)],
        ..Setup::default()
    });
    let packet = world.client_sctp(CLIENT, 0, &init(chunks::INIT, CLIENT_TAG, &[]));
    let seen = world.forward(&packet);
    world.pass(Duration::from_secs(3));
    world.forward(&packet);
    let slot = world.snapshot.service_slots[2]
        .as_ref()
        .and_then(|_| {
            let mut backends = world.snapshot.backend_slots.iter().flatten();
            backends.find(|backend| backend.service == SERVICE)
        })
        .unwrap()
        .slot;
    assert_eq!(world.stats[0].backend(slot).flows_unanswered.get(), 1);
    let abort = world.backend_sctp(&seen, CLIENT_TAG, &chunk(chunks::ABORT, 0, &[]));
    world.forward(&abort);
    assert_eq!(world.states(), [FlowState::Reset]);
    let failed = &world.stats[0].backend(slot).flows_failed;
    assert_eq!(failed.iter().map(|count| count.get()).sum::<u64>(), 1);
}
