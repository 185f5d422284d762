//! Captures of bursts, in which packets that no capture can want are not copied.

use vl3lb_common::capture::{Capture, CaptureFeed, CaptureFilter, CaptureSettings, CaptureVerdict, Terms};

use super::capture::{capture, copied, world};
use super::shortcut::set_gateway;
use super::*;

#[test]
fn bursts_are_decided_as_without_a_capture() {
    let script = |world: &World| -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for round in 0..4 {
            for client in 0..20 {
                let client = format!("172.16.1.{}:40000", 10 + client);
                let bits = if round == 0 { flags::SYN } else { flags::ACK };
                packets.push(world.client_tcp(&client, bits, b""));
                packets.push(world.client_udp(&client, b"data"));
            }
            packets.push(b"no packet".to_vec());
        }
        packets
    };
    let (mut plain, mut captured) = (world(), world());
    let feeds = capture(&mut captured, CaptureFilter::default(), false);
    let packets = script(&plain);
    for burst in packets.chunks(50) {
        let run = |world: &mut World| {
            let mut frames: Vec<MemFrame> = burst.iter().map(|packet| frame(packet)).collect();
            let mut verdicts = Vec::new();
            world.engines[0].forward_burst(&mut frames, Origin::Queue, world.now, &mut verdicts);
            let verdicts: Vec<_> = verdicts.iter().map(|(verdict, _)| *verdict).collect();
            // NAT ports are drawn in another order where flows are looked up early.
            let lengths: Vec<_> = frames.iter().map(|frame| frame.bytes().len()).collect();
            (verdicts, lengths)
        };
        assert_eq!(run(&mut plain), run(&mut captured));
    }
    assert_eq!(
        (plain.flows(), plain.drops()),
        (captured.flows(), captured.drops())
    );
    assert_eq!(copied(&feeds[0]).len(), packets.len());
}

/// What a capture has of a packet: verdict, reason, as it came in, and as it left.
type Copy = (CaptureVerdict, Option<DropReason>, Vec<u8>, Vec<u8>);

/// A worker with a capture.
struct Capturing {
    world: World,
    feed: Arc<CaptureFeed>,
}

impl Capturing {
    fn new(filter: CaptureFilter) -> Self {
        let mut world = World::new(Setup {
            nat_ports: (20_000, 20_255),
            ..Setup::default()
        });
        set_gateway(&mut world, CLIENT_MAC);
        let feed: Arc<CaptureFeed> = Arc::default();
        world.engines[0].set_capture_feed(Arc::clone(&feed));
        let mut capturing = Self { world, feed };
        capturing.set(filter);
        capturing
    }

    /// Captures by another filter, whose review of the flows has begun.
    fn set(&mut self, filter: CaptureFilter) {
        let mut settings = CaptureSettings::default();
        settings.captures[2] = Some(Capture {
            filter,
            snap_length: 128,
            payload: true,
        });
        self.feed.set(&Arc::new(settings));
        self.round();
    }

    /// What a worker does before each burst.
    fn round(&mut self) {
        self.world.engines[0].update_capture(self.world.now);
    }

    /// The packets as they leave; empty if they do not.
    fn burst(&mut self, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut frames: Vec<MemFrame> = packets.iter().map(|packet| frame(packet)).collect();
        let mut verdicts = Vec::new();
        let (engine, now) = (&mut self.world.engines[0], self.world.now);
        engine.forward_burst(&mut frames, Origin::Queue, now, &mut verdicts);
        let sent = frames.iter().zip(&verdicts).map(|(frame, (verdict, _))| {
            if *verdict == Verdict::Transmit {
                frame.bytes().to_vec()
            } else {
                Vec::new()
            }
        });
        sent.collect()
    }

    /// The same, each for itself: then every packet is copied, whether a capture can want it or not.
    fn one_by_one(&mut self, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let sent = packets.iter().map(|packet| {
            let (verdict, bytes) = self.world.send(packet);
            if verdict == Verdict::Transmit {
                bytes
            } else {
                Vec::new()
            }
        });
        sent.collect()
    }

    fn copies(&self) -> Vec<Copy> {
        let mut all = Vec::new();
        while self.feed.read(128, |packet| {
            let (received, sent) = (packet.received.bytes.clone(), packet.sent.bytes.clone());
            all.push((packet.verdict, packet.reason, received, sent));
        }) {}
        all
    }
}

#[test]
fn what_is_not_copied_is_what_no_capture_wants() {
    let sample = |sample: u32| CaptureFilter {
        sample,
        salt: 5,
        ..CaptureFilter::default()
    };
    let drops = Some(Terms::default());
    let one_client = Terms {
        accepted: vec!["10.0.0.17/32".parse().unwrap()],
        rejected: Vec::new(),
    };
    let filters = [
        ("a sample", sample(4), true),
        ("no flow in the sample", sample(u32::MAX), false),
        (
            "dropped packets of a sample",
            CaptureFilter {
                drops: drops.clone(),
                ..sample(4)
            },
            true,
        ),
        ("dropped packets", CaptureFilter { drops, ..sample(0) }, true),
        (
            "a client",
            CaptureFilter {
                clients: one_client,
                ..sample(0)
            },
            true,
        ),
    ];
    for (case, filter, is_any) in filters {
        let (mut few, mut all) = (Capturing::new(filter.clone()), Capturing::new(filter));
        let mut copies = 0;
        let mut replies: Vec<Vec<u8>> = Vec::new();
        for bits in [
            flags::SYN,
            flags::ACK,
            flags::ACK,
            flags::FIN | flags::ACK,
            flags::SYN,
        ] {
            let mut packets = std::mem::take(&mut replies);
            for host in 10..60 {
                let client = format!("10.0.0.{host}:40000");
                packets.push(few.world.client_tcp(&client, bits, b""));
                packets.push(few.world.client_udp(&client, b"data"));
                let stray = format!("10.0.0.{host}:50000");
                packets.push(few.world.client_tcp(&stray, flags::ACK, b""));
                let addresses = few.world.addresses(&client, "172.16.1.103:20001");
                packets.push(builder::udp(addresses, b"late"));
                // Of a flow, and not forwarded.
                let mut addresses = few.world.addresses(&client, "172.16.1.103:8080");
                addresses.ttl = 1;
                packets.push(builder::udp(addresses, b"data"));
            }
            packets.push(b"no packet".to_vec());
            for burst in packets.chunks(64) {
                let sent = few.burst(burst);
                assert_eq!(sent, all.one_by_one(burst), "{case}");
                let copied = few.copies();
                assert_eq!(copied, all.copies(), "{case}");
                copies += copied.len();
                for packet in sent.iter().filter(|packet| packet.get(23) == Some(&6)) {
                    let seen = Seen::of(packet, true);
                    if seen.destination.port() == 8081 {
                        let reply = few.world.backend_tcp(&seen, bits | flags::ACK, b"");
                        replies.push(reply);
                    }
                }
            }
        }
        assert_eq!(copies > 0, is_any, "{case}: {copies}");
    }
}

#[test]
fn a_new_capture_has_the_flows_that_the_former_one_left_out() {
    let nothing = CaptureFilter {
        sample: u32::MAX,
        ..CaptureFilter::default()
    };
    let mut capturing = Capturing::new(nothing.clone());
    let requests = |world: &World| -> Vec<Vec<u8>> {
        // More than one round reviews.
        let clients = (0..150).map(|host| format!("10.0.0.{host}:40000"));
        clients.map(|client| world.client_udp(&client, b"data")).collect()
    };
    let burst = |capturing: &mut Capturing| {
        let requests = requests(&capturing.world);
        assert!(capturing.burst(&requests).iter().all(|sent| !sent.is_empty()));
        capturing.copies().len()
    };
    for _ in 0..3 {
        assert_eq!(burst(&mut capturing), 0);
    }
    capturing.set(CaptureFilter::default());
    // Before all flows are reviewed, and after that.
    for is_reviewing in [true, false] {
        assert_eq!(capturing.world.engines[0].is_reviewing_captured(), is_reviewing);
        assert_eq!(burst(&mut capturing), 150, "reviewing: {is_reviewing}");
        for _ in 0..3 {
            capturing.round();
        }
    }
    capturing.set(nothing);
    for _ in 0..4 {
        assert_eq!(burst(&mut capturing), 0);
        capturing.round();
    }
}
