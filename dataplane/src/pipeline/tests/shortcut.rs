//! The short way of plain packets: taken where it may be, and with the result of the long way.

use proptest::prelude::*;

use super::*;
use crate::flow::RequestKey;
use crate::pipeline::Prepared;

const CLIENT: &str = "10.0.0.1:40000";
const GATEWAY: &str = "172.16.1.1";

/// A world whose clients are behind a gateway that the kernel knows.
fn world(framing: Framing) -> World {
    let mut world = World::new(Setup {
        framing,
        ..Setup::default()
    });
    set_gateway(&mut world, CLIENT_MAC);
    world
}

/// Makes the kernel know the next hop of all other networks, so that packets to and from them are plain.
pub(super) fn set_gateway(world: &mut World, mac: MacAddr) {
    let gateway: IpAddr = GATEWAY.parse().unwrap();
    let route = Route {
        kind: RouteKind::Unicast,
        destination: "0.0.0.0".parse().unwrap(),
        prefix_length: 0,
        gateway: Some(gateway),
        metric: 0,
        mtu: None,
    };
    world.publish(|snapshot| {
        let (link, neighbors) = (snapshot.next_hops.link, HashMap::from([(gateway, mac)]));
        snapshot.next_hops = NextHops::succeed(&snapshot.next_hops, link, vec![route], neighbors);
    });
}

/// A deviation from the packets that are plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Nothing,
    /// TTL.
    Hops(u8),
    MayBeFragmented,
    PartialChecksum,
    NoChecksum,
    Flags(u8),
    /// Another sequence number than the next one.
    Elsewhere,
    /// In two frames.
    Divided,
    Long,
}

/// The flows of one client: TCP and UDP, both open, as the backends see them.
struct Open {
    tcp: Seen,
    udp: Seen,
}

impl Open {
    fn new(world: &mut World) -> Self {
        let tcp = world.connect(CLIENT);
        let request = world.client_udp(CLIENT, b"question");
        let udp = world.forward(&request);
        let reply = world.backend_udp(&udp, b"answer");
        world.forward(&reply);
        Self { tcp, udp }
    }
}

/// A packet of one of the flows.
fn packet(world: &World, open: &Open, is_tcp: bool, is_reply: bool, change: Change) -> Vec<MemFrame> {
    let payload = vec![0x5a; if change == Change::Long { 1_700 } else { 40 }];
    let bits = match change {
        Change::Flags(bits) => bits,
        _ => flags::ACK,
    };
    let before = world.conversations.borrow().clone();
    let mut bytes = match (is_tcp, is_reply) {
        (true, false) => world.client_tcp(CLIENT, bits, &payload),
        (true, true) => world.backend_tcp(&open.tcp, bits, &payload),
        (false, false) => world.client_udp(CLIENT, &payload),
        (false, true) => world.backend_udp(&open.udp, &payload),
    };
    let l3 = if world.ethernet() { 14 } else { 0 };
    let l4 = l3 + 20;
    match change {
        Change::Hops(hops) => bytes[l3 + 8] = hops,
        Change::MayBeFragmented => bytes[l3 + 6] &= !0x40,
        Change::PartialChecksum | Change::NoChecksum => {
            let sum = if change == Change::NoChecksum {
                0
            } else {
                pseudo_header(&bytes[l3..])
            };
            let at = l4 + if is_tcp { 16 } else { 6 };
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        Change::Elsewhere if is_tcp => bytes[l4 + 5] ^= 0x40,
        _ => {}
    }
    if matches!(
        change,
        Change::Elsewhere | Change::Flags(_) | Change::Hops(0 | 1) | Change::Long
    ) {
        // It may not count for the receiver, who then waits for the same number.
        *world.conversations.borrow_mut() = before;
    }
    let checksum = !ones_complement(&bytes[l3..l3 + 10], &bytes[l3 + 12..l4]);
    bytes[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
    match change {
        Change::Divided => frames_of(&bytes, l4 + 30),
        _ => vec![frame(&bytes)],
    }
}

fn ones_complement(first: &[u8], second: &[u8]) -> u16 {
    let words = first.chunks(2).chain(second.chunks(2));
    let sum = words
        .map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])))
        .sum::<u64>();
    let folded = (sum & 0xffff) + (sum >> 16);
    u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

/// The sum of the pseudo-header of an IPv4 packet.
fn pseudo_header(ip: &[u8]) -> u16 {
    let length = u16::from_be_bytes([ip[2], ip[3]]) - 20;
    ones_complement(&ip[12..20], &[&[0, ip[9]], &length.to_be_bytes()[..]].concat())
}

/// Whether the packet takes the short way. It does then.
fn is_short(world: &mut World, frames: &mut [MemFrame]) -> bool {
    let engine = &mut world.engines[0];
    let mut prepared = Prepared::EMPTY;
    prepared.classify(&engine.policy, engine.tables.flows.table(), frames);
    engine
        .tables
        .flows
        .table()
        .prefetch_flow(&mut prepared.lookup.probe);
    let [frame] = frames else { return false };
    engine.forward_plain::<false, MemFrame>(frame, &prepared, world.now)
}

#[test]
fn plain_packets_of_open_flows_take_the_short_way_and_others_do_not() {
    for framing in [Framing::Ethernet, Framing::RawIp] {
        for (is_tcp, is_reply) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut world = world(framing);
            let open = Open::new(&mut world);
            let short = |world: &mut World, change| {
                let before = world.conversations.borrow().clone();
                let mut frames = packet(world, &open, is_tcp, is_reply, change);
                let is_short = is_short(world, &mut frames);
                if !is_short {
                    // Nothing was sent.
                    *world.conversations.borrow_mut() = before;
                }
                is_short
            };
            assert!(
                short(&mut world, Change::Nothing),
                "{framing:?} {is_tcp} {is_reply}"
            );
            assert!(short(&mut world, Change::Hops(2)));
            for change in [
                Change::Hops(1),
                Change::MayBeFragmented,
                Change::PartialChecksum,
                Change::Divided,
                Change::Long,
            ] {
                assert!(!short(&mut world, change), "{change:?} {is_tcp} {is_reply}");
            }
            if is_tcp {
                for change in [
                    Change::Elsewhere,
                    Change::Flags(flags::FIN | flags::ACK),
                    Change::Flags(flags::RST),
                    Change::Flags(flags::SYN),
                    Change::Flags(0),
                ] {
                    assert!(!short(&mut world, change), "{change:?} {is_reply}");
                }
            }
            set_gateway(&mut world, MacAddr([2, 0, 0, 0, 0, 0xc2]));
            let is_ethernet = framing == Framing::Ethernet;
            assert_eq!(
                short(&mut world, Change::Nothing),
                !is_ethernet,
                "to be resolved anew"
            );
            world.publish_backends(vec![
                ("172.16.1.2:8081", BackendState::Down),
                ("[2001:db8::2]:8081", BackendState::Active),
            ]);
            assert!(!short(&mut world, Change::Nothing), "to a dead backend");
        }
    }
}

#[test]
fn the_packet_that_changes_the_state_takes_the_long_way() {
    let mut world = world(Framing::Ethernet);
    let request = world.client_udp(CLIENT, b"question");
    let seen = world.forward(&request);
    let mut reply = [frame(&world.backend_udp(&seen, b"answer"))];
    assert!(!is_short(&mut world, &mut reply));
    assert_eq!(
        world.forward(&world.backend_udp(&seen, b"answer")).destination,
        CLIENT.parse().unwrap()
    );
    let mut more = [frame(&world.backend_udp(&seen, b"more"))];
    assert!(is_short(&mut world, &mut more));
}

#[test]
fn a_link_that_the_snapshot_does_not_know_yet_takes_the_long_way() {
    let mut world = world(Framing::RawIp);
    let open = Open::new(&mut world);
    world.engines[0].set_framing(Framing::Ethernet);
    world.setup.framing = Framing::Ethernet;
    let mut frames = packet(&world, &open, false, true, Change::Nothing);
    assert!(!is_short(&mut world, &mut frames));
}

/// Something that happens.
#[derive(Debug, Clone, Copy)]
enum Step {
    Packet {
        is_tcp: bool,
        is_reply: bool,
        change: Change,
    },
    Wait {
        seconds: u64,
    },
    Backend {
        is_up: bool,
    },
    Gateway {
        last: u8,
    },
    Mtu {
        mtu: u16,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = prop_oneof![
        8 => Just(Change::Nothing),
        1 => (0_u8..4).prop_map(Change::Hops),
        1 => Just(Change::MayBeFragmented),
        1 => Just(Change::PartialChecksum),
        1 => Just(Change::NoChecksum),
        1 => any::<u8>().prop_map(Change::Flags),
        1 => Just(Change::Elsewhere),
        1 => Just(Change::Divided),
        1 => Just(Change::Long),
    ];
    let step = prop_oneof![
        20 => (any::<bool>(), any::<bool>(), change).prop_map(|(is_tcp, is_reply, change)| Step::Packet { is_tcp, is_reply, change }),
        1 => (0_u64..200).prop_map(|seconds| Step::Wait { seconds }),
        1 => any::<bool>().prop_map(|is_up| Step::Backend { is_up }),
        1 => (0_u8..3).prop_map(|last| Step::Gateway { last }),
        1 => (60_u16..130).prop_map(|mtu| Step::Mtu { mtu: if mtu < 100 { mtu } else { 1_500 } }),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Packet by packet all take the long way; as bursts, those that may take the short one.
    #[test]
    fn both_ways_give_the_same_result(is_ethernet in any::<bool>(), steps in steps()) {
        let framing = if is_ethernet { Framing::Ethernet } else { Framing::RawIp };
        let mut worlds = [world(framing), world(framing)];
        let open = worlds.each_mut().map(Open::new);
        for step in steps {
            if let Step::Packet { is_tcp, is_reply, change } = step {
                let mut frames = packet(&worlds[0], &open[0], is_tcp, is_reply, change);
                let mut same: Vec<MemFrame> = frames.iter().map(|from| {
                    let mut copy = frame(from.bytes());
                    copy.set_continues(from.continues());
                    copy
                }).collect();
                let [long, short] = &mut worlds;
                let verdict = long.engines[0].forward(&mut frames, Origin::Queue, long.now);
                let mut verdicts = Vec::new();
                short.engines[0].forward_burst(&mut same, Origin::Queue, short.now, &mut verdicts);
                prop_assert_eq!(&verdicts, &[(verdict, frames.len())]);
                if change == Change::MayBeFragmented {
                    // Each worker chooses the identification by a key of its own.
                    let l3 = if is_ethernet { 14 } else { 0 };
                    for frames in [&mut frames, &mut same] {
                        frames[0].bytes_mut()[l3 + 4..l3 + 6].fill(0);
                        frames[0].bytes_mut()[l3 + 10..l3 + 12].fill(0);
                    }
                }
                for (frame, same) in frames.iter().zip(&same) {
                    prop_assert_eq!(frame.bytes(), same.bytes(), "{:?}", change);
                }
            }
            for world in &mut worlds {
                match step {
                    Step::Packet { .. } => {}
                    Step::Wait { seconds } => world.pass(Duration::from_secs(seconds)),
                    Step::Backend { is_up } => {
                        let state = if is_up { BackendState::Active } else { BackendState::Gone };
                        let next_hops = world.snapshot.next_hops.clone();
                        world.publish_backends(vec![("172.16.1.2:8081", state), ("[2001:db8::2]:8081", BackendState::Active)]);
                        world.publish(|snapshot| snapshot.next_hops = next_hops);
                    }
                    Step::Gateway { last } => set_gateway(world, MacAddr([2, 0, 0, 0, 0, last])),
                    Step::Mtu { mtu } => world.publish(|snapshot| snapshot.mtu = mtu),
                }
            }
            let [long, short] = worlds.each_ref().map(|world| {
                let table = world.engines[0].tables.flows.table();
                let entries = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
                    let client: SocketAddr = CLIENT.parse().unwrap();
                    let key = RequestKey {
                        client: to_octets(client.ip()),
                        client_port: client.port(),
                        local: 0,
                        service_port: 8080,
                        protocol: protocol.number(),
                    };
                    let id = table.request(&key, world.now)?;
                    Some((*table.entry(id), format!("{:?}", table.counters(id))))
                });
                let traffic = [0, 1].map(|slot| {
                    let stats = world.stats[0].service(ServiceSlot(slot));
                    [&stats.inbound, &stats.outbound].map(|traffic| (traffic.packets.get(), traffic.bytes.get()))
                });
                (entries, traffic, world.drops())
            });
            prop_assert_eq!(long, short);
        }
    }
}
