//! Events in any order: no frame is lost, and each packet is accounted for.

use etherparse::IpNumber;
use proptest::prelude::*;

use super::*;

/// An event at one of two workers.
#[derive(Debug, Clone)]
enum Event {
    /// A packet arrives at a worker's queue.
    Request {
        worker: usize,
        client: u16,
    },
    Reply {
        worker: usize,
    },
    Garbage {
        worker: usize,
        length: usize,
    },
    SuperPacket {
        worker: usize,
        length: usize,
    },
    /// One of the seven fragments of one of eight datagrams.
    Fragment {
        worker: usize,
        datagram: u16,
        index: usize,
    },
    /// The port accepts or allocates only so many frames more.
    Room {
        worker: usize,
        frames: usize,
    },
    Allocations {
        worker: usize,
        frames: usize,
    },
    Step {
        worker: usize,
    },
}

fn event(super_packets: bool) -> impl Strategy<Value = Event> {
    let worker = 0..2_usize;
    let frames = prop_oneof![0..40_usize, Just(usize::MAX)];
    let length = if super_packets {
        1500..60_000_usize
    } else {
        1..2_usize
    };
    prop_oneof![
        6 => (worker.clone(), 40_000..40_010_u16).prop_map(|(worker, client)| Event::Request { worker, client }),
        6 => worker.clone().prop_map(|worker| Event::Reply { worker }),
        1 => (worker.clone(), 1..5000_usize).prop_map(|(worker, length)| Event::Garbage { worker, length }),
        u32::from(super_packets) => (worker.clone(), length)
            .prop_map(|(worker, length)| Event::SuperPacket { worker, length }),
        u32::from(super_packets) * 4 => (worker.clone(), 0..8_u16, 0..7_usize)
            .prop_map(|(worker, datagram, index)| Event::Fragment { worker, datagram, index }),
        1 => (worker.clone(), frames.clone()).prop_map(|(worker, frames)| Event::Room { worker, frames }),
        1 => (worker.clone(), frames).prop_map(|(worker, frames)| Event::Allocations { worker, frames }),
        8 => worker.prop_map(|worker| Event::Step { worker }),
    ]
}

/// Runs the events, then stops. Returns the transmitted packets and the counters.
fn run(events: Vec<Event>) -> (Vec<Vec<u8>>, Team) {
    let mut team = Team::new(2);
    let first = team.send(0, &request(40_000, b"request"));
    team.send(0, &segment(flags::SYN, SERVICE, b""));
    let reply = reply(&first[0]);
    let mut sent = Vec::new();
    for event in events {
        match event {
            Event::Request { worker, client } => {
                team.port(worker).push_packet(&request(client, b"request"));
            }
            Event::Reply { worker } => {
                team.port(worker).push_packet(&reply);
            }
            Event::Garbage { worker, length } => {
                let garbage = builder::ip(
                    Addresses::raw("172.16.1.100:0", SERVICE),
                    IpNumber::TCP,
                    &vec![0; length],
                );
                team.port(worker).push_packet(&garbage);
            }
            Event::SuperPacket { worker, length } => {
                let packet = segment(flags::ACK, SERVICE, &vec![1; length]);
                team.port(worker).push_packet(&packet);
            }
            Event::Fragment {
                worker,
                datagram,
                index,
            } => {
                let whole = request(40_000 + datagram, &[5; 9_000]);
                let fragment = &builder::fragments(&whole, false, 1_480, datagram)[index];
                team.port(worker).push_packet(fragment);
            }
            Event::Room { worker, frames } => team.port(worker).set_transmit_room(frames),
            Event::Allocations { worker, frames } => team.port(worker).set_allocations(frames),
            Event::Step { worker } => {
                team.step(worker);
                sent.extend(team.transmitted().concat());
            }
        }
    }
    for worker in 0..2 {
        team.port(worker).set_transmit_room(usize::MAX);
    }
    team.settle();
    sent.extend(team.transmitted().concat());
    let counters = Team {
        workers: Vec::new(),
        inboxes: team.inboxes.clone(),
        stats: team.stats.clone(),
        now: team.now,
    };
    sent.extend(team.close());
    (sent, counters)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the port refuses, each frame is released in the end, and each packet sent is valid.
    #[test]
    fn no_frame_is_lost_or_doubled(events in prop::collection::vec(event(true), 1..150)) {
        let (sent, _) = run(events);
        for packet in sent {
            prop_assert_eq!(validate::validate(&packet, false), Ok(()));
        }
    }

    /// Without super-packets and answers, each packet received is one sent or one drop counted.
    #[test]
    fn each_packet_is_sent_or_counted(events in prop::collection::vec(event(false), 1..150)) {
        let (sent, team) = run(events);
        let received = team.sum(|stats| &stats.received);
        let transmitted = team.sum(|stats| &stats.transmitted);
        prop_assert_eq!(transmitted, sent.len() as u64 + 2, "two packets came before");
        prop_assert_eq!(received, transmitted + team.all_drops());
    }

    /// The packets of one flow leave in the order in which they came, however often the ring is full.
    #[test]
    fn waiting_packets_leave_in_order(rooms in prop::collection::vec((0..20_usize, 0..40_u16), 1..40)) {
        let mut team = Team::new(1);
        let mut number = 0_u16;
        let mut sent = Vec::new();
        for (room, arrivals) in rooms {
            for _ in 0..arrivals {
                team.port(0).push_packet(&request(40_000, &number.to_be_bytes()));
                number += 1;
            }
            team.port(0).set_transmit_room(room);
            team.step(0);
            sent.extend(team.transmitted().concat());
        }
        team.port(0).set_transmit_room(usize::MAX);
        team.settle();
        sent.extend(team.transmitted().concat());
        let dropped = team.drops(DropReason::TxRingFull);
        sent.extend(team.close());
        let numbers: Vec<_> = sent.iter().map(|packet| payload(packet)).collect();
        prop_assert!(numbers.is_sorted());
        prop_assert_eq!(numbers.len() as u64 + dropped, u64::from(number));
    }
}
