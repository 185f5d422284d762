//! Native mode on a driver that sends back what XDP sends back, which a TAP device has: established flows stay in the
//! kernel.

use std::time::Instant;

use super::*;
use crate::testing::netns::with_tap;

#[test]
fn in_native_mode_the_driver_sends_back_packets_of_established_flows() {
    with_tap(|wire| {
        let plane = Plane::new(Config {
            fast_path: FastPathConfig {
                after: 1,
                ..FastPathConfig::default()
            },
            ..config(Mode::Auto)
        });
        let attachment = plane.attach().unwrap();
        assert_eq!(attachment.mode, AttachMode::Native);
        assert!(attachment.fast_path.flows > 0, "{}", attachment.fast_path.reason);
        plane.publish(snapshot(1)).unwrap();

        // A request and a reply open the flow, and a worker puts it into the fast path when it has sent them.
        let end = Instant::now() + LIMIT;
        let mut exchanges = 0;
        let mut nat_port = None;
        while plane.steered().fast_path.taken < 100 {
            assert!(Instant::now() < end, "{:?}", plane.steered());
            let port = exchange(&wire, 40_000).unwrap();
            assert_eq!(*nat_port.get_or_insert(port), port);
            exchanges += 1;
        }
        // The sender leaves its checksum to the hardware: the worker completes it.
        let whole = request(40_000);
        let mut partial = whole.clone();
        let pseudo_header = 0xac10_u32 * 2 + 0x0164 + 0x0167 + 17 + 15;
        let sum = (pseudo_header & 0xffff) + (pseudo_header >> 16);
        partial[40..42].copy_from_slice(&u16::try_from(sum).unwrap().to_be_bytes());
        assert_ne!(partial, whole);
        wire.send(&partial);
        let completed = wire.receive_matching(|frame| addressed(frame, [172, 16, 1, 2]));
        validate::validate(&completed.unwrap(), true).expect("a complete checksum");

        let steered = plane.steered();
        assert_eq!(steered.fast_path.partial_checksum, 1);
        let all = 2 * exchanges + 1;
        assert_eq!(steered.fast_path.taken + steered.redirected, all);
        // What the program counted is the flow's.
        let counted = || {
            plane.stats().iter().map(|stats| {
                let [request, reply] = &stats.fast_path.traffic;
                request.packets.get() + reply.packets.get()
            })
        };
        let end = Instant::now() + LIMIT;
        while counted().sum::<u64>() < steered.fast_path.taken {
            assert!(Instant::now() < end, "{:?}", counted().collect::<Vec<_>>());
            std::thread::yield_now();
        }
        assert_eq!(counted().sum::<u64>(), steered.fast_path.taken);
        assert_eq!(plane.stop(), 0, "frames are missing");
    });
}
