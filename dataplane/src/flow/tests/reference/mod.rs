//! The model that the table is compared with: maps and lists, and every rule written out.

mod room;

use std::collections::{HashMap, HashSet};

use super::super::reclaim::Class;
use super::model::Step;
use super::*;

/// Ticks of deadlines in a second.
const TICKS: u64 = 100;
/// A port of the slice that is a service's.
const UNUSABLE: u16 = 1001;

#[derive(Debug, Clone, Copy)]
pub(super) struct ModelFlow {
    id: FlowId,
    reply: ReplyKey,
    slot: u32,
    state: State,
    /// In ticks.
    deadline: u64,
    /// The deadline that a UDP flow had when it came to the end of its queue.
    marked: u64,
    created: Timestamp,
}

impl ModelFlow {
    /// Slots 0 and 1 are two services' numbers for one backend.
    fn endpoint(&self) -> u32 {
        self.slot.max(1)
    }

    #[expect(clippy::cast_possible_truncation, reason = "as the table compares")]
    fn is_used(&self) -> bool {
        self.deadline as u16 != self.marked as u16
    }
}

pub(super) struct Model {
    table: FlowTable,
    ports: RangeInclusive<u16>,
    /// In ticks; another one for each step, so that flows differ by when they were opened.
    now: u64,
    flows: HashMap<RequestKey, ModelFlow>,
    /// Flows that may make room, by endpoint and class, in the order in which they entered it.
    queues: HashMap<(u32, usize), Vec<RequestKey>>,
    dead: Vec<(RequestKey, ReplyKey)>,
}

impl Model {
    pub(super) fn new(capacity: u32, ports: RangeInclusive<u16>, start: u64) -> Self {
        Self {
            table: FlowTable::new(capacity, ports.clone(), SEED).unwrap(),
            ports,
            now: start,
            flows: HashMap::new(),
            queues: HashMap::new(),
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
        self.set_class(request, &flow, Class::of(flow.state), None);
        self.dead.push((request, flow.reply));
        request
    }

    fn queue(&self, endpoint: u32, class: Class) -> &[RequestKey] {
        self.queues
            .get(&(endpoint, class as usize))
            .map_or(&[], Vec::as_slice)
    }

    fn set_class(&mut self, request: RequestKey, flow: &ModelFlow, from: Option<Class>, to: Option<Class>) {
        if from == to {
            return;
        }
        if let Some(class) = from {
            let queue = self.queues.get_mut(&(flow.endpoint(), class as usize)).unwrap();
            queue.retain(|other| *other != request);
        }
        if let Some(class) = to {
            let queue = self.queues.entry((flow.endpoint(), class as usize)).or_default();
            queue.push(request);
            if let Some(flow) = self.flows.get_mut(&request) {
                flow.marked = flow.deadline;
            }
        }
    }

    /// Live flows of a client, of one endpoint if there is one.
    fn live(&self, client: Option<[u8; 16]>, endpoint: Option<u32>, except: Option<&RequestKey>) -> u32 {
        let counted = |(key, flow): &(&RequestKey, &ModelFlow)| {
            !flow.state.is_over()
                && client.is_none_or(|client| client == key.client)
                && endpoint.is_none_or(|endpoint| endpoint == flow.endpoint())
                && except != Some(*key)
        };
        u32::try_from(self.flows.iter().filter(counted).count()).unwrap()
    }

    fn is_usable(&self, key: &RequestKey) -> bool {
        Self::usable(self.flows[key].reply.nat_port)
    }

    pub(super) fn step(&mut self, step: &Step) {
        self.now += 1;
        match *step {
            Step::Open {
                request,
                slot,
                state,
                timeout,
                random,
                limit,
            } => self.open(request, slot, State::ALL[state], timeout, random, limit),
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

    /// Closes all flows.
    pub(super) fn close_all(&mut self) {
        while let Some((_, flow)) = self.nth(0) {
            let closed = self.table.closed(flow.id);
            self.forget(&closed);
        }
    }

    /// Whether the table is as a new one.
    pub(super) fn is_pristine(&self) -> bool {
        is_pristine(&self.table)
    }

    fn nth(&self, nth: usize) -> Option<(RequestKey, ModelFlow)> {
        let mut flows: Vec<_> = self.flows.iter().map(|(key, flow)| (*key, *flow)).collect();
        flows.sort_by_key(|(_, flow)| flow.created);
        (!flows.is_empty()).then(|| flows[nth % flows.len()])
    }

    fn open(&mut self, request: u8, slot: u32, state: State, timeout: u64, random: u64, limit: u32) {
        // Slots 0 and 1 are two services' numbers for one backend.
        let new = NewFlow {
            client: new_flow(u32::from(request / 4), 0).client,
            client_port: 40_000 + u16::from(request % 4 / 2),
            service_port: 80 + u16::from(request % 2),
            backend: new_flow(0, slot.max(1)).backend,
            timeout: Duration::from_secs(timeout),
            state,
            client_flows: limit,
            ..new_flow(0, slot)
        };
        let endpoint = slot.max(1);
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
        let inherited = self
            .flows
            .get(&key)
            .map(|old| (old.endpoint(), old.reply.nat_port));
        let inherited = inherited.filter(|&(of, port)| of == endpoint && Self::usable(port));
        let previous = self.flows.contains_key(&key);
        let is_full = self.flows.len() == self.table.capacity() as usize;

        let mut reclaimed = None;
        let mut allowed = free;
        let mut expected = Ok(());
        let port_of =
            |model: &Self, request: &RequestKey| HashSet::from([model.flows[request].reply.nat_port]);
        if let Some((_, port)) = inherited {
            allowed = HashSet::from([port]);
        }
        if let Some(error) = self.share_used(&key, endpoint, limit) {
            match self.own_flow(&key, endpoint) {
                Some(own) => {
                    reclaimed = Some(own);
                    if allowed.is_empty() {
                        allowed = port_of(self, &own);
                    }
                }
                None => expected = Err(error),
            }
        } else if allowed.is_empty() {
            reclaimed = self.reclaimable(endpoint).or_else(|| self.evictable(endpoint));
            match &reclaimed {
                Some(request) => allowed = port_of(self, request),
                None => expected = Err(OpenError::PortsExhausted),
            }
        }
        let mut evicts = false;
        let mut class = None;
        if expected.is_ok() && is_full && !previous && reclaimed.is_none() {
            let classes = self.flows.values().filter_map(|flow| Class::of(flow.state));
            class = classes.min_by_key(|class| *class as usize);
            evicts = class.is_none();
            if evicts && !self.flows.values().any(|flow| self.expired(flow)) {
                expected = Err(OpenError::TableFull);
            }
        }

        // As if it had been chosen before; it may be no usable one.
        let wanted = self
            .table
            .free_port(new.backend_slot, &new.endpoint(), random.rotate_left(32));
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
        if let Some(class) = class {
            // Of any endpoint; which one, other tests say.
            let closed = opened.reclaimed.expect("a flow of the first class that has any");
            assert_eq!(Class::of(closed.state), Some(class));
            self.forget(&closed);
        } else {
            assert_eq!(opened.reclaimed.map(|closed| self.forget(&closed)), reclaimed);
        }
        let nat_port = self.table.entry(opened.id).nat_port;
        assert!(allowed.contains(&nat_port), "port {nat_port} of {allowed:?}");
        let flow = ModelFlow {
            id: opened.id,
            reply: reply(nat_port),
            slot,
            state,
            deadline: self.now + timeout * TICKS,
            marked: 0,
            created: self.time(),
        };
        self.flows.insert(key, flow);
        self.set_class(key, &flow, None, Class::of(state));
        if class.is_some() {
            self.follow_second_chances();
        }
    }

    /// Takes over the order of UDP flows after a search in all queues.
    fn follow_second_chances(&mut self) {
        for slot in 1..4 {
            for key in self.table_queue(slot, Class::Replied) {
                let flow = self.flows[&key];
                let marked = self.table.entry(flow.id).mss;
                self.set_class(key, &flow, Some(Class::Replied), None);
                self.set_class(key, &flow, None, Some(Class::Replied));
                self.flows.get_mut(&key).unwrap().marked = marked.into();
            }
        }
    }

    fn table_queue(&self, slot: u32, class: Class) -> Vec<RequestKey> {
        let endpoint = new_flow(0, slot).endpoint();
        let slots = [slot, if slot == 1 { 0 } else { slot }];
        let known = |slot| self.table.endpoints.known(BackendSlot(slot), &endpoint);
        let Some(endpoint) = slots.into_iter().find_map(known) else {
            return Vec::new();
        };
        self.table
            .queues
            .oldest_first(endpoint, class, &self.table.pool.cold)
            .map(|id| self.table.pool.hot[id as usize].request_key())
            .collect()
    }

    fn touch(&mut self, nth: usize, state: State, timeout: u64) {
        let Some((request, flow)) = self.nth(nth) else {
            return;
        };
        let now = self.time();
        self.table
            .touch(flow.id, state, now, Duration::from_secs(timeout));
        let deadline = self.now + timeout * TICKS;
        let before = flow.state;
        let flow = self.flows.get_mut(&request).unwrap();
        let at_its_end = matches!(
            state,
            State::ClosingByClient | State::ClosingByBackend | State::Finished | State::Reset
        );
        if flow.state != state || !at_its_end {
            flow.deadline = deadline;
        }
        flow.state = state;
        let flow = *flow;
        self.set_class(request, &flow, Class::of(before), Class::of(state));
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

    pub(super) fn check(&self) {
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
            assert_eq!(
                (entry.request_key(), self.table.reply_key(entry)),
                (*request, flow.reply)
            );
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
            assert!(
                replies.contains(reply) || self.table.find(reply.hash(&self.table.seed), *reply).is_none()
            );
        }
        for slot in 0..4 {
            let used = used.get(&slot).copied().unwrap_or(0);
            assert_eq!(self.table.ports_used(BackendSlot(slot)), used);
        }
        for slot in 1..4 {
            for class in Class::ALL {
                assert_eq!(
                    self.table_queue(slot, class),
                    self.queue(slot, class),
                    "{class:?}"
                );
            }
        }
    }
}
