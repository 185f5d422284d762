//! The fast path: packets through the loaded tc and XDP programs, by BPF_PROG_TEST_RUN, against what a worker makes of them.

use std::collections::HashSet;

use proptest::prelude::*;
use vl3lb_common::dataplane::FastPathPackets;

use super::super::*;
use super::classify::require_root;
use super::test_run::{Did::*, *};
use crate::fastpath::Usage;
use crate::flow::{Direction, Sequence, State, tcp};
use crate::packet::{Framing, TcpFlags, TcpSegment};
use crate::testing::builder::{MACS, Tcp, flags};

/// The flow's number in the flow table.
const FLOW: u32 = 5;

fn plain() -> Tcp<'static> {
    Tcp {
        flags: flags::ACK | flags::PSH,
        sequence: 1_000,
        acknowledgment: 5_000,
        options: &[],
    }
}

const BOTH: [Direction; 2] = [Direction::In, Direction::Out];
const HOOKS: [Hook; 2] = [Hook::Tc, Hook::Xdp];

/// Each program at the Ethernet links that it is for.
fn benches() -> [Bench; 2] {
    HOOKS.map(|hook| Bench::new(hook, Framing::Ethernet))
}

#[test]
fn packets_leave_as_a_worker_sends_them() {
    for (hook, framing) in [
        (Hook::Tc, Framing::Ethernet),
        (Hook::Tc, Framing::RawIp),
        (Hook::Xdp, Framing::Ethernet),
    ] {
        for (ends, protocol) in [(V4, 6), (V4, 17), (V6, 6), (V6, 17)] {
            let mut bench = Bench::new(hook, framing);
            bench.table.open(FLOW, &promotion(&ends, protocol)).unwrap();
            for direction in BOTH {
                for payload in [0_usize, 1, 11, 12, 100, 1_400] {
                    // BPF_PROG_TEST_RUN takes what follows the first 14 bytes for an IP header.
                    let payload = if framing == Framing::RawIp {
                        payload.max(6)
                    } else {
                        payload
                    };
                    let payload: Vec<u8> = (0..=250_u8).cycle().take(payload).collect();
                    let packet = bench.packet(&ends, direction, protocol, &plain(), &payload);
                    let want = bench.translated(&ends, direction, &packet);
                    let (did, got) = bench.run(&packet, 0);
                    let what = format!(
                        "{hook:?} {framing:?} {} {protocol} {direction:?} {}",
                        ends.client,
                        payload.len()
                    );
                    assert_eq!(did, Sent, "{what}");
                    assert_eq!(got, want, "{what}");
                }
            }
            let usage = bench.table.usage(FLOW).unwrap();
            let headers =
                if ends.client.starts_with('[') { 40 } else { 20 } + if protocol == 6 { 20 } else { 8 };
            let shortest = if framing == Framing::RawIp { 12 } else { 1 };
            let bytes = 6 * headers + shortest + 11 + 12 + 100 + 1_400;
            assert_eq!((usage.packets, usage.bytes), ([6, 6], [bytes, bytes]));
            assert!(usage.used.is_some_and(|used| used.0 > 0));
            assert_eq!(bench.counted().taken, 12);
        }
    }
}

/// The sender's kernel left the checksum to its hardware: the field has the sum of the pseudo-header. The test
/// run does not mark the packet so, and the change of that sum is another one than that of a complete checksum.
#[test]
fn a_udp_datagram_without_a_checksum_keeps_none() {
    for mut bench in benches() {
        bench.table.open(FLOW, &promotion(&V4, 17)).unwrap();
        let mut packet = bench.packet(&V4, Direction::In, 17, &plain(), b"no sum");
        packet[40..42].fill(0);
        let want = bench.translated(&V4, Direction::In, &packet);
        let (did, got) = bench.run(&packet, 0);
        assert_eq!((did, &got[..]), (Sent, &want[..]));
        assert_eq!(got[40..42], [0, 0]);
    }
}

/// XDP sees no more of it than its value; the worker, which gets the packet then, completes it.
#[test]
fn xdp_leaves_partial_checksums_to_the_worker() {
    for (ends, protocol) in [(V4, 6), (V4, 17), (V6, 6), (V6, 17)] {
        let mut bench = Bench::new(Hook::Xdp, Framing::Ethernet);
        bench.table.open(FLOW, &promotion(&ends, protocol)).unwrap();
        for direction in BOTH {
            for payload in [0, 1, 999] {
                let whole = bench.packet(&ends, direction, protocol, &plain(), &vec![7; payload]);
                let mut packet = whole.clone();
                make_partial(&mut packet);
                let worker = bench.translated(&ends, direction, &packet);
                assert_eq!(worker, bench.translated(&ends, direction, &whole));
                assert_eq!(bench.run(&packet, 0), (Left, packet), "{protocol} {payload}");
                assert_eq!(bench.run(&whole, 0), (Sent, worker), "{protocol} {payload}");
            }
        }
        let counted = bench.counted();
        assert_eq!((counted.partial_checksum, counted.taken), (6, 6));
    }
}

/// Writes the sum of the pseudo-header in the place of the checksum, as a kernel with checksum offload does.
fn make_partial(packet: &mut [u8]) {
    let (addresses, transport, protocol) = if packet[12..14] == [8, 0] {
        (26..34, 34, packet[23])
    } else {
        (22..54, 54, packet[20])
    };
    let length = packet.len() - transport;
    let mut sum = length + usize::from(protocol);
    for word in packet[addresses].chunks(2) {
        sum += usize::from(u16::from_be_bytes([word[0], word[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let at = transport + if protocol == 6 { 16 } else { 6 };
    packet[at..at + 2].copy_from_slice(&u16::try_from(sum).unwrap().to_be_bytes());
}

/// With jumbo frames a packet may be in several buffers, of which a driver may send the first only.
#[test]
fn xdp_sends_back_frames_of_one_buffer() {
    let mut bench = Bench::new(Hook::Xdp, Framing::Ethernet);
    let mut promoted = promotion(&V4, 6);
    promoted.hops.iter_mut().for_each(|hop| hop.mtu = 9_000);
    bench.table.open(FLOW, &promoted).unwrap();
    for (payload, did) in [(2_900, Sent), (3_000, Sent), (5_000, Left), (8_900, Left)] {
        let packet = bench.packet(&V4, Direction::In, 6, &plain(), &vec![7; payload]);
        let want = if did == Sent {
            bench.translated(&V4, Direction::In, &packet)
        } else {
            packet.clone()
        };
        assert_eq!(bench.run(&packet, 0), (did, want), "{payload}");
    }
}

#[test]
fn a_super_packet_is_taken_whole_and_counted_by_its_segments() {
    let mut bench = Bench::new(Hook::Tc, Framing::Ethernet);
    bench.table.open(FLOW, &promotion(&V4, 6)).unwrap();
    let packet = bench.packet(&V4, Direction::In, 6, &plain(), &[7; 2_900]);
    let want = bench.translated(&V4, Direction::In, &packet);
    assert_eq!(bench.run(&packet, 1_448), (Sent, want));
    let usage = bench.table.usage(FLOW).unwrap();
    assert_eq!((usage.packets, usage.bytes), ([3, 0], [2_900 + 3 * 40, 0]));
    // A segment of 1,461 bytes does not fit, whatever the length of the packet.
    for (payload, segment) in [(2_900, 1_461), (1_461, 0)] {
        let packet = bench.packet(&V4, Direction::In, 6, &plain(), &vec![7; payload]);
        assert_eq!(bench.run(&packet, segment), (Left, packet), "{payload} {segment}");
    }
    assert_eq!(bench.counted().size, 2);
}

/// Writes the right checksum of the IPv4 header.
fn fix(packet: &mut [u8]) {
    packet[24..26].fill(0);
    let sum: u32 = packet[14..34]
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// The identifications of two flows to one receiver never meet, nor those of the segments of super-packets, before all
/// of the program's share were used.
#[test]
fn packets_that_may_be_fragmented_get_identifications_of_the_balancers_own() {
    const SHARE: std::ops::Range<u32> = 32_768..65_536;
    for mut bench in benches() {
        let (first, mut other) = (promotion(&V4, 17), promotion(&V4, 17));
        other.client_port += 1;
        other.nat_port += 1;
        bench.table.open(FLOW, &first).unwrap();
        bench.table.open(FLOW + 1, &other).unwrap();
        let mut seen = HashSet::new();
        for round in 0..3_000_u32 {
            let is_other = round % 2 == 1;
            let segments = if bench.hook == Hook::Tc { round % 7 + 1 } else { 1 };
            let mut packet = bench.packet(&V4, Direction::In, 17, &plain(), &vec![7; 50 * segments as usize]);
            packet[20] = 0;
            fix(&mut packet);
            let mut want = bench.translated(&V4, Direction::In, &packet);
            if is_other {
                packet[35] += 1;
                want[35] += 1;
            }
            let (did, got) = bench.run(&packet, if segments > 1 { 50 } else { 0 });
            assert_eq!(did, Sent);
            let first = u32::from(u16::from_be_bytes([got[18], got[19]]));
            for number in first..first + segments {
                assert!(SHARE.contains(&number), "{number} is a worker's");
                assert!(seen.insert(number), "{number} twice, in round {round}");
            }
            want[18..20].copy_from_slice(&got[18..20]);
            fix(&mut want);
            // The change of the port is one of the checksum, too.
            assert_eq!(got[..40], want[..40]);
            assert_eq!(got[42..], want[42..]);
        }
        assert_eq!(bench.counted().taken, 3_000);
    }
}

/// Changes of a packet, each of which leaves it to the worker; the counter that says so.
#[test]
fn what_the_worker_has_to_decide_about_is_not_touched() {
    type Change = fn(&mut Vec<u8>);
    type Count = fn(&FastPathPackets) -> u64;
    let none: Count = |_| 1;
    let flags: Count = |count| count.flags;
    let changes: [(&str, Change, Count); 18] = [
        ("SYN", |packet| packet[47] |= flags::SYN, flags),
        ("FIN", |packet| packet[47] |= flags::FIN, flags),
        ("RST", |packet| packet[47] |= flags::RST, flags),
        ("no ACK", |packet| packet[47] &= !flags::ACK, flags),
        (
            "TTL 1",
            |packet| {
                packet[22] = 1;
                fix(packet);
            },
            |count| count.hop_limit,
        ),
        (
            "first fragment",
            |packet| {
                packet[20] = 0x20;
                fix(packet);
            },
            none,
        ),
        (
            "later fragment",
            |packet| {
                packet[21] = 1;
                fix(packet);
            },
            none,
        ),
        ("header checksum", |packet| packet[24] ^= 1, none),
        (
            "options",
            |packet| {
                packet[14] = 0x46;
                fix(packet);
            },
            none,
        ),
        (
            "length beyond the end",
            |packet| {
                packet[17] += 1;
                fix(packet);
            },
            |count| count.malformed,
        ),
        (
            "TCP header beyond the end",
            |packet| packet[46] = 0xf0,
            |count| count.malformed,
        ),
        ("TCP header too short", |packet| packet[46] = 0x40, none),
        ("another client port", |packet| packet[35] ^= 1, none),
        ("another service port", |packet| packet[37] ^= 1, none),
        (
            "another client",
            |packet| {
                packet[29] ^= 1;
                fix(packet);
            },
            none,
        ),
        ("to another host", |packet| packet[5] ^= 1, none),
        (
            "another protocol",
            |packet| {
                packet[23] = 132;
                fix(packet);
            },
            none,
        ),
        ("cut", |packet| packet.truncate(40), none),
    ];
    for (hook, (what, change, count)) in HOOKS
        .iter()
        .flat_map(|&hook| changes.map(|change| (hook, change)))
    {
        let mut bench = Bench::new(hook, Framing::Ethernet);
        bench.table.open(FLOW, &promotion(&V4, 6)).unwrap();
        let mut packet = bench.packet(&V4, Direction::In, 6, &plain(), b"payload");
        change(&mut packet);
        assert_eq!(bench.run(&packet, 0), (Left, packet), "{hook:?} {what}");
        assert_eq!(count(&bench.counted()), 1, "{hook:?} {what}");
        assert_eq!(bench.counted().taken, 0, "{what}");
        assert!(bench.table.usage(FLOW).unwrap().is_none(), "{what}");
    }
}

#[test]
fn a_client_whose_address_was_learned_is_followed_by_the_worker() {
    for mut bench in benches() {
        let mut promoted = promotion(&V4, 6);
        promoted.hops[1].is_learned = true;
        bench.table.open(FLOW, &promoted).unwrap();
        let packet = bench.packet(&V4, Direction::In, 6, &plain(), b"");
        assert_eq!(bench.run(&packet, 0).0, Sent);
        let mut moved = packet.clone();
        moved[11] ^= 1;
        assert_eq!(bench.run(&moved, 0), (Left, moved));
        assert_eq!(bench.counted().neighbor, 1);
        promoted.hops[1].is_learned = false;
        bench.table.set_hops(FLOW, &promoted.hops);
        let mut moved = packet;
        moved[11] ^= 1;
        assert_eq!(bench.run(&moved, 0).0, Sent, "the kernel knows the way back");
    }
}

#[test]
fn a_flow_that_was_taken_back_is_the_workers() {
    for mut bench in benches() {
        for _ in 0..200 {
            bench.table.open(FLOW, &promotion(&V4, 6)).unwrap();
            let packets = BOTH.map(|direction| bench.packet(&V4, direction, 6, &plain(), b""));
            for packet in &packets {
                assert_eq!(bench.run(packet, 0).0, Sent);
            }
            bench.table.close(FLOW);
            for packet in &packets {
                let (did, got) = bench.run(packet, 0);
                assert_eq!((did, &got), (Left, packet));
            }
            assert_eq!(bench.table.finish(FLOW).map(|usage| usage.packets), Some([1, 1]));
        }
    }
}

#[test]
fn the_first_reply_of_a_udp_flow_is_the_workers() {
    for mut bench in benches() {
        let mut promoted = promotion(&V4, 17);
        promoted.is_unreplied = true;
        bench.table.open(FLOW, &promoted).unwrap();
        let [request, reply] = BOTH.map(|direction| bench.packet(&V4, direction, 17, &plain(), b"data"));
        assert_eq!(bench.run(&request, 0).0, Sent);
        let (did, got) = bench.run(&reply, 0);
        assert_eq!((did, &got), (Left, &reply));
        assert_eq!(bench.table.finish(FLOW).map(|usage| usage.packets), Some([1, 0]));
        assert_eq!(bench.run(&request, 0), (Left, request));
    }
}

#[test]
fn a_program_without_the_fast_path_takes_nothing() {
    require_root();
    let mut bench = Bench::new(Hook::Tc, Framing::Ethernet);
    bench.table.open(FLOW, &promotion(&V4, 6)).unwrap();
    let packet = bench.packet(&V4, Direction::In, 6, &plain(), b"");
    let link = LinkInfo {
        name: "test".to_owned(),
        index: 1,
        link: Link::Ethernet(MACS.1),
        driver: "veth".to_owned(),
        mtu: 1500,
        receive_queues: 1,
        transmit_queues: 1,
        super_packets: true,
    };
    bench.programs = Programs::load(&link, 1, 1, 0).unwrap();
    assert_eq!(bench.run(&packet, 0), (Left, packet));
}

/// The program and the worker judge the same segments, in order, out of order, old and forged.
#[test]
fn sequence_numbers_are_judged_as_the_worker_does() {
    for mut bench in benches() {
        let offset = prop_oneof![
            4 => Just(0_i32),
            2 => -3_000..3_000_i32,
            1 => -200_000..200_000_i32,
            1 => any::<i32>(),
        ];
        let segment = (
            any::<bool>(),
            offset.clone(),
            offset,
            prop_oneof![Just(0_usize), 1..1_400_usize],
        );
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            cases: 48,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let bench = std::cell::RefCell::new(&mut bench);
        runner
            .run(&prop::collection::vec(segment, 1..24), |segments| {
                let bench = &mut *bench.borrow_mut();
                let promoted = promotion(&V4, 6);
                // That of a case that failed.
                bench.table.finish(FLOW);
                bench.table.open(FLOW, &promoted).unwrap();
                let mut known = Sequence::open_at(promoted.ends);
                let mut from_program = known;
                for (out, ahead, acknowledged, payload) in segments {
                    let direction = if out { Direction::Out } else { Direction::In };
                    let judged = TcpSegment {
                        flags: TcpFlags(flags::ACK),
                        sequence: known.end(direction).wrapping_add_signed(ahead),
                        acknowledgment: known.end(direction.opposite()).wrapping_add_signed(acknowledged),
                        payload: u32::try_from(payload).unwrap(),
                    };
                    let header = Tcp {
                        flags: flags::ACK,
                        sequence: judged.sequence,
                        acknowledgment: judged.acknowledgment,
                        options: &[],
                    };
                    let packet = bench.packet(&V4, direction, 6, &header, &vec![0; payload]);
                    prop_assert_eq!(bench.run(&packet, 0).0, Sent);
                    let state = tcp::advance(State::Established, &mut known, direction, &judged);
                    prop_assert_eq!(state, State::Established);
                    let usage: Usage = bench.table.usage(FLOW).unwrap();
                    from_program.take_in(usage.ends, usage.acknowledged);
                    for direction in BOTH {
                        prop_assert_eq!(
                            from_program.end(direction),
                            known.end(direction),
                            "{:?}",
                            direction
                        );
                    }
                }
                bench.table.finish(FLOW);
                Ok(())
            })
            .unwrap();
    }
}
