//! The words that worker and program share.

use vl3lb_common::addr::to_octets;

use super::*;

fn shed(worker: u16) -> (Arc<ShedMemory>, Shed) {
    let memory = Arc::new(ShedMemory::anonymous().unwrap());
    let shed = Shed::new(Arc::clone(&memory), worker, OwnerKey::from_seed(7));
    (memory, shed)
}

fn at(seconds: u64) -> Timestamp {
    Timestamp(seconds * 1_000_000_000)
}

fn number(n: u32) -> [u8; 16] {
    to_octets(std::net::Ipv4Addr::from_bits(n).into())
}

#[test]
fn a_limit_counts_from_what_was_admitted() {
    let (memory, shed) = shed(3);
    let words = memory.worker(3).unwrap();
    words[ADMITTED].store(u64::MAX - 1, Relaxed);
    words[REPEATS].store(5, Relaxed);
    shed.admit(10, 3, at(2));
    let read = |word: usize| words[word].load(Relaxed);
    assert_eq!((read(ACTIVE), read(SECOND), read(STEP)), (1, 3, 20));
    assert_eq!((read(LIMIT), read(REPEAT_LIMIT)), (8, 15), "numbers wrap around");
    assert_eq!((read(STRAY_LIMIT), read(NOTED)), (3, 3));
    shed.admit(10, 3, at(254));
    assert_eq!((read(SECOND), read(NOTED)), (255, 255));
    shed.admit(10, 3, at(255));
    assert_eq!((read(SECOND), read(NOTED)), (256, 1), "0 is no time");
    shed.end();
    assert_eq!(read(ACTIVE), 0);
    shed.admit(10, 3, at(2));
    drop(shed);
    assert_eq!(read(ACTIVE), 0, "nothing is shed without a worker");
}

#[test]
fn packets_that_were_dropped_are_taken_once() {
    let (memory, mut shed) = shed(0);
    memory.worker(0).unwrap()[DROPPED].store(7, Relaxed);
    assert_eq!((shed.take_dropped(), shed.take_dropped()), (7, 0));
    memory.worker(1).unwrap()[DROPPED].store(7, Relaxed);
    assert_eq!(shed.take_dropped(), 0, "another worker's");
}

#[test]
fn what_one_worker_loses_all_know_of_once() {
    let (memory, mut first) = shed(0);
    let mut second = Shed::new(Arc::clone(&memory), 1, OwnerKey::from_seed(7));
    assert_eq!(first.share_lost(3), 3);
    assert_eq!(second.share_lost(2), 5);
    assert_eq!((first.share_lost(0), first.share_lost(0)), (2, 0));
    let mut late = Shed::new(memory, 2, OwnerKey::from_seed(7));
    assert_eq!(late.share_lost(0), 0);
}

#[test]
fn the_newest_sources_are_known() {
    let (_, shed) = shed(0);
    for n in 0..200_000 {
        shed.prove(&number(n), at(u64::from(n / 1_000)));
    }
    let known = |range: std::ops::Range<u32>| range.filter(|&n| shed.is_proven(&number(n), at(0))).count();
    assert!(known(190_000..200_000) >= 9_990);
    assert!(known(0..10_000) < 1_000);
    assert!(known(300_000..310_000) < 3, "of others");
    assert!(!shed.is_proven(&number(199_000), at(200)), "older than that");
}

#[test]
fn each_flow_has_its_time() {
    let (_, shed) = shed(0);
    let client = |n: u32| number(n % 1_000);
    let port = |n: u32| u16::try_from(n / 1_000).unwrap();
    let time = |n: u32| at(u64::from(n % 20));
    for n in 0..100_000 {
        shed.note_flow(&client(n), [port(n), 80], 6, time(n));
    }
    let known =
        |n: &u32, ports: [u16; 2]| (0..20).any(|time| shed.knows_flow(&client(*n), ports, 6, at(time)));
    let right = |n: &u32| shed.knows_flow(&client(*n), [port(*n), 80], 6, time(*n));
    // A few share a byte, which has the time of the latter.
    assert!((0..100_000).filter(right).count() > 98_000);
    assert!((0..100_000).all(|n| known(&n, [port(n), 80])));
    let mistaken = (0..100_000).filter(|n| known(n, [port(*n), 81])).count();
    assert!(
        (800..1_600).contains(&mistaken),
        "100,000 of 8,388,608 bytes: {mistaken}"
    );
}

#[test]
fn all_know_whether_one_sheds_load() {
    let (memory, first) = shed(0);
    let second = Shed::new(Arc::clone(&memory), 1, OwnerKey::from_seed(7));
    assert!(!second.is_needed());
    first.admit(1, 1, at(1));
    first.admit(1, 1, at(2));
    assert!(second.is_needed());
    second.admit(1, 1, at(2));
    first.end();
    first.end();
    assert!(first.is_needed());
    drop(second);
    assert!(!first.is_needed());
}

#[test]
fn workers_beyond_the_last_shed_nothing_here() {
    let (memory, mut shed) = shed(256);
    assert!(memory.worker(255).is_some());
    shed.admit(10, 3, at(1));
    assert_eq!(shed.take_dropped(), 0);
}
