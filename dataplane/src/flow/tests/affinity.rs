//! The affinity table: who keeps which backend for how long, and who makes room.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;
use vl3lb_common::{Backend, BackendState, Generation};

use super::*;

const TIME: Duration = Duration::from_secs(60);

fn client(number: u8) -> ServiceClient {
    ServiceClient {
        service: ServiceSlot(3),
        client: to_octets([10, 0, 0, number].into()),
    }
}

/// The backend that got `slot` in generation `since`.
fn backend(slot: u32, since: u64) -> BackendId {
    BackendId::from(&Backend {
        slot: BackendSlot(slot),
        since: Generation(since),
        service: ServiceSlot(3),
        address: [10, 1, 0, 1].into(),
        port: 8081,
        protocol: Protocol::Tcp,
        weight: 1,
        state: BackendState::Active,
        mac: None,
    })
}

/// One set.
fn small() -> AffinityTable {
    AffinityTable::new(32, SEED).unwrap()
}

#[test]
fn a_client_keeps_its_backend_while_a_flow_is_open_and_for_its_time_after_the_end() {
    let mut table = small();
    let (key, first) = (client(1), backend(16_383, 7));
    assert_eq!(table.find(&key, at(1)), None);
    let begun = table.begin(&key, first, at(1), TIME);
    assert!(!begun.evicted);
    assert_eq!(table.find(&key, at(10_000)), Some(first), "the flow is open");
    table.end(&key, (first.slot, begun.epoch), at(10_000), TIME);
    assert_eq!(table.find(&key, at(10_060)), Some(first));
    assert_eq!(table.find(&key, at(10_061)), None);
}

#[test]
fn each_begin_and_each_end_starts_the_time_anew() {
    let mut table = small();
    let (key, first) = (client(1), backend(4, 1));
    let bonds = [0, 50].map(|second| table.begin(&key, first, at(second), TIME).epoch);
    table.end(&key, (first.slot, bonds[0]), at(55), TIME);
    table.end(&key, (first.slot, bonds[1]), at(100), TIME);
    assert_eq!(table.find(&key, at(160)), Some(first));
    assert_eq!(table.find(&key, at(161)), None);
}

#[test]
fn affinity_never_ends_early_and_at_most_a_second_late() {
    for start in [1, 999_999_999, 1_000_000_000, 12_345_678_901] {
        let mut table = small();
        let (key, first, start) = (client(1), backend(4, 1), Timestamp(start));
        let time = Duration::from_millis(1_500);
        let epoch = table.begin(&key, first, start, time).epoch;
        table.end(&key, (first.slot, epoch), start, time);
        assert_eq!(table.find(&key, start + time), Some(first));
        assert_eq!(table.find(&key, start + time + Duration::from_secs(1)), None);
    }
}

#[test]
fn a_client_of_one_service_is_not_known_to_another() {
    let mut table = small();
    table.begin(&client(1), backend(4, 1), at(0), TIME);
    let elsewhere = ServiceClient {
        service: ServiceSlot(4),
        ..client(1)
    };
    assert_eq!(table.find(&elsewhere, at(0)), None);
    assert_eq!(table.find(&client(2), at(0)), None);
}

#[test]
fn a_backend_is_not_taken_for_the_next_one_in_its_slot() {
    let mut table = small();
    table.begin(&client(1), backend(4, 1), at(0), TIME);
    assert_ne!(table.find(&client(1), at(0)), Some(backend(4, 2)));
}

#[test]
fn the_end_of_a_flow_on_another_backend_changes_nothing() {
    let mut table = small();
    let (key, first, second) = (client(1), backend(4, 1), backend(5, 1));
    let on_first = table.begin(&key, first, at(0), TIME).epoch;
    let on_second = table.begin(&key, second, at(10), TIME).epoch;
    table.end(&key, (second.slot, on_second), at(20), TIME);
    table.end(&key, (first.slot, on_first), at(70), TIME);
    assert_eq!(table.find(&key, at(80)), Some(second));
    assert_eq!(table.find(&key, at(81)), None);
    table.end(&client(9), (first.slot, on_first), at(70), TIME);
    assert_eq!(table.find(&client(9), at(70)), None);
}

#[test]
fn a_flow_of_a_former_epoch_does_not_end_the_current_one() {
    let mut table = small();
    let (key, first, second) = (client(1), backend(4, 1), backend(5, 1));
    let before = table.begin(&key, first, at(0), TIME).epoch;
    table.begin(&key, second, at(10), TIME);
    let after = table.begin(&key, first, at(20), TIME).epoch;
    table.end(&key, (first.slot, before), at(30), TIME);
    assert_eq!(table.find(&key, at(1_000)), Some(first), "a flow is open");
    table.end(&key, (first.slot, after), at(1_000), TIME);
    assert_eq!(table.find(&key, at(1_061)), None);
}

#[test]
fn when_a_set_is_full_the_client_that_would_be_forgotten_first_makes_room() {
    let mut table = small();
    for number in 0..8 {
        let (key, when) = (client(number), at(100 - u64::from(number)));
        let begun = table.begin(&key, backend(4, 1), when, TIME);
        assert!(!begun.evicted);
        // Clients 0 to 3 have no open flow; of those client 3 began first.
        if number < 4 {
            table.end(&key, (BackendSlot(4), begun.epoch), when, TIME);
        }
    }
    for (newcomer, forgotten) in [(20, 3), (21, 2), (22, 1), (23, 0), (24, 7), (25, 6)] {
        assert!(table.find(&client(forgotten), at(100)).is_some());
        let begun = table.begin(&client(newcomer), backend(5, 1), at(200), TIME);
        assert!(begun.evicted || forgotten < 4);
        assert!(table.find(&client(forgotten), at(100)).is_none(), "{forgotten}");
        assert_eq!(table.find(&client(newcomer), at(200)), Some(backend(5, 1)));
    }
}

#[test]
fn only_a_client_that_is_forgotten_before_its_time_counts_as_evicted() {
    let mut table = small();
    let mut evicted = |range: std::ops::Range<u8>, now| {
        range
            .filter(|&number| {
                let begun = table.begin(&client(number), backend(4, 1), now, TIME);
                table.end(&client(number), (BackendSlot(4), begun.epoch), now, TIME);
                begun.evicted
            })
            .count()
    };
    assert_eq!(evicted(0..8, at(0)), 0);
    assert_eq!(evicted(0..8, at(1)), 0, "the same clients again");
    assert_eq!(evicted(10..13, at(2)), 3);
    assert_eq!(evicted(20..28, at(100)), 0, "all others are over");
}

#[test]
fn a_table_has_an_entry_for_each_four_flows() {
    let mut table = AffinityTable::new(4_000, SEED).unwrap();
    let keys: Vec<_> = (0..1_000_u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            ServiceClient {
                service: ServiceSlot(0),
                client: to_octets([10, 0, high, low].into()),
            }
        })
        .collect();
    let evicted = keys
        .iter()
        .filter(|key| table.begin(key, backend(1, 1), at(0), TIME).evicted)
        .count();
    let known = keys.iter().filter(|key| table.find(key, at(0)).is_some()).count();
    assert_eq!(known + evicted, 1_000);
    assert!(known > 800, "sets fill evenly: {known}");
}

#[derive(Debug, Clone)]
enum Step {
    Begin { client: u8, slot: u32, since: u64 },
    End { client: u8, slot: u32 },
    Wait { seconds: u64 },
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    backend: BackendId,
    /// How often the client has changed its backend.
    changes: u32,
    flows: u32,
    until: Timestamp,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u8..8, 0_u32..3, 0_u64..2)
            .prop_map(|(client, slot, since)| Step::Begin { client, slot, since }),
        3 => (0_u8..8, 0_u32..3).prop_map(|(client, slot)| Step::End { client, slot }),
        1 => (0_u64..80).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

proptest! {
    /// As many clients as fit into one set: nobody makes room, so a map is the whole truth.
    #[test]
    fn agrees_with_a_map(steps in prop::collection::vec(step(), 1..120)) {
        let mut table = small();
        let mut model: HashMap<u8, Kept> = HashMap::new();
        let mut open: HashMap<(u8, u32), VecDeque<(AffinityEpoch, u32)>> = HashMap::new();
        let mut now = at(5);
        for step in steps {
            match step {
                Step::Begin { client: number, slot, since } => {
                    let backend = backend(slot, since);
                    let begun = table.begin(&client(number), backend, now, TIME);
                    prop_assert!(!begun.evicted);
                    let before = model.get(&number);
                    let (changes, flows) = match before {
                        Some(kept) if kept.backend == backend => (kept.changes, kept.flows),
                        _ => (before.map_or(0, |kept| kept.changes + 1), 0),
                    };
                    model.insert(number, Kept { backend, changes, flows: flows + 1, until: now + TIME });
                    open.entry((number, slot)).or_default().push_back((begun.epoch, changes));
                }
                Step::End { client: number, slot } => {
                    let Some((epoch, changes)) = open.entry((number, slot)).or_default().pop_front() else {
                        continue;
                    };
                    table.end(&client(number), (BackendSlot(slot), epoch), now, TIME);
                    if let Some(kept) = model.get_mut(&number)
                        && (kept.backend.slot.0, kept.changes % 16) == (slot, changes % 16)
                    {
                        kept.flows = kept.flows.saturating_sub(1);
                        kept.until = now + TIME;
                    }
                }
                Step::Wait { seconds } => now = now + Duration::from_secs(seconds),
            }
            for number in 0..8 {
                let kept = model.get(&number).filter(|kept| kept.flows > 0 || now <= kept.until);
                prop_assert_eq!(table.find(&client(number), now), kept.map(|kept| kept.backend));
            }
        }
    }
}
