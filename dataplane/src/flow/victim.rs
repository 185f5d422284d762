//! Which live flow makes room when NAT ports or entries have run out.
//!
//! The oldest half-open TCP flow goes first, then the oldest UDP flow without a reply, then the UDP flow that was not
//! used for longest. Among the first few of these, the client with the most flows loses one. So neither a trickle of SYNs
//! or datagrams that lead nowhere, nor one client with a port for each query, keeps others out; and a flood with forged
//! sources pushes out its own flows, as the others do not stay in these classes for long.
//!
//! The backend of a half-open flow that it has answered is reset ([`super::orphan`]), since it may get a SYN from the same port
//! at once.
//!
//! The last class is not kept in the order of use, since a packet would have to move its flow. A flow whose turn comes
//! and that was used since gets a second chance at the end of the queue.

use std::cmp::Reverse;

use vl3lb_common::Timestamp;

use super::clients::Scope;
use super::endpoint::EndpointId;
use super::reclaim::Class;
use super::table::{FlowId, FlowTable};

/// Flows whose clients are compared.
const CANDIDATES: usize = 8;
/// Flows that get a second chance in one search.
const SECOND_CHANCES: usize = 16;
/// Flows among which a client's own one is looked for.
const OWN_SCAN: usize = 64;

impl FlowTable {
    /// A live flow to the endpoint that makes room, with a usable port. At most [`SECOND_CHANCES`] flows move, and
    /// [`CANDIDATES`] of each class are compared.
    pub(super) fn evictable(&mut self, endpoint: EndpointId, usable: impl Fn(u16) -> bool) -> Option<FlowId> {
        let scope = Scope::Endpoint(endpoint);
        Class::LIVE.into_iter().find_map(|class| {
            self.give_second_chances(endpoint, class, SECOND_CHANCES);
            let is_usable = |id| usable(self.entry(id).nat_port);
            self.heaviest(endpoint, class, scope, CANDIDATES, is_usable)
        })
    }

    /// The half-open flow to the endpoint that makes room, among those that suit.
    pub(super) fn oldest_half_open(
        &self,
        endpoint: EndpointId,
        suits: impl Fn(FlowId) -> bool,
    ) -> Option<FlowId> {
        let scope = Scope::Endpoint(endpoint);
        self.heaviest(endpoint, Class::HalfOpen, scope, CANDIDATES, suits)
    }

    /// A flow to any endpoint that makes room in a full table, flows that are over first. With more than [`CANDIDATES`]
    /// endpoints, one search looks at as many, and the next one goes on behind these.
    pub(super) fn evictable_anywhere(&mut self, now: Timestamp) -> Option<FlowId> {
        Class::ALL
            .into_iter()
            .find_map(|class| self.evictable_of(class, now))
    }

    fn evictable_of(&mut self, class: Class, now: Timestamp) -> Option<FlowId> {
        let mut found = [EndpointId(0); CANDIDATES];
        let mut count = 0;
        let mut from = self.reclaim_from;
        while count < CANDIDATES
            && let Some(endpoint) = self.queues.next_endpoint(class, from)
            && !found[..count].contains(&endpoint)
        {
            found[count] = endpoint;
            count += 1;
            from = endpoint.0 + 1;
        }
        self.reclaim_from = from;
        let each = CANDIDATES.checked_div(count)?;
        let mut best: Option<(Reverse<u32>, u128, FlowId)> = None;
        for &endpoint in &found[..count] {
            self.give_second_chances(endpoint, class, SECOND_CHANCES / count);
            let Some(id) = self.heaviest(endpoint, class, Scope::Table, each, |_| true) else {
                continue;
            };
            let weight = match class {
                Class::Over => 0,
                _ => self.weight(id, Scope::Table),
            };
            let candidate = (Reverse(weight), self.age_rank(id, class, now), id);
            if best.is_none_or(|(weight, age, _)| (candidate.0, candidate.1) < (weight, age)) {
                best = Some(candidate);
            }
        }
        best.map(|(.., id)| id)
    }

    /// A live flow of this client to the endpoint that may make room, with a usable port, but not `except`.
    pub(super) fn own_flow(
        &self,
        endpoint: EndpointId,
        client: &[u8; 16],
        except: Option<FlowId>,
        usable: impl Fn(u16) -> bool,
    ) -> Option<FlowId> {
        Class::LIVE.into_iter().find_map(|class| {
            self.queues
                .oldest_first(endpoint, class, &self.pool.cold)
                .take(OWN_SCAN)
                .map(FlowId)
                .find(|&id| {
                    let entry = self.entry(id);
                    Some(id) != except && entry.client == *client && usable(entry.nat_port)
                })
        })
    }

    /// The flow of the heaviest client among the first `candidates`; the first of these.
    fn heaviest(
        &self,
        endpoint: EndpointId,
        class: Class,
        scope: Scope,
        candidates: usize,
        suits: impl Fn(FlowId) -> bool,
    ) -> Option<FlowId> {
        let mut flows = self
            .queues
            .oldest_first(endpoint, class, &self.pool.cold)
            .take(candidates)
            .map(FlowId)
            .filter(|&id| suits(id));
        match class {
            Class::Over => flows.next(),
            Class::HalfOpen | Class::Unreplied => flows.min_by_key(|&id| Reverse(self.weight(id, scope))),
            Class::Replied => flows.min_by_key(|&id| {
                let used = self.entry(id).is_used_since_mark();
                (used, Reverse(self.weight(id, scope)))
            }),
        }
    }

    /// Moves flows that were used since their turn came last from the front of a queue to its end.
    fn give_second_chances(&mut self, endpoint: EndpointId, class: Class, most: usize) {
        if class != Class::Replied {
            return;
        }
        for _ in 0..most {
            let oldest = self
                .queues
                .oldest_first(endpoint, class, &self.pool.cold)
                .next()
                .filter(|&id| self.pool.hot[id as usize].is_used_since_mark());
            let Some(id) = oldest else { return };
            self.queues.remove(endpoint, class, id, &mut self.pool);
            self.enqueue(id, endpoint, class);
        }
    }

    /// Flows of the flow's client.
    fn weight(&self, id: FlowId, scope: Scope) -> u32 {
        self.clients.flows(&self.entry(id).client, scope, &self.seed)
    }

    /// Orders flows of one class and several queues as they would be in one: the lowest is the first to go.
    fn age_rank(&self, id: FlowId, class: Class, now: Timestamp) -> u128 {
        match class {
            Class::HalfOpen | Class::Unreplied => self.counters(id).created().0.into(),
            Class::Over | Class::Replied => self.entry(id).expires_in(now).as_millis(),
        }
    }
}
