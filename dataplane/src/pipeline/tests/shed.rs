//! Overload where a program in the kernel refuses new flows.

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::shed::{ACTIVE, ADMITTED, DROPPED, LIMIT, Shed, ShedMemory};
use flags::{ACK, SYN};

const CLIENT: &str = "172.16.1.100:40000";
const INTERVAL: Duration = Duration::from_millis(10);

/// A worker with a program.
fn world() -> (World, Arc<ShedMemory>) {
    let mut world = World::new(Setup {
        nat_ports: (10_000, 60_000),
        flows: 20_000,
        ..Setup::default()
    });
    let memory = Arc::new(ShedMemory::anonymous().unwrap());
    world.engines[0].set_shed(Some(&memory));
    (world, memory)
}

/// An interval of 10 ms with so many new flows, each admitted by the program, and so many packets that it dropped.
fn interval(world: &mut World, memory: &ShedMemory, syns: u16, dropped: u64, lost: u64) {
    // Another address for each.
    let first = u32::try_from(world.now.0 / 10_000_000).unwrap() * 128;
    for number in 0..u32::from(syns) {
        let [.., net, high, low] = (first + number).to_be_bytes();
        let addresses = world.addresses(&format!("10.{net}.{high}.{low}:4000"), "172.16.1.103:8080");
        let packet = builder::tcp(addresses, &Tcp::flags(SYN), b"");
        assert_eq!(
            world.send(&packet).0,
            Verdict::Transmit,
            "the program has admitted it"
        );
    }
    let words = memory.worker(0).unwrap();
    words[DROPPED].fetch_add(dropped, Relaxed);
    words[ADMITTED].fetch_add(syns.into(), Relaxed);
    world.pass(INTERVAL);
    let now = world.now;
    world.engines[0].end_interval(syns.into(), lost, now);
}

/// Begins to shed load.
fn shed_load(world: &mut World, memory: &ShedMemory) {
    for _ in 0..3 {
        interval(world, memory, 100, 0, 10);
    }
}

/// Whether the program sheds load, and how many flows it admits.
fn admitted(memory: &ShedMemory) -> Option<u64> {
    let words = memory.worker(0).unwrap();
    let left = words[LIMIT]
        .load(Relaxed)
        .wrapping_sub(words[ADMITTED].load(Relaxed));
    (words[ACTIVE].load(Relaxed) == 1).then_some(left)
}

#[test]
fn the_program_admits_as_many_flows_as_the_worker_can_take() {
    let (mut world, memory) = world();
    for _ in 0..2 {
        interval(&mut world, &memory, 100, 0, 10);
        assert_eq!(
            admitted(&memory),
            None,
            "it may be a moment without the processor"
        );
    }
    interval(&mut world, &memory, 100, 0, 10);
    assert_eq!(admitted(&memory), Some(50), "half of what was too much");
    assert!(world.engines[0].is_overloaded());
    interval(&mut world, &memory, 50, 950, 10);
    assert_eq!(admitted(&memory), Some(25), "still too much");
    for _ in 0..20 {
        interval(&mut world, &memory, 25, 975, 0);
    }
    assert!(
        (33..40).contains(&admitted(&memory).unwrap()),
        "more, since nothing was lost"
    );
    assert_eq!(
        world.stats[0].drops[DropReason::Overload.index()].get(),
        950 + 20 * 975,
        "what the program refused is counted"
    );
    assert_eq!(world.drops(), [DropReason::Overload]);
    for _ in 0..99 {
        interval(&mut world, &memory, 1, 0, 0);
    }
    assert!(admitted(&memory).is_some());
    for _ in 0..3 {
        interval(&mut world, &memory, 1, 0, 0);
    }
    assert_eq!(admitted(&memory), None, "a second after the last refusal");
}

#[test]
fn a_loss_in_front_of_another_worker_counts() {
    let (mut world, memory) = world();
    let mut other = Shed::new(Arc::clone(&memory), 1, OwnerKey::from_seed(7));
    for _ in 0..3 {
        other.share_lost(10);
        interval(&mut world, &memory, 100, 0, 0);
    }
    assert_eq!(admitted(&memory), Some(50));
}

#[test]
fn fragments_which_the_program_does_not_judge_are_refused_by_the_worker() {
    let (mut world, memory) = world();
    shed_load(&mut world, &memory);
    let mut sent = 0;
    for host in 0..200 {
        let addresses = world.addresses(&format!("172.20.1.{host}:4000"), "172.16.1.103:8080");
        let datagram = builder::udp(addresses, &[0x5a; 64]);
        let first = builder::fragments(&datagram, true, 32, host).remove(0);
        sent += u32::from(world.send(&first).0 == Verdict::Transmit);
    }
    assert!(sent <= 60, "{sent}");
}

#[test]
fn without_its_attachment_the_worker_refuses_alone() {
    let (mut world, memory) = world();
    shed_load(&mut world, &memory);
    world.engines[0].set_shed(None);
    assert_eq!(admitted(&memory), None);
    let packet = world.client_tcp("172.16.1.7:9", SYN, b"");
    assert_eq!(world.send(&packet).0, Verdict::Drop);
}

#[test]
fn a_flood_of_packets_of_no_flow_is_an_overload() {
    let strays: [fn(&World, u16) -> Vec<u8>; 2] = [
        |world, port| world.client_tcp(&format!("172.20.1.7:{port}"), ACK, b""),
        |world, port| {
            let addresses = world.addresses(&format!("172.20.1.7:{port}"), "172.16.1.103:20000");
            builder::tcp(addresses, &Tcp::flags(ACK), b"")
        },
    ];
    for stray in strays {
        let (mut world, memory) = world();
        for round in 0..3 {
            assert_eq!(admitted(&memory), None);
            for port in 0..100 {
                let packet = stray(&world, 1_000 + round * 100 + port);
                assert_ne!(world.send(&packet).0, Verdict::Transmit);
            }
            world.pass(INTERVAL);
            let now = world.now;
            world.engines[0].end_interval(100, 10, now);
        }
        assert!(admitted(&memory).is_some());
    }
}

#[test]
fn under_overload_the_program_knows_the_flows() {
    let (mut world, memory) = world();
    let shed = Shed::new(Arc::clone(&memory), 0, OwnerKey::from_seed(7));
    let knows = |world: &World, from: SocketAddr, to: u16, protocol: Protocol| {
        shed.knows_flow(
            &to_octets(from.ip()),
            [from.port(), to],
            protocol.number(),
            world.now,
        )
    };
    let [before, within, silent, talkative] = [
        "172.16.1.100:1",
        "172.16.1.100:2",
        "172.16.1.100:3",
        "172.16.1.100:4",
    ]
    .map(|c| -> SocketAddr { c.parse().unwrap() });
    let seen = world.connect(&before.to_string());
    let question = world.client_udp(&talkative.to_string(), b"question");
    let asked = world.forward(&question);
    let answer = world.backend_udp(&asked, b"answer");
    world.forward(&answer);
    let question = world.client_udp(&silent.to_string(), b"question");
    let unanswered = world.forward(&question);
    let now = world.now;
    assert!(!world.engines[0].note_flows(now));
    assert!(!knows(&world, before, 8080, Protocol::Tcp), "nothing is shed");

    shed_load(&mut world, &memory);
    let now = world.now;
    while world.engines[0].note_flows(now) {}
    assert!(knows(&world, before, 8080, Protocol::Tcp));
    assert!(
        knows(&world, seen.destination, seen.source.port(), Protocol::Tcp),
        "replies too"
    );
    assert!(knows(&world, talkative, 8080, Protocol::Udp));
    assert!(!knows(&world, silent, 8080, Protocol::Udp), "nobody has replied");
    assert!(
        knows(
            &world,
            unanswered.destination,
            unanswered.source.port(),
            Protocol::Udp
        ),
        "somebody may"
    );
    assert!(!knows(&world, within, 8080, Protocol::Tcp));
    world.connect(&within.to_string());
    assert!(knows(&world, within, 8080, Protocol::Tcp), "opened meanwhile");
}

#[test]
fn sources_of_the_program_are_those_that_have_completed_a_handshake() {
    let (mut world, memory) = world();
    let shed = Shed::new(Arc::clone(&memory), 0, OwnerKey::from_seed(7));
    let client: SocketAddr = CLIENT.parse().unwrap();
    let source = to_octets(client.ip());
    assert!(!shed.is_proven(&source, Timestamp(0)));
    world.connect(CLIENT);
    assert!(shed.is_proven(&source, Timestamp(0)));
}
