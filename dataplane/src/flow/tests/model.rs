//! The table against a model of maps and lists, through random histories of small tables.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

/// Ticks of deadlines in a second.
const TICKS: u64 = 100;
/// A port of the slice that is a service's.
const UNUSABLE: u16 = 1001;

#[derive(Debug, Clone)]
enum Step {
    Open {
        request: u8,
        slot: u32,
        state: usize,
        timeout: u64,
        random: u64,
    },
    Touch {
        nth: usize,
        state: usize,
        timeout: u64,
    },
    Close {
        nth: usize,
    },
    Wait {
        seconds: u64,
    },
    Sweep {
        budget: usize,
        doomed: Option<u32>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let state = 0..State::ALL.len();
    prop_oneof![
        6 => (0_u8..60, 0_u32..4, state.clone(), 1_u64..400, any::<u64>())
            .prop_map(|(request, slot, state, timeout, random)| Step::Open { request, slot, state, timeout, random }),
        4 => (any::<usize>(), state, 1_u64..400)
            .prop_map(|(nth, state, timeout)| Step::Touch { nth, state, timeout }),
        1 => any::<usize>().prop_map(|nth| Step::Close { nth }),
        1 => (0_u64..200).prop_map(|seconds| Step::Wait { seconds }),
        1 => (0_usize..40, prop::option::weighted(0.2, 0_u32..4))
            .prop_map(|(budget, doomed)| Step::Sweep { budget, doomed }),
    ]
}

#[derive(Debug, Clone, Copy)]
struct ModelFlow {
    id: FlowId,
    reply: ReplyKey,
    slot: u32,
    state: State,
    /// In ticks.
    deadline: u64,
    created: Timestamp,
}

struct Model {
    table: FlowTable,
    ports: RangeInclusive<u16>,
    /// In ticks; another one for each step, so that flows differ by when they were opened.
    now: u64,
    flows: HashMap<RequestKey, ModelFlow>,
    /// Flows that are over, by slot, oldest first.
    finished: HashMap<u32, Vec<RequestKey>>,
    dead: Vec<(RequestKey, ReplyKey)>,
}

impl Model {
    fn new(capacity: u32, ports: RangeInclusive<u16>, start: u64) -> Self {
        Self {
            table: FlowTable::new(capacity, ports.clone(), SEED).unwrap(),
            ports,
            now: start,
            flows: HashMap::new(),
            finished: HashMap::new(),
            dead: Vec::new(),
        }
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_duration(Duration::from_millis(self.now * 10))
    }

    fn expired(&self, flow: &ModelFlow) -> bool {
        self.now > flow.deadline
    }

    fn usable(port: u16) -> bool {
        port != UNUSABLE
    }

    fn reply_owner(&self, reply: &ReplyKey) -> Option<RequestKey> {
        let mut owners = self.flows.iter().filter(|(_, flow)| flow.reply == *reply);
        owners.next().map(|(request, _)| *request)
    }

    /// The model's flow that the table says it closed.
    fn forget(&mut self, closed: &ClosedFlow) -> RequestKey {
        let (request, flow) = self
            .flows
            .iter()
            .find(|(_, flow)| flow.created == closed.created)
            .map(|(request, flow)| (*request, *flow))
            .expect("a flow that was open");
        assert_eq!((closed.state, closed.backend_slot.0), (flow.state, flow.slot));
        self.flows.remove(&request);
        self.finished
            .entry(flow.slot)
            .or_default()
            .retain(|other| *other != request);
        self.dead.push((request, flow.reply));
        request
    }

    fn set_over(&mut self, request: RequestKey, slot: u32, over: bool) {
        let queue = self.finished.entry(slot).or_default();
        match (queue.contains(&request), over) {
            (false, true) => queue.push(request),
            (true, false) => queue.retain(|other| *other != request),
            _ => (),
        }
    }

    fn step(&mut self, step: &Step) {
        self.now += 1;
        match *step {
            Step::Open {
                request,
                slot,
                state,
                timeout,
                random,
            } => {
                self.open(request, slot, State::ALL[state], timeout, random);
            }
            Step::Touch { nth, state, timeout } => self.touch(nth, State::ALL[state], timeout),
            Step::Close { nth } => {
                if let Some((_, flow)) = self.nth(nth) {
                    let closed = self.table.closed(flow.id);
                    assert_eq!(closed.created, flow.created);
                    self.forget(&closed);
                }
            }
            Step::Wait { seconds } => self.now += seconds * TICKS,
            Step::Sweep { budget, doomed } => self.sweep(budget, doomed),
        }
    }

    fn nth(&self, nth: usize) -> Option<(RequestKey, ModelFlow)> {
        let mut flows: Vec<_> = self.flows.iter().map(|(key, flow)| (*key, *flow)).collect();
        flows.sort_by_key(|(_, flow)| flow.created);
        (!flows.is_empty()).then(|| flows[nth % flows.len()])
    }

    fn open(&mut self, request: u8, slot: u32, state: State, timeout: u64, random: u64) {
        // Slots 0 and 1 are two services' numbers for one backend.
        let new = NewFlow {
            client: new_flow(u32::from(request / 4), 0).client,
            client_port: 40_000 + u16::from(request % 4 / 2),
            service_port: 80 + u16::from(request % 2),
            backend: new_flow(0, slot.max(1)).backend,
            timeout: Duration::from_secs(timeout),
            state,
            ..new_flow(0, slot)
        };
        let key = request_key(&new);
        let reply = |nat_port| ReplyKey {
            backend: new.backend,
            backend_port: new.backend_port,
            local: new.local,
            nat_port,
            protocol: new.protocol,
        };
        let free: HashSet<u16> = self
            .ports
            .clone()
            .filter(|port| Self::usable(*port) && self.reply_owner(&reply(*port)).is_none())
            .collect();
        let queue = self.finished.get(&slot).cloned().unwrap_or_default();
        let inherits = |request: &RequestKey| {
            let old = self.flows[request];
            old.slot == slot && Self::usable(old.reply.nat_port)
        };
        let previous = self.flows.contains_key(&key);
        let is_full = self.flows.len() == self.table.capacity() as usize;

        let mut reclaimed = None;
        let mut allowed = free;
        let mut expected = Ok(());
        let port_of = |request: &RequestKey| HashSet::from([self.flows[request].reply.nat_port]);
        if previous && inherits(&key) {
            allowed = port_of(&key);
        } else if allowed.is_empty() {
            reclaimed = queue.iter().copied().find(|request| inherits(request));
            match &reclaimed {
                Some(request) => allowed = port_of(request),
                None => expected = Err(OpenError::PortsExhausted),
            }
        }
        let mut evicts = false;
        if expected.is_ok() && is_full && !previous && reclaimed.is_none() {
            reclaimed = queue.first().copied();
            evicts = reclaimed.is_none();
            if evicts && !self.flows.values().any(|flow| self.expired(flow)) {
                expected = Err(OpenError::TableFull);
            }
        }

        // As if it had been chosen before; it may be no usable one.
        let wanted = self.table.free_port(new.backend_slot, random.rotate_left(32));
        let new = NewFlow {
            nat_port: wanted.filter(|_| random & 1 != 0),
            ..new
        };
        let result = self.table.open(&new, self.time(), random, Self::usable);
        assert_eq!(result.map(drop), expected);
        let Ok(opened) = result else { return };
        assert_eq!(opened.replaced.is_some(), previous || evicts);
        if let Some(closed) = opened.replaced {
            let expired: Vec<_> = self
                .flows
                .iter()
                .filter(|(_, flow)| self.expired(flow))
                .map(|(request, _)| *request)
                .collect();
            let replaced = self.forget(&closed);
            assert!(if previous {
                replaced == key
            } else {
                expired.contains(&replaced)
            });
        }
        assert_eq!(opened.reclaimed.map(|closed| self.forget(&closed)), reclaimed);
        let nat_port = self.table.entry(opened.id).nat_port;
        assert!(allowed.contains(&nat_port), "port {nat_port} of {allowed:?}");
        let flow = ModelFlow {
            id: opened.id,
            reply: reply(nat_port),
            slot,
            state,
            deadline: self.now + timeout * TICKS,
            created: self.time(),
        };
        self.flows.insert(key, flow);
        self.set_over(key, slot, state.is_over());
    }

    fn touch(&mut self, nth: usize, state: State, timeout: u64) {
        let Some((request, flow)) = self.nth(nth) else {
            return;
        };
        let now = self.time();
        self.table
            .touch(flow.id, state, now, Duration::from_secs(timeout));
        let deadline = self.now + timeout * TICKS;
        let flow = self.flows.get_mut(&request).unwrap();
        let at_its_end = matches!(
            state,
            State::ClosingByClient | State::ClosingByBackend | State::Finished | State::Reset
        );
        if flow.state != state || !at_its_end {
            flow.deadline = deadline;
        }
        flow.state = state;
        let slot = flow.slot;
        self.set_over(request, slot, state.is_over());
    }

    fn sweep(&mut self, budget: usize, doomed: Option<u32>) {
        let whole = budget >= self.table.sweep_len();
        let now = self.time();
        let doomed_slot = doomed.map(|slot| (slot, CloseCause::Drain));
        let ended = self.table.sweep(now, budget, doomed_slot);
        for (closed, cause) in ended {
            let expired = self
                .flows
                .values()
                .any(|flow| flow.created == closed.created && self.expired(flow));
            assert!(expired || doomed == Some(closed.backend_slot.0));
            let expected = if expired {
                closed.cause()
            } else {
                CloseCause::Drain
            };
            assert_eq!(cause, expected);
            self.forget(&closed);
        }
        if whole {
            let left = |flow: &ModelFlow| self.expired(flow) || doomed == Some(flow.slot);
            assert!(!self.flows.values().any(left));
        }
    }

    fn check(&self) {
        let now = self.time();
        assert_eq!(self.table.len() as usize, self.flows.len());
        let mut replies = HashSet::new();
        let mut ids = HashSet::new();
        let mut used = HashMap::new();
        for (request, flow) in &self.flows {
            let found = (!self.expired(flow)).then_some(flow.id);
            assert_eq!(self.table.request(request, now), found);
            assert_eq!(self.table.reply(&flow.reply, now), found);
            let entry = self.table.entry(flow.id);
            assert_eq!((entry.request_key(), entry.reply_key()), (*request, flow.reply));
            assert_eq!(entry.state(), flow.state);
            assert!(self.ports.contains(&flow.reply.nat_port));
            assert!(replies.insert(flow.reply), "a translated tuple is shared");
            assert!(ids.insert(flow.id), "an entry is shared");
            *used.entry(flow.slot).or_insert(0) += 1;
        }
        for (request, reply) in &self.dead {
            assert!(
                self.flows.contains_key(request)
                    || self
                        .table
                        .find(request.hash(&self.table.seed), *request)
                        .is_none()
            );
            assert!(replies.contains(reply) || self.table.find_reply(reply).is_none());
        }
        for slot in 0..4 {
            let used = used.get(&slot).copied().unwrap_or(0);
            assert_eq!(self.table.ports_used(BackendSlot(slot)), used);
            let queue: Vec<_> = self
                .table
                .finished
                .oldest_first(BackendSlot(slot), &self.table.pool.cold)
                .map(|id| self.table.pool.hot[id as usize].request_key())
                .collect();
            assert_eq!(queue, self.finished.get(&slot).cloned().unwrap_or_default());
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_the_model(
        capacity in 1_u32..40,
        ports in 1_u16..12,
        near_wrap in any::<bool>(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let start = if near_wrap { (1 << 32) - 20_000 } else { 0 };
        let mut model = Model::new(capacity, 1000..=1000 + ports - 1, start);
        for step in &steps {
            model.step(step);
            model.check();
        }
        while let Some((_, flow)) = model.nth(0) {
            let closed = model.table.closed(flow.id);
            model.forget(&closed);
        }
        model.check();
        prop_assert!(is_pristine(&model.table));
    }
}
