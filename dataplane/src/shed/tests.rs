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
    shed.admit(10, at(2));
    let read = |word: usize| words[word].load(Relaxed);
    assert_eq!((read(ACTIVE), read(SECOND), read(STEP)), (1, 3, 20));
    assert_eq!((read(LIMIT), read(REPEAT_LIMIT)), (8, 15), "numbers wrap around");
    shed.end();
    assert_eq!(read(ACTIVE), 0);
    shed.admit(10, at(2));
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
fn workers_beyond_the_last_shed_nothing_here() {
    let (memory, mut shed) = shed(256);
    assert!(memory.worker(255).is_some());
    shed.admit(10, at(1));
    assert_eq!(shed.take_dropped(), 0);
}
