//! Which flow of the model makes room for another one, and which client has its share.

use super::*;

impl Model {
    /// The flow to the endpoint that makes room first.
    pub(super) fn reclaimable(&self, endpoint: u32) -> Option<RequestKey> {
        let is_old = |key: &&RequestKey| {
            let age = self.time().since(self.flows[*key].created);
            age >= Duration::from_secs(2) && self.is_usable(key)
        };
        let over = self.queue(endpoint, Class::Over);
        let weight = |key: &&RequestKey| self.live(Some(key.client), Some(endpoint), None);
        let half_open = self
            .queue(endpoint, Class::HalfOpen)
            .iter()
            .take(8)
            .filter(is_old);
        let is_young = |key: &&RequestKey| {
            let age = self.time().since(self.flows[*key].created);
            age < Duration::from_secs(2) && self.is_usable(key)
        };
        // The fourth young one ends the search.
        let until = over.iter().enumerate().filter(|(_, key)| is_young(key)).nth(3);
        over.iter()
            .take(until.map_or(32, |(nth, _)| nth.min(32)))
            .find(is_old)
            .or_else(|| half_open.min_by_key(|key| std::cmp::Reverse(weight(key))))
            .or_else(|| over.iter().find(|key| self.is_usable(key)))
            .copied()
    }

    /// The live flow to the endpoint that makes room. UDP flows that were used lately change their place.
    pub(super) fn evictable(&mut self, endpoint: u32) -> Option<RequestKey> {
        for class in Class::LIVE {
            if class == Class::Replied {
                for _ in 0..16 {
                    let first = self.queue(endpoint, class).first().copied();
                    let Some(first) = first.filter(|first| self.flows[first].is_used()) else {
                        break;
                    };
                    let flow = self.flows[&first];
                    self.set_class(first, &flow, Some(class), None);
                    self.set_class(first, &flow, None, Some(class));
                }
            }
            let rank = |key: &&RequestKey| {
                let weight = self.live(Some(key.client), Some(endpoint), None);
                let is_used = class == Class::Replied && self.flows[*key].is_used();
                (is_used, std::cmp::Reverse(weight))
            };
            let candidates = self.queue(endpoint, class).iter().take(8);
            let found = candidates.filter(|key| self.is_usable(key)).min_by_key(rank);
            if let Some(found) = found {
                return Some(*found);
            }
        }
        None
    }

    /// Whether the client has its share, and why it gets no more then.
    pub(super) fn share_used(&self, key: &RequestKey, endpoint: u32, limit: u32) -> Option<OpenError> {
        let client = Some(key.client);
        let refused = |is_left| {
            move |all_used| {
                if is_left { OpenError::ClientLimit } else { all_used }
            }
        };
        if self.live(client, None, Some(key)) >= limit {
            return Some(OpenError::ClientLimit);
        }
        let ports = u32::try_from(self.ports.len()).unwrap();
        let used = self.live(None, Some(endpoint), Some(key));
        if used >= ports && self.live(client, Some(endpoint), None) > ports / 2 {
            return Some(refused(used < ports)(OpenError::PortsExhausted));
        }
        let capacity = self.table.capacity();
        let used = self.live(None, None, Some(key));
        (used >= capacity && self.live(client, None, None) > capacity / 2)
            .then(|| refused(used < capacity)(OpenError::TableFull))
    }

    /// A live flow of the client that makes room for another one of it.
    pub(super) fn own_flow(&self, key: &RequestKey, endpoint: u32) -> Option<RequestKey> {
        let suits =
            |other: &&RequestKey| *other != key && other.client == key.client && self.is_usable(other);
        let mut flows = Class::LIVE
            .into_iter()
            .flat_map(|class| self.queue(endpoint, class));
        flows.find(suits).copied()
    }
}
