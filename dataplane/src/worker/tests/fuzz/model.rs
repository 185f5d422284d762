//! The reference: a plain, slow NAT that knows which translations are right.
//!
//! It does not decide who is admitted. It notes what the balancer chose, and holds it to that: a flow keeps its
//! backend and NAT port, two flows never have the same ones at once, and a reply comes to the flow's client.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use vl3lb_common::{Duration, Protocol, Timestamp};

use super::datagrams::Datagrams;

/// Shorter than the timeouts of opening TCP flows (240 s) and of UDP flows (300 s).
const LIFETIME: Duration = Duration::from_secs(230);

/// What a client sees of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    pub(super) protocol: Protocol,
    pub(super) client: SocketAddr,
    pub(super) service: SocketAddr,
}

/// What a backend sees of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mapping {
    pub(super) protocol: Protocol,
    /// Own address and NAT port.
    pub(super) outside: SocketAddr,
    pub(super) backend: SocketAddr,
}

/// Who had a mapping last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Flow(Flow),
    /// Made by a packet of this host that cannot be decoded.
    Unknown(IpAddr),
}

#[derive(Debug, Clone, Copy)]
struct State {
    mapping: Mapping,
    used: Timestamp,
    /// Nothing has happened that could have ended the flow.
    is_sure: bool,
}

#[derive(Debug, Default)]
pub(super) struct Nat {
    flows: HashMap<Flow, State>,
    owners: HashMap<Mapping, Owner>,
    pub(super) datagrams: Datagrams,
    /// Flows lose their places to others, so that none is sure.
    pub(super) is_crowded: bool,
}

impl Nat {
    pub(super) fn new(is_crowded: bool) -> Self {
        Self {
            is_crowded,
            ..Self::default()
        }
    }

    /// The mapping of a flow that must be there.
    pub(super) fn sure(&self, flow: &Flow, now: Timestamp) -> Option<Mapping> {
        let state = self.flows.get(flow)?;
        let is_live = state.is_sure && now.since(state.used) < LIFETIME;
        is_live.then_some(state.mapping)
    }

    /// The mapping that a flow had last.
    pub(super) fn mapping(&self, flow: &Flow) -> Option<Mapping> {
        Some(self.flows.get(flow)?.mapping)
    }

    /// A request of `flow` was translated; `opens`: such a packet may open a flow.
    pub(super) fn requested(&mut self, flow: Flow, mapping: Mapping, opens: bool, now: Timestamp) {
        if let Some(known) = self.sure(&flow, now) {
            assert_eq!(mapping, known, "{flow:?} moved");
        }
        let owner = self.owners.get(&mapping).copied();
        match owner {
            Some(Owner::Flow(other)) if other != flow => {
                assert!(opens, "{flow:?} has {mapping:?} of {other:?}");
                assert_ne!(
                    self.sure(&other, now),
                    Some(mapping),
                    "{flow:?} and {other:?} share it"
                );
            }
            None => assert!(opens, "{flow:?} has {mapping:?} and was never opened"),
            _ => {}
        }
        // A segment in a flow that may have ended does not show that it goes on.
        let was_sure = self
            .flows
            .get(&flow)
            .is_none_or(|state| state.is_sure || state.mapping != mapping);
        let is_sure = !self.is_crowded && (flow.protocol == Protocol::Udp || was_sure);
        self.owners.insert(mapping, Owner::Flow(flow));
        let used = now;
        self.flows.insert(
            flow,
            State {
                mapping,
                used,
                is_sure,
            },
        );
    }

    /// A packet of `client` that cannot be decoded got this mapping.
    pub(super) fn requested_by_unknown(&mut self, mapping: Mapping, client: IpAddr) {
        if let Some(Owner::Flow(flow)) = self.owners.insert(mapping, Owner::Unknown(client)) {
            self.doubt(&flow);
        }
    }

    /// A reply to `mapping` was translated to one that `flow` sees.
    pub(super) fn replied(&self, mapping: &Mapping, flow: &Flow) {
        match self.owners.get(mapping) {
            Some(Owner::Flow(owner)) => {
                assert_eq!(owner, flow, "a reply to {mapping:?} came to another flow")
            }
            Some(Owner::Unknown(client)) => {
                assert_eq!(
                    *client,
                    flow.client.ip(),
                    "a reply to {mapping:?} came to another host"
                )
            }
            None => panic!("a reply to {mapping:?}, which was never opened, came to {flow:?}"),
        }
    }

    /// The flow that a mapping belongs to.
    pub(super) fn owner(&self, mapping: &Mapping) -> Option<Flow> {
        match self.owners.get(mapping)? {
            Owner::Flow(flow) => Some(*flow),
            Owner::Unknown(_) => None,
        }
    }

    /// The flow may have ended.
    pub(super) fn doubt(&mut self, flow: &Flow) {
        if let Some(state) = self.flows.get_mut(flow) {
            state.is_sure = false;
        }
    }

    /// Any flow may have ended.
    pub(super) fn doubt_all(&mut self) {
        for state in self.flows.values_mut() {
            state.is_sure = false;
        }
    }

    /// Whether the mapping was ever used.
    pub(super) fn has(&self, mapping: &Mapping) -> bool {
        self.owners.contains_key(mapping)
    }

    /// Whether the flow was ever translated.
    pub(super) fn knows(&self, flow: &Flow) -> bool {
        self.flows.contains_key(flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn flow(protocol: Protocol, port: u16) -> Flow {
        Flow {
            protocol,
            client: ([172, 16, 1, 100], port).into(),
            service: ([172, 16, 1, 67], 8080).into(),
        }
    }

    fn mapping(protocol: Protocol, nat_port: u16) -> Mapping {
        Mapping {
            protocol,
            outside: ([172, 16, 1, 67], nat_port).into(),
            backend: ([172, 16, 1, 2], 8081).into(),
        }
    }

    /// One UDP flow and its mapping.
    fn nat() -> Nat {
        let mut nat = Nat::new(false);
        nat.requested(flow(Protocol::Udp, 1), mapping(Protocol::Udp, 1), true, NOW);
        nat
    }

    #[test]
    fn a_flow_that_goes_on_is_right() {
        let mut nat = nat();
        let (flow, mapping) = (flow(Protocol::Udp, 1), mapping(Protocol::Udp, 1));
        nat.requested(flow, mapping, true, NOW);
        nat.replied(&mapping, &flow);
        assert_eq!(nat.sure(&flow, NOW), Some(mapping));
        assert_eq!(nat.sure(&flow, NOW + LIFETIME), None);
    }

    #[test]
    #[should_panic(expected = "moved")]
    fn a_flow_that_moves_is_noticed() {
        nat().requested(flow(Protocol::Udp, 1), mapping(Protocol::Udp, 2), true, NOW);
    }

    #[test]
    #[should_panic(expected = "share it")]
    fn two_flows_with_one_mapping_are_noticed() {
        nat().requested(flow(Protocol::Udp, 2), mapping(Protocol::Udp, 1), true, NOW);
    }

    #[test]
    #[should_panic(expected = "came to another flow")]
    fn a_reply_to_another_client_is_noticed() {
        nat().replied(&mapping(Protocol::Udp, 1), &flow(Protocol::Udp, 2));
    }

    #[test]
    #[should_panic(expected = "came to another host")]
    fn a_reply_to_another_host_than_the_unknown_one_is_noticed() {
        let mut nat = nat();
        let mapping = mapping(Protocol::Udp, 1);
        nat.requested_by_unknown(mapping, [172, 16, 1, 101].into());
        nat.replied(&mapping, &flow(Protocol::Udp, 1));
    }

    #[test]
    #[should_panic(expected = "was never opened")]
    fn a_segment_without_a_flow_is_noticed() {
        nat().requested(flow(Protocol::Tcp, 1), mapping(Protocol::Tcp, 1), false, NOW);
    }
}
