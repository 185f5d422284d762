//! What the flow table promises to those who use it.

mod affinity;
mod index;
mod lifecycle;
mod local;
mod model;
mod ports;
mod pressure;
mod reference;
mod sctp;
mod share;
mod tcp;
mod tcp_model;
mod time_wait;
mod timers;

use std::ops::RangeInclusive;

use vl3lb_common::addr::{Protocol, to_octets};
use vl3lb_common::flow_query::FlowState;
use vl3lb_common::stats::CloseCause;
use vl3lb_common::{BackendSlot, Duration, ServiceSlot, Timestamp};

use super::affinity::{AffinityEpoch, AffinityTable};
use super::index::Kind;
use super::key::{HashSeed, Key};
use super::*;
use crate::config::Timeouts;

const SEED: u64 = 0x5eed;
const PORTS: RangeInclusive<u16> = 10_240..=32_767;

fn address(text: &str) -> [u8; 16] {
    to_octets(text.parse().unwrap())
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_duration(Duration::from_secs(seconds))
}

/// A new TCP flow of client number `client` to the backend in `slot`.
fn new_flow(client: u32, slot: u32) -> NewFlow {
    let [_, _, high, low] = slot.to_be_bytes();
    let ipv4 = |last: [u8; 4]| to_octets(std::net::IpAddr::from(last));
    NewFlow {
        client: ipv4((0x0a00_0000 + client).to_be_bytes()),
        client_port: 40_000,
        local: 0,
        service_port: 8080,
        protocol: Protocol::Tcp.number(),
        backend: ipv4([172, 16, high, low]),
        backend_port: 8081,
        backend_slot: BackendSlot(slot),
        service_slot: ServiceSlot(3),
        client_mac: [2, 0, 0, 0, 0, 1],
        hop_generation: 7,
        timeout: Duration::from_secs(240),
        state: State::Opening,
        nat_port: None,
        away: false,
        elsewhere: false,
        syn: None,
        client_flows: u32::MAX,
        predecessor: Predecessor::Unknown,
    }
}

/// The same, open.
fn established(client: u32, slot: u32) -> NewFlow {
    NewFlow {
        state: State::Established,
        ..new_flow(client, slot)
    }
}

/// A random number that is another one for each `n`.
fn random(n: u64) -> u64 {
    n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn request_key(new: &NewFlow) -> RequestKey {
    RequestKey {
        client: new.client,
        client_port: new.client_port,
        local: new.local,
        service_port: new.service_port,
        protocol: new.protocol,
    }
}

fn open(table: &mut FlowTable, new: &NewFlow, now: Timestamp) -> Opened {
    table
        .open(new, now, random(u64::from(table.len())), |_| true)
        .unwrap()
}

/// A flow as it was when it was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ClosedFlow {
    backend_slot: BackendSlot,
    state: State,
    created: Timestamp,
}

impl ClosedFlow {
    const fn cause(&self) -> CloseCause {
        self.state.close_cause()
    }
}

/// A flow that was opened, and the flows that were closed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Opened {
    id: FlowId,
    replaced: Option<ClosedFlow>,
    reclaimed: Option<ClosedFlow>,
}

/// The table alone, used as [`Flows`] uses it.
impl FlowTable {
    fn open(
        &mut self,
        new: &NewFlow,
        now: Timestamp,
        random: u64,
        usable: impl Fn(u16) -> bool,
    ) -> Result<Opened, OpenError> {
        let room = self.make_room(new, now, random, usable)?;
        let replaced = room.replaced.map(|id| self.closed(id));
        let reclaimed = room.reclaimed.map(|id| self.closed(id));
        let id = self.insert(new, room.nat_port, now).unwrap();
        Ok(Opened {
            id,
            replaced,
            reclaimed,
        })
    }

    fn closed(&mut self, id: FlowId) -> ClosedFlow {
        let (state, created) = (self.entry(id).state(), self.counters(id).created());
        ClosedFlow {
            backend_slot: self.close(id),
            state,
            created,
        }
    }

    fn local_index(&mut self, address: [u8; 16]) -> u8 {
        self.set_local_addresses([address].into_iter());
        self.find_local(&address).unwrap()
    }

    /// Closes expired flows and those of a backend among the next entries, with their causes.
    fn sweep(
        &mut self,
        now: Timestamp,
        budget: usize,
        doomed: Option<(u32, CloseCause)>,
    ) -> Vec<(ClosedFlow, CloseCause)> {
        let mut ended = Vec::new();
        for _ in 0..budget.min(self.sweep_len()) {
            let Some(id) = self.next_at_cursor() else { continue };
            let entry = self.entry(id);
            let cause = if entry.expired(now) {
                Some(entry.state().close_cause())
            } else {
                doomed.and_then(|(slot, cause)| (entry.backend().0 == slot).then_some(cause))
            };
            if let Some(cause) = cause {
                ended.push((self.closed(id), cause));
            }
        }
        ended
    }
}

fn is_pristine(table: &FlowTable) -> bool {
    table.is_empty()
        && table.index.is_pristine()
        && table.ports.is_pristine()
        && table.endpoints.is_pristine()
        && table.queues.is_pristine()
        && table.clients.is_pristine()
        && table.pool.live.iter().all(|&word| word == 0)
}

#[test]
fn a_flow_is_found_by_both_keys_until_it_is_closed() {
    let mut table = FlowTable::new(4, PORTS, SEED).unwrap();
    let own = address("172.16.1.103");
    let new = NewFlow {
        local: table.local_index(own),
        ..new_flow(1, 9)
    };
    let Opened { id, .. } = open(&mut table, &new, at(1));
    let entry = *table.entry(id);
    let reply = table.reply_key(&entry);
    assert_eq!(table.request(&request_key(&new), at(2)), Some(id));
    assert_eq!(table.reply(&reply, at(2)), Some(id));
    let backend = table.endpoint(&entry).endpoint();
    assert_eq!(backend, new.endpoint());
    assert_eq!((entry.client_mac, entry.hop_generation), ([2, 0, 0, 0, 0, 1], 7));
    assert_eq!(table.local_address(entry.local), own);
    assert!(PORTS.contains(&entry.nat_port));

    let closed = table.closed(id);
    assert_eq!(
        closed,
        ClosedFlow {
            backend_slot: BackendSlot(9),
            state: State::Opening,
            created: at(1),
        }
    );
    assert_eq!(table.request(&request_key(&new), at(2)), None);
    assert_eq!(table.reply(&reply, at(2)), None);
    assert!(is_pristine(&table));
}

#[test]
#[should_panic(expected = "is closed once")]
fn closing_twice_panics() {
    let mut table = FlowTable::new(4, PORTS, SEED).unwrap();
    let Opened { id, .. } = open(&mut table, &new_flow(1, 1), at(0));
    table.close(id);
    table.close(id);
}

#[test]
fn a_guess_does_not_outlive_its_flow() {
    let mut table = FlowTable::new(10, PORTS, SEED).unwrap();
    let (old, new) = (new_flow(1, 5), new_flow(2, 5));
    let opened = open(&mut table, &old, at(1));
    let mut probe = table.request_probe(&request_key(&old));
    table.prefetch_index(&probe);
    table.prefetch_flow(&mut probe);
    let wrong = probe;
    let guessed = |table: &FlowTable, now| table.request_at(&wrong, request_key(&old), now);
    assert_eq!(guessed(&table, at(2)), Ok(opened.id));
    assert_eq!(guessed(&table, at(100_000)), Err(Some(opened.id)), "expired");
    table.close(opened.id);
    assert_eq!(guessed(&table, at(2)), Err(None));
    let reused = open(&mut table, &new, at(3));
    assert_eq!(reused.id, opened.id, "the entry is used again");
    assert_eq!(guessed(&table, at(3)), Err(None));
    let moved = open(&mut table, &old, at(4));
    assert_eq!(guessed(&table, at(4)), Ok(moved.id), "a wrong guess does no harm");
    assert_eq!(table.guessed_request(&probe, request_key(&old), at(4)), None);
    table.prefetch_flow(&mut probe);
    assert_eq!(
        table.guessed_request(&probe, request_key(&old), at(4)),
        Some(moved.id)
    );
    assert_eq!(
        table.guessed_request(&probe, request_key(&old), at(100_000)),
        None
    );
}

#[test]
fn clients_with_one_source_port_have_flows_of_their_own_to_one_backend() {
    let mut table = FlowTable::new(2, PORTS, SEED).unwrap();
    let (first, second) = (new_flow(1, 1), new_flow(2, 1));
    let (first, second) = (open(&mut table, &first, at(0)), open(&mut table, &second, at(0)));
    let (first, second) = (table.entry(first.id), table.entry(second.id));
    assert_eq!(first.client_port, second.client_port);
    assert_ne!(table.reply_key(first), table.reply_key(second));
}

#[test]
fn invalid_tables_are_errors() {
    for (capacity, ports) in [(0, PORTS), (1 << 31, PORTS), (1, 0..=9)] {
        let error = FlowTable::new(capacity, ports, SEED).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    let error = FlowTable::new(1, 9..=8, SEED).unwrap_err();
    assert!(error.to_string().contains("0 NAT ports from 9 on"), "{error}");
}

#[test]
fn a_full_table_opens_no_more_and_closes_nothing() {
    let mut table = FlowTable::new(3, PORTS, SEED).unwrap();
    for client in 0..3 {
        open(&mut table, &established(client, client), at(0));
    }
    let refused = table.open(&new_flow(9, 0), at(240), 0, |_| true);
    assert_eq!(refused, Err(OpenError::TableFull));
    assert_eq!(table.len(), 3);
}

#[test]
fn an_expired_flow_makes_room_in_a_full_table() {
    let mut table = FlowTable::new(100, PORTS, SEED).unwrap();
    for client in 0..100 {
        let timeout = Duration::from_secs(if client == 50 { 5 } else { 240 });
        open(
            &mut table,
            &NewFlow {
                timeout,
                ..established(client, client)
            },
            at(0),
        );
    }
    let opened = open(&mut table, &new_flow(100, 0), at(6));
    let replaced = opened.replaced.unwrap();
    assert_eq!(
        (replaced.backend_slot, replaced.cause()),
        (BackendSlot(50), CloseCause::Idle)
    );
    assert_eq!(opened.reclaimed, None);
    assert_eq!(table.len(), 100);
}

#[test]
fn a_finished_flow_of_any_backend_makes_room_in_a_full_table_oldest_first() {
    let mut table = FlowTable::new(4, PORTS, SEED).unwrap();
    let ids: Vec<_> = [(0, 7), (1, 8), (2, 8), (3, 8)]
        .map(|(client, slot)| open(&mut table, &established(client, slot), at(u64::from(client))).id)
        .into();
    let transitory = Duration::from_secs(240);
    for (nth, second) in [(2, 10), (1, 11), (0, 12), (3, 13)] {
        table.touch(ids[nth], State::Finished, at(second), transitory);
    }
    // Flow 2 finished first, but lives again.
    table.touch(ids[2], State::Established, at(14), transitory);
    for (client, oldest) in [(10, 1), (11, 0), (12, 3)] {
        let opened = open(&mut table, &established(client, 9), at(15));
        assert_eq!(opened.reclaimed.unwrap().created, at(oldest));
        assert_eq!(opened.replaced, None);
    }
    let refused = table.open(&established(13, 9), at(15), 0, |_| true);
    assert_eq!(refused, Err(OpenError::TableFull));
}

#[test]
fn a_connection_that_begins_anew_replaces_the_old_one() {
    let mut table = FlowTable::new(1, PORTS, SEED).unwrap();
    let old = open(&mut table, &new_flow(1, 1), at(0)).id;
    table.touch(old, State::Reset, at(1), Duration::from_secs(240));
    let opened = open(&mut table, &new_flow(1, 2), at(2));
    let replaced = opened.replaced.unwrap();
    assert_eq!(
        (replaced.backend_slot, replaced.cause()),
        (BackendSlot(1), CloseCause::Rst)
    );
    assert_eq!(
        table.request(&request_key(&new_flow(1, 2)), at(2)),
        Some(opened.id)
    );
    assert_eq!(table.len(), 1);
}

#[test]
fn sweeps_end_expired_and_doomed_flows_within_their_budget() {
    let mut table = FlowTable::new(1000, PORTS, SEED).unwrap();
    for client in 0..1000 {
        let timeout = Duration::from_secs(if client % 2 == 0 { 60 } else { 600 });
        open(
            &mut table,
            &NewFlow {
                timeout,
                ..new_flow(client, client % 10)
            },
            at(0),
        );
    }
    let mut ended = table.sweep(at(61), 10, None);
    assert_eq!(ended.len(), 5, "every other one of ten entries");
    while table.len() > 500 {
        ended.extend(table.sweep(at(61), 10, None));
    }
    assert!(ended.iter().all(|(_, cause)| *cause == CloseCause::Idle));

    let ended = table.sweep(at(61), usize::MAX, Some((3, CloseCause::BackendDown)));
    assert_eq!(ended.len(), 100);
    assert!(
        ended
            .iter()
            .all(|(flow, cause)| (flow.backend_slot.0, *cause) == (3, CloseCause::BackendDown))
    );

    table.sweep(at(601), usize::MAX, None);
    assert!(is_pristine(&table));
}

#[test]
fn one_sweep_of_the_whole_length_covers_every_flow_from_any_start() {
    for start in 0..200 {
        let mut table = FlowTable::new(150, PORTS, SEED).unwrap();
        for client in 0..150 {
            open(&mut table, &new_flow(client, 0), at(0));
        }
        table.sweep(at(1), start, None);
        table.sweep(at(1000), table.sweep_len(), None);
        assert!(table.is_empty(), "start {start}: {} left", table.len());
    }
}

#[test]
fn slices_show_every_live_flow_once() {
    let mut table = FlowTable::new(200, PORTS, SEED).unwrap();
    let own = address("172.16.1.103");
    let local = table.local_index(own);
    let ids: Vec<_> = (0..150)
        .map(|client| {
            open(
                &mut table,
                &NewFlow {
                    local,
                    ..new_flow(client, 5)
                },
                at(10),
            )
            .id
        })
        .collect();
    for id in ids.iter().skip(1).step_by(2) {
        table.close(*id);
    }
    table.count(ids[0], Direction::In, 60);
    table.count(ids[0], Direction::Out, 1500);
    table.count(ids[0], Direction::Out, 1500);
    let timeouts = Timeouts::default();
    table.touch(ids[0], State::Established, at(20), timeouts.tcp_established);

    let (mut flows, mut cursor) = (Vec::new(), Some(0));
    while let Some(from) = cursor {
        let slice = table.slice(from, 7, at(50), 2, &timeouts);
        flows.extend(slice.flows);
        cursor = slice.next;
    }
    assert_eq!(flows.len(), 75);
    let clients: std::collections::HashSet<_> = flows.iter().map(|flow| flow.client).collect();
    assert_eq!(clients.len(), 75);

    let flow = &flows[0];
    assert_eq!((flow.worker, flow.protocol), (2, Protocol::Tcp));
    assert_eq!(
        (flow.service_address, flow.service_port),
        ("172.16.1.103".parse().unwrap(), 8080)
    );
    assert_eq!(
        (flow.backend, flow.backend_port),
        ("172.16.0.5".parse().unwrap(), 8081)
    );
    assert_eq!(
        (flow.service, flow.backend_slot),
        (ServiceSlot(3), BackendSlot(5))
    );
    assert_eq!(flow.state, FlowState::Established);
    assert_eq!((flow.packets_in, flow.bytes_in), (1, 60));
    assert_eq!((flow.packets_out, flow.bytes_out), (2, 3000));
    assert_eq!((flow.age_micros, flow.idle_micros), (40_000_000, 30_000_000));
    assert_eq!(flow.expires_micros, (20 + 7440 - 50) * 1_000_000);

    let later = table.slice(0, 1000, at(300), 2, &timeouts);
    assert_eq!(later.flows.len(), 1, "the others have expired");
    assert_eq!(later.next, None);
    assert_eq!(table.slice(1000, 1000, at(300), 2, &timeouts).next, None);
}

#[test]
fn a_flow_takes_112_bytes_at_most() {
    for flows in [1_000_000, 10_000_000] {
        let table = FlowTable::new(flows, PORTS, SEED).unwrap();
        let bytes = table.memory_bytes();
        assert!(bytes <= 112 * flows as usize, "{bytes} bytes for {flows} flows");
    }
}

#[test]
fn keys_of_a_full_table_are_mostly_in_their_first_bucket() {
    let flows = 20_000;
    let mut table = FlowTable::new(flows, PORTS, SEED).unwrap();
    for client in 0..flows {
        open(&mut table, &new_flow(client, client % 4), at(0));
    }
    let seed = HashSeed::new(SEED);
    let keys = (0..flows).flat_map(|id| {
        let entry = table.entry(FlowId(id));
        [
            (Kind::Request, entry.request_key().hash(&seed), id),
            (Kind::Reply, table.reply_key(entry).hash(&seed), id),
        ]
    });
    let displaced = table.index.displaced(keys);
    assert!(displaced < 0.1, "{displaced}");
}
