//! Captures of packets that the steer program has dropped.

use vl3lb_common::capture::{Capture, CaptureDirection, CaptureFilter, CaptureVerdict};

use super::capture::{BACKEND, CLIENT, capture, copied, only, set, world};
use super::*;
use crate::shed::ShedMemory;

#[test]
fn packets_that_the_steer_program_has_dropped_are_captured() {
    let mut world = world();
    let memory = Arc::new(ShedMemory::anonymous().unwrap());
    world.engines[0].set_shed(Some(&memory));
    let is_sampling = |memory: &ShedMemory| memory.is_sampling(0);
    let look = |world: &mut World| {
        world.pass(Duration::from_millis(1));
        let now = world.now;
        world.engines[0].update_capture(now);
    };
    let syn = world.client_tcp(CLIENT, flags::SYN, b"");
    let addresses = world.addresses(BACKEND, "172.16.1.103:20001");
    let stray = builder::tcp(addresses, &Tcp::flags(flags::ACK), &[b'x'; 1_000]);
    let broken = vec![0x5a; 40];
    // Before a capture nobody asks for copies, and one that is left from an earlier capture is no part of the next.
    assert!(!is_sampling(&memory));
    memory.put_sample(0, 0, &broken);
    let feeds = capture(&mut world, CaptureFilter::default(), false);
    assert!(is_sampling(&memory));
    look(&mut world);
    assert!(copied(&feeds[0]).is_empty());

    for (number, packet) in [&syn, &stray, &broken].into_iter().enumerate() {
        memory.put_sample(0, 1 + number, packet);
    }
    look(&mut world);
    let all = copied(&feeds[0]);
    let got = all.iter().map(|copy| (copy.service, copy.direction));
    let (to_service, to_port) = (Some(CaptureDirection::In), Some(CaptureDirection::Out));
    assert_eq!(
        got.collect::<Vec<_>>(),
        [(Some(ServiceSlot(0)), to_service), (None, to_port), (None, None)]
    );
    for (copy, packet) in all.iter().zip([&syn, &stray, &broken]) {
        assert_eq!(
            (copy.verdict, copy.reason),
            (CaptureVerdict::Drop, Some(DropReason::Overload))
        );
        let headers = packet.len().min(14 + 40);
        assert_eq!(copy.received, (packet[..headers].to_vec(), packet.len()));
        assert!(copy.sent.0.is_empty());
    }

    // A filter applies to them, too.
    let filter = CaptureFilter {
        drops: Some(only(DropReason::NotSyn)),
        ..CaptureFilter::default()
    };
    let whole = |filter| {
        Some(Capture {
            filter,
            snap_length: 128,
            payload: true,
        })
    };
    set(&mut world, &feeds, whole(filter));
    memory.put_sample(0, 4, &syn);
    look(&mut world);
    assert!(copied(&feeds[0]).is_empty());
    // The program of another attachment goes on, from its first place on, and it stops with the capture.
    let next = Arc::new(ShedMemory::anonymous().unwrap());
    world.engines[0].set_shed(Some(&next));
    assert_eq!((is_sampling(&memory), is_sampling(&next)), (false, true));
    set(&mut world, &feeds, whole(CaptureFilter::default()));
    for number in 0..16 {
        next.put_sample(0, number, &stray);
    }
    look(&mut world);
    let all = copied(&feeds[0]);
    assert_eq!(all.len(), 16);
    assert_eq!(all[15].received, (stray[..128].to_vec(), stray.len()));
    set(&mut world, &feeds, None);
    assert!(!is_sampling(&next));
}
