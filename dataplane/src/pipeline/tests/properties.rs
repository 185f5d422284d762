//! What must hold for any packets in any order.

use proptest::prelude::*;

use super::*;

/// Something that a client or backend does.
#[derive(Debug, Clone)]
enum Step {
    Client { host: u8, port: u16, bits: u8 },
    Backend { pick: usize, bits: u8 },
    Wait { seconds: u64 },
    Backends { first: bool, second: bool },
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bits = prop::sample::select(vec![
        flags::SYN,
        flags::SYN | flags::ACK,
        flags::ACK,
        flags::FIN | flags::ACK,
        flags::RST,
        flags::RST | flags::ACK,
    ]);
    let step = prop_oneof![
        6 => (0_u8..4, 0_u16..40, bits.clone()).prop_map(|(host, port, bits)| Step::Client { host, port, bits }),
        5 => (any::<prop::sample::Index>(), bits).prop_map(|(pick, bits)| Step::Backend { pick: pick.index(1 << 20), bits }),
        1 => (0_u64..400).prop_map(|seconds| Step::Wait { seconds }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(first, second)| Step::Backends { first, second }),
        1 => Just(Step::Sweep),
    ];
    prop::collection::vec(step, 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_two_live_flows_share_a_translation(steps in steps()) {
        let mut world = World::new(Setup { flows: 40, ..Setup::default() });
        // Who is behind a translated tuple: the latest client that was given it by a SYN.
        let mut owners: HashMap<(SocketAddr, SocketAddr), SocketAddr> = HashMap::new();
        let mut seen_all: Vec<Seen> = Vec::new();
        for step in steps {
            match step {
                Step::Client { host, port, bits } => {
                    let client: SocketAddr = ([172, 16, 1, 100 + host], 40_000 + port).into();
                    let packet = world.client_tcp(&client.to_string(), bits, b"");
                    let (verdict, out) = world.send(&packet);
                    if verdict == Verdict::Transmit {
                        validate::assert_valid(&out, true);
                        let seen = Seen::of(&out, true);
                        let key = (seen.source, seen.destination);
                        if bits == flags::SYN {
                            owners.insert(key, client);
                            seen_all.push(seen);
                        } else {
                            prop_assert_eq!(owners.get(&key), Some(&client), "another client's tuple");
                        }
                    }
                }
                Step::Backend { pick, bits } if !seen_all.is_empty() => {
                    let seen = seen_all[pick % seen_all.len()].clone();
                    let packet = world.backend_tcp(&seen, bits, b"");
                    let (verdict, out) = world.send(&packet);
                    if verdict == Verdict::Transmit {
                        validate::assert_valid(&out, true);
                        let back = Seen::of(&out, true);
                        prop_assert_eq!(owners.get(&(seen.source, seen.destination)), Some(&back.destination));
                    }
                }
                Step::Backend { .. } => {}
                Step::Wait { seconds } => world.pass(Duration::from_secs(seconds)),
                Step::Backends { first, second } => {
                    let state = |active| if active { BackendState::Active } else { BackendState::Gone };
                    world.publish_backends(vec![("172.16.1.2:8081", state(first)), ("172.16.1.3:8081", state(second))]);
                }
                Step::Sweep => world.sweep(),
            }
            let opened = world.stats[0].service(ServiceSlot(0)).flows_opened.get();
            prop_assert!(world.stats[0].service(ServiceSlot(0)).flows() <= opened);
            prop_assert!(u64::from(world.flows()) <= 40);
        }
    }

    #[test]
    fn mutated_packets_are_forwarded_whole_or_counted(
        which in 0_usize..4,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        cut_it in any::<bool>(),
    ) {
        let mut world = World::new(Setup::default());
        let seen = world.connect("172.16.1.100:40000");
        let data = world.client_tcp("172.16.1.100:40000", flags::ACK, b"some payload");
        let (_, sent) = world.send(&data);
        let packets = [
            data,
            world.backend_tcp(&seen, flags::ACK, b"more"),
            world.client_udp("[2001:db8::64]:40000", b"question"),
            builder::icmp_error(world.addresses("172.16.1.1:0", "172.16.1.103:0"), 3, 4, 1_400, &sent[14..]),
        ];
        let mut packet = packets[which].clone();
        for (index, value) in changes {
            let at = index.index(packet.len());
            packet[at] = value;
        }
        if cut_it {
            packet.truncate(cut.index(packet.len()));
        }
        let total = |world: &World| DropReason::ALL.iter().map(|&reason| world.dropped(reason)).sum::<u64>();
        let before = total(&world);
        let (verdict, _) = world.send(&packet);
        let counted = total(&world) - before;
        match verdict {
            Verdict::Drop | Verdict::Reject => prop_assert_eq!(counted, 1),
            _ => prop_assert_eq!(counted, 0),
        }
        prop_assert_eq!(world.dropped(DropReason::Internal), 0);
    }
}
