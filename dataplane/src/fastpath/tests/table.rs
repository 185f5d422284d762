//! Records and index words: room, reuse, counters.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use vl3lb_common::Timestamp;
use vl3lb_common::hash::OwnerKey;

use super::super::{FastMemory, FastTable, NoRoom, Promotion, Usage};
use super::program::{Program, Tuple};
use super::promotion;

const KEY: u64 = 7;

fn tables(flows: u32, workers: u16) -> (Arc<FastMemory>, Vec<FastTable>) {
    let memory = Arc::new(FastMemory::anonymous(flows, 2).unwrap());
    let tables = (0..workers)
        .map(|worker| {
            FastTable::new(
                Arc::clone(&memory),
                OwnerKey::from_seed(KEY),
                (worker, workers),
                256,
            )
        })
        .collect();
    (memory, tables)
}

fn request(flow: &Promotion) -> Tuple {
    Tuple {
        source: flow.client,
        destination: flow.local,
        ports: (flow.client_port, flow.service_port),
        protocol: flow.protocol,
    }
}

fn reply(flow: &Promotion) -> Tuple {
    Tuple {
        source: flow.backend,
        destination: flow.local,
        ports: (flow.backend_port, flow.nat_port),
        protocol: flow.protocol,
    }
}

fn send(memory: &FastMemory, packet: Tuple) -> bool {
    Program::new(0, packet, 100, 77)
        .run(memory, &OwnerKey::from_seed(KEY))
        .is_some()
}

#[test]
fn counters_are_read_as_differences() {
    let (memory, mut tables) = tables(4, 1);
    let (table, flow) = (&mut tables[0], promotion(1, 20_000));
    table.open(5, &flow).unwrap();
    assert!(table.usage(5).unwrap().is_none());
    for packet in [request(&flow), request(&flow), reply(&flow)] {
        assert!(send(&memory, packet));
    }
    let usage = table.usage(5).unwrap();
    assert_eq!((usage.packets, usage.bytes), ([2, 1], [200, 100]));
    assert_eq!(usage.used, Some(Timestamp(77)));
    assert!(send(&memory, reply(&flow)));
    table.close(5);
    assert!(!send(&memory, reply(&flow)), "the worker's again");
    assert_eq!(table.finish(5).map(|usage| usage.packets), Some([0, 1]));
    assert_eq!(table.usage(5), None);
    assert_eq!(table.finish(5), None);
}

#[test]
fn a_flow_without_room_stays_with_its_worker() {
    let (memory, mut tables) = tables(4, 2);
    let flow = |number: u8| promotion(number, 20_000 + u16::from(number));
    for number in 0..2 {
        tables[0].open(number.into(), &flow(number)).unwrap();
        tables[1].open(number.into(), &flow(number + 10)).unwrap();
    }
    assert_eq!(tables[0].open(2, &flow(2)), Err(NoRoom), "each worker has two");
    assert!(!send(&memory, request(&flow(2))));
    tables[0].finish(1);
    tables[0].open(2, &flow(2)).unwrap();
    assert!(send(&memory, request(&flow(2))) && send(&memory, request(&flow(11))));
}

/// Eight words fit a bucket: the ninth tuple that meets there finds no room, and leaves nothing behind.
#[test]
fn a_full_bucket_refuses_and_a_half_inserted_flow_leaves_no_word() {
    let (memory, mut tables) = tables(16, 1);
    let table = &mut tables[0];
    // One client: all requests of these flows differ by the port alone, so buckets fill at random.
    let flows: Vec<_> = (0..200_u16)
        .map(|number| Promotion {
            client_port: 1_000 + number,
            ..promotion(1, 20_000 + number)
        })
        .collect();
    let mut open = Vec::new();
    for (number, flow) in (0..).zip(&flows) {
        if table.open(number, flow).is_ok() {
            open.push(number);
        }
    }
    assert_eq!(open.len(), 16);
    for number in open {
        table.finish(number);
    }
    for flow in &flows {
        assert!(!send(&memory, request(flow)) && !send(&memory, reply(flow)));
    }
    for (number, flow) in (0..).zip(&flows) {
        if table.open(number, flow).is_ok() {
            table.finish(number);
        }
    }
    assert!(table.is_empty());
}

proptest! {
    /// Flows open, close and end in any order: the program takes the packets of exactly those that are open, and each
    /// packet is counted once.
    #[test]
    fn the_program_takes_exactly_the_open_flows(
        actions in prop::collection::vec((0_u8..12, 0_u8..5), 1..200),
    ) {
        let (memory, mut tables) = tables(8, 1);
        let table = &mut tables[0];
        let flow = |number: u8| promotion(number, 20_000 + u16::from(number));
        let (mut sent, mut counted) = (HashMap::new(), HashMap::new());
        let mut count = |number: u8, usage: Usage| {
            *counted.entry(number).or_insert(0) += usage.packets[0] + usage.packets[1];
        };
        // True while it is open, false while it closes.
        let mut known = HashMap::new();
        for (number, action) in actions {
            let id = u32::from(number);
            match action {
                0 if !known.contains_key(&number) => {
                    if table.open(id, &flow(number)).is_ok() {
                        known.insert(number, true);
                    } else {
                        prop_assert_eq!(known.len(), 8);
                    }
                }
                1 => {
                    table.close(id);
                    if let Some(open) = known.get_mut(&number) {
                        *open = false;
                    }
                }
                2 => {
                    if let Some(usage) = table.finish(id) {
                        count(number, usage);
                    }
                    known.remove(&number);
                }
                3 => {
                    table.finish_quiet(|id, usage| count(u8::try_from(id).unwrap(), usage));
                    known.retain(|_, open| *open);
                }
                _ => {
                    if let Some(usage) = table.usage(id) {
                        count(number, usage);
                    }
                }
            }
            for number in 0..12 {
                for packet in [request(&flow(number)), reply(&flow(number))] {
                    let is_open = known.get(&number) == Some(&true);
                    prop_assert_eq!(send(&memory, packet), is_open, "{}", number);
                    prop_assert_eq!(table.is_open(number.into()), is_open);
                    *sent.entry(number).or_insert(0) += u64::from(is_open);
                }
            }
            prop_assert_eq!(table.len(), known.values().filter(|open| **open).count());
        }
        for number in 0..12 {
            if let Some(usage) = table.finish(number.into()) {
                count(number, usage);
            }
        }
        for number in 0..12 {
            prop_assert_eq!(
                counted.get(&number).copied().unwrap_or(0),
                sent.get(&number).copied().unwrap_or(0)
            );
        }
    }
}
