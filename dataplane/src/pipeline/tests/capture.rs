//! Copies of packets for captures.

use vl3lb_common::capture::{
    CAPTURE_BUFFERS, Capture, CaptureDirection, CaptureFeed, CaptureFilter, CaptureSettings, CaptureVerdict,
    Terms,
};

use super::fast::Fast;
use super::*;

pub(super) const CLIENT: &str = "172.16.1.100:40000";
const OTHER: &str = "172.16.1.101:40000";
pub(super) const BACKEND: &str = "172.16.1.2:8081";

/// What a test looks at in a captured packet.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) verdict: CaptureVerdict,
    pub(super) reason: Option<DropReason>,
    pub(super) direction: Option<CaptureDirection>,
    pub(super) service: Option<ServiceSlot>,
    pub(super) client: Option<(IpAddr, u16)>,
    pub(super) received: (Vec<u8>, usize),
    pub(super) sent: (Vec<u8>, usize),
}

pub(super) fn capture(world: &mut World, filter: CaptureFilter, payload: bool) -> Vec<Arc<CaptureFeed>> {
    let feeds: Vec<Arc<CaptureFeed>> = world.engines.iter().map(|_| Arc::default()).collect();
    for (engine, feed) in world.engines.iter_mut().zip(&feeds) {
        engine.set_capture_feed(Arc::clone(feed));
    }
    set(
        world,
        &feeds,
        Some(Capture {
            filter,
            snap_length: 128,
            payload,
        }),
    );
    feeds
}

pub(super) fn set(world: &mut World, feeds: &[Arc<CaptureFeed>], capture: Option<Capture>) {
    let mut settings = CaptureSettings::default();
    settings.captures[2] = capture;
    let settings = Arc::new(settings);
    for (engine, feed) in world.engines.iter_mut().zip(feeds) {
        feed.set(&settings);
        engine.update_capture(world.now);
    }
}

pub(super) fn copied(feed: &CaptureFeed) -> Vec<Copied> {
    let mut all = Vec::new();
    while feed.read(128, |packet| {
        assert_eq!(packet.captures, 0b100);
        let image = |image: &vl3lb_common::capture::Image| (image.bytes.clone(), image.length);
        all.push(Copied {
            verdict: packet.verdict,
            reason: packet.reason,
            direction: packet.direction,
            service: packet.service,
            client: packet.flow.map(|flow| flow.client),
            received: image(&packet.received),
            sent: image(&packet.sent),
        });
    }) {}
    all
}

pub(super) fn world() -> World {
    World::new(Setup {
        backends: vec![(BACKEND, BackendState::Active)],
        ..Setup::default()
    })
}

pub(super) fn only<T>(value: T) -> Terms<T> {
    Terms {
        accepted: vec![value],
        rejected: Vec::new(),
    }
}

#[test]
fn a_packet_is_copied_before_and_after_its_translation() {
    let mut world = world();
    let feeds = capture(&mut world, CaptureFilter::default(), true);
    let syn = world.client_tcp(CLIENT, flags::SYN, b"");
    let (_, to_backend) = world.send(&syn);
    let seen = Seen::of(&to_backend, true);
    let syn_ack = world.backend_tcp(&seen, flags::SYN | flags::ACK, b"");
    let (_, to_client) = world.send(&syn_ack);

    let all = copied(&feeds[0]);
    assert_eq!(all.len(), 2);
    for (copy, before, after, direction) in [
        (&all[0], &syn, &to_backend, CaptureDirection::In),
        (&all[1], &syn_ack, &to_client, CaptureDirection::Out),
    ] {
        assert_eq!((&copy.received.0, &copy.sent.0), (before, after));
        assert_eq!((copy.received.1, copy.sent.1), (before.len(), after.len()));
        assert_eq!((copy.verdict, copy.reason), (CaptureVerdict::Forward, None));
        assert_eq!(
            (copy.direction, copy.service),
            (Some(direction), Some(ServiceSlot(0)))
        );
        let client: SocketAddr = CLIENT.parse().unwrap();
        assert_eq!(copy.client, Some((client.ip(), client.port())));
    }
    assert_eq!((feeds[0].matched(2), feeds[0].lost(2)), (2, 0));
}

#[test]
fn payload_is_left_out_unless_it_is_wanted() {
    for ethernet in [true, false] {
        let framing = if ethernet {
            Framing::Ethernet
        } else {
            Framing::RawIp
        };
        let link = framing.header_len();
        let mut world = World::new(Setup {
            framing,
            ..Setup::default()
        });
        let feeds = capture(&mut world, CaptureFilter::default(), false);
        let cases = [
            (world.client_udp(CLIENT, b"secret"), 20 + 8),
            (world.client_udp("[2001:db8::9]:40000", b"secret"), 40 + 8),
            (world.client_tcp(CLIENT, flags::SYN, b"secret"), 20 + 20),
        ];
        for (packet, headers) in cases {
            assert_eq!(world.send(&packet).0, Verdict::Transmit);
            let copy = copied(&feeds[0]).pop().expect("one packet");
            assert_eq!(copy.received.0, packet[..link + headers]);
            assert_eq!((copy.received.1, copy.sent.1), (packet.len(), packet.len()));
            assert_eq!(copy.sent.0.len(), link + headers);
        }
        // Where a packet that cannot be parsed has its payload is unknown.
        let mut broken = world.client_udp(CLIENT, &[b'x'; 64]);
        broken[link] = 0x41;
        assert_eq!(world.send(&broken).0, Verdict::Drop);
        let copy = copied(&feeds[0]).pop().expect("one packet");
        assert_eq!(
            (copy.verdict, copy.reason),
            (CaptureVerdict::Drop, Some(DropReason::Malformed))
        );
        assert_eq!(copy.received.0, broken[..link + 40]);
    }
}

#[test]
fn dropped_packets_have_their_reason_and_rejects_their_answer() {
    let mut world = world();
    let feeds = capture(&mut world, CaptureFilter::default(), false);
    let stray = world.client_tcp(CLIENT, flags::ACK, b"");
    assert_eq!(world.send(&stray).0, Verdict::Reject);
    world.publish_backends(vec![(BACKEND, BackendState::Down)]);
    let syn = world.client_tcp(CLIENT, flags::SYN, b"");
    let (verdict, reset) = world.send(&syn);
    assert_eq!(verdict, Verdict::Reject);
    let unknown = builder::udp(world.addresses(BACKEND, "172.16.1.103:20001"), b"late");
    assert_eq!(world.send(&unknown).0, Verdict::Reject);

    let all = copied(&feeds[0]);
    let got: Vec<_> = all
        .iter()
        .map(|copy| (copy.verdict, copy.reason, copy.service, copy.direction))
        .collect();
    assert_eq!(
        got,
        [
            (
                CaptureVerdict::Reject,
                Some(DropReason::NotSyn),
                Some(ServiceSlot(0)),
                Some(CaptureDirection::In)
            ),
            (
                CaptureVerdict::Reject,
                Some(DropReason::NoBackend),
                Some(ServiceSlot(0)),
                Some(CaptureDirection::In)
            ),
            (
                CaptureVerdict::Reject,
                Some(DropReason::UnknownReply),
                None,
                Some(CaptureDirection::Out)
            ),
        ]
    );
    assert_eq!(all[1].sent.0, reset);
}

#[test]
fn each_filter_accepts_both_directions_of_its_flows_and_nothing_else() {
    type Change = fn(&mut CaptureFilter);
    let cases: [(&str, Change, usize); 7] = [
        ("all", |_| (), 4),
        (
            "client",
            |f| f.clients = only("172.16.1.100/32".parse().unwrap()),
            2,
        ),
        ("service", |f| f.services = Some(only(ServiceSlot(0))), 4),
        ("another service", |f| f.services = Some(only(ServiceSlot(1))), 0),
        (
            "backend",
            |f| {
                f.backends = only(vl3lb_common::capture::Endpoint {
                    address: "172.16.1.2".parse().unwrap(),
                    port: Some(8081),
                });
            },
            4,
        ),
        ("port", |f| f.ports = only(8080), 4),
        ("protocol", |f| f.protocols = only(Protocol::Udp), 0),
    ];
    for (name, change, want) in cases {
        let mut world = world();
        let mut filter = CaptureFilter::default();
        change(&mut filter);
        let feeds = capture(&mut world, filter, false);
        for client in [CLIENT, OTHER] {
            let syn = world.client_tcp(client, flags::SYN, b"");
            let seen = world.forward(&syn);
            let syn_ack = world.backend_tcp(&seen, flags::SYN | flags::ACK, b"");
            world.forward(&syn_ack);
        }
        assert_eq!(copied(&feeds[0]).len(), want, "{name}");
        assert_eq!(feeds[0].matched(2), want as u64, "{name}");
    }
}

#[test]
fn fragments_and_icmp_errors_are_found_by_either_end() {
    let client = "172.16.1.100/32".parse().unwrap();
    let mut world = world();
    let filter = CaptureFilter {
        clients: only(client),
        ..CaptureFilter::default()
    };
    let feeds = capture(&mut world, filter, false);
    let whole = world.client_udp(CLIENT, &[7; 2_000]);
    let fragments = builder::fragments(&whole, true, 1_000, 77);
    let [first, second, ..] = &fragments[..] else {
        panic!()
    };
    // The second one waits for the first, and is captured when it goes on.
    assert!(matches!(world.send(second).0, Verdict::Wait(_)));
    assert!(copied(&feeds[0]).is_empty());
    let (_, sent) = world.send(first);
    world.resume();
    let all = copied(&feeds[0]);
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|copy| copy.verdict == CaptureVerdict::Forward));
    assert_eq!(all[0].sent.0, sent[..all[0].sent.0.len()]);

    // An error of a backend about a packet to it comes to its client.
    let request = world.client_udp(OTHER, b"x");
    world.forward(&request);
    let request = world.client_udp(CLIENT, b"x");
    let (_, to_backend) = world.send(&request);
    copied(&feeds[0]);
    let seen = Seen::of(&to_backend, true);
    let addresses = world.addresses(&seen.destination.to_string(), &seen.source.to_string());
    let error = builder::icmp_error(addresses, 3, 3, 0, &to_backend[14..]);
    assert_eq!(world.send(&error).0, Verdict::Transmit);
    let copy = copied(&feeds[0]).pop().expect("the error");
    assert_eq!(copy.received.0, error[..copy.received.0.len()]);
}

#[test]
fn a_packet_that_is_handed_over_is_copied_once_by_the_owner() {
    let mut world = World::new(Setup {
        workers: 4,
        ..Setup::default()
    });
    let feeds = capture(&mut world, CaptureFilter::default(), false);
    let mut owners = 0;
    for port in 0..16 {
        let packet = world.client_udp(&format!("172.16.1.100:{}", 40_000 + port), b"x");
        world.forward(&packet);
        let counts: Vec<_> = feeds.iter().map(|feed| copied(feed).len()).collect();
        assert_eq!(counts.iter().sum::<usize>(), 1);
        owners |= counts
            .iter()
            .position(|&count| count == 1)
            .map_or(0, |owner| 1 << owner);
    }
    assert_ne!(owners, 1, "not all are the first worker's");
}

#[test]
fn a_full_ring_loses_copies_and_no_packet() {
    let mut world = world();
    let feeds = capture(&mut world, CaptureFilter::default(), false);
    let packet = world.client_udp(CLIENT, b"x");
    for _ in 0..CAPTURE_BUFFERS + 5 {
        world.forward(&packet);
    }
    assert_eq!(feeds[0].lost(2), 5);
    assert_eq!(copied(&feeds[0]).len(), CAPTURE_BUFFERS);
    // There is room again.
    world.forward(&packet);
    assert_eq!(copied(&feeds[0]).len(), 1);
    set(&mut world, &feeds, None);
    world.forward(&packet);
    assert!(copied(&feeds[0]).is_empty());
}

#[test]
fn what_could_not_be_sent_is_captured_as_dropped() {
    let mut world = world();
    let feeds = capture(
        &mut world,
        CaptureFilter {
            drops: Some(only(DropReason::TxRingFull)),
            ..CaptureFilter::default()
        },
        false,
    );
    let packet = world.client_udp(CLIENT, b"x");
    let (_, out) = world.send(&packet);
    // Each buffer was in use.
    for _ in 0..CAPTURE_BUFFERS {
        world.forward(&packet);
    }
    assert!(copied(&feeds[0]).is_empty());
    let now = world.now;
    world.engines[0].drop_unsent(
        &[frame(&out)],
        super::super::Unsent::Whole,
        DropReason::TxRingFull,
        now,
    );
    let copy = copied(&feeds[0]).pop().expect("one packet");
    assert_eq!(
        (copy.verdict, copy.reason),
        (CaptureVerdict::Drop, Some(DropReason::TxRingFull))
    );
    assert_eq!(copy.direction, Some(CaptureDirection::In));
    assert!(copy.received.0.is_empty());
    assert_eq!(copy.sent.0, out[..copy.sent.0.len()]);
    assert!(copy.client.is_some());
}

/// A UDP flow in the in-kernel path, of each client, and a request of each.
fn promoted(clients: &[&str]) -> (Fast, Vec<Vec<u8>>) {
    let mut fast = Fast::new(Setup::default(), 16, 1);
    let requests: Vec<_> = clients
        .iter()
        .map(|client| {
            let request = fast.world.client_udp(client, b"request");
            let seen = fast.world.forward(&request);
            let reply = fast.world.backend_udp(&seen, b"reply");
            fast.world.forward(&reply);
            request
        })
        .collect();
    fast.tend();
    assert!(requests.iter().all(|request| fast.kernel(request).is_some()));
    (fast, requests)
}

#[test]
fn captured_flows_leave_the_in_kernel_path_while_the_capture_lasts() {
    let (mut fast, requests) = promoted(&[CLIENT, OTHER]);
    let filter = CaptureFilter {
        clients: only("172.16.1.100/32".parse().unwrap()),
        ..CaptureFilter::default()
    };
    let feeds = capture(&mut fast.world, filter, false);
    fast.tend();
    assert!(fast.kernel(&requests[0]).is_none(), "its worker sees it");
    assert!(
        fast.kernel(&requests[1]).is_some(),
        "that of another client stays"
    );
    for _ in 0..4 {
        fast.world.forward(&requests[0]);
        fast.tend();
    }
    assert!(fast.kernel(&requests[0]).is_none());
    assert_eq!(copied(&feeds[0]).len(), 4);
    // A snapshot does not bring it back either.
    fast.world.publish(|_| ());
    assert!(fast.kernel(&requests[0]).is_none());
    set(&mut fast.world, &feeds, None);
    fast.world.forward(&requests[0]);
    fast.tend();
    assert!(fast.kernel(&requests[0]).is_some());
}

#[test]
fn captures_of_drops_and_of_other_samples_leave_flows_where_they_are() {
    let (mut fast, requests) = promoted(&[CLIENT, OTHER]);
    let drops = CaptureFilter {
        drops: Some(Terms::default()),
        ..CaptureFilter::default()
    };
    capture(&mut fast.world, drops, false);
    fast.tend();
    assert!(requests.iter().all(|request| fast.kernel(request).is_some()));
    // Of so few flows, hardly one in a million is among them.
    let sample = CaptureFilter {
        sample: u32::MAX,
        salt: 1,
        ..CaptureFilter::default()
    };
    capture(&mut fast.world, sample, false);
    fast.tend();
    assert!(requests.iter().all(|request| fast.kernel(request).is_some()));
}

#[test]
fn a_capture_that_falls_behind_keeps_no_flow_out_of_the_in_kernel_path() {
    let (mut fast, requests) = promoted(&[CLIENT]);
    let feeds = capture(&mut fast.world, CaptureFilter::default(), false);
    fast.tend();
    assert!(fast.kernel(&requests[0]).is_none());
    for _ in 0..=CAPTURE_BUFFERS {
        fast.world.forward(&requests[0]);
    }
    fast.tend();
    assert!(fast.kernel(&requests[0]).is_some());
    assert_eq!(feeds[0].lost(2), 1);
}
