//! The services that may have to change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::State;
use super::wanted::{ServiceIdentity, Wanted, WantedBackend};
use crate::discovery::Eligibility;

/// A service that is to be looked at.
#[derive(Debug)]
pub(super) struct Unsettled<'a> {
    pub(super) wanted: &'a Wanted<'a>,
    /// Each once, in order.
    pub(super) backends: Vec<WantedBackend<'a>>,
    /// Whether nothing that is wanted was left out.
    pub(super) is_whole: bool,
}

impl<'a> Unsettled<'a> {
    fn new(wanted: &'a Wanted<'a>, own: &[IpAddr], problems: &mut Vec<String>) -> Self {
        let told = problems.len();
        let backends = wanted.backends(own, problems);
        Self {
            wanted,
            backends,
            is_whole: problems.len() == told,
        }
    }
}

impl State {
    /// Services that are not wanted as they were, whose findings may be others, or with an address that changed
    /// hands. `own` are the balancer's addresses; what is left out goes into `problems`.
    ///
    /// Cost: O(services), and O(its backends) for each that is found.
    pub(super) fn unsettled<'a>(
        &mut self,
        wanted: &'a BTreeMap<ServiceIdentity, Wanted<'a>>,
        own: &[IpAddr],
        problems: &mut Vec<String>,
    ) -> BTreeMap<ServiceIdentity, Unsettled<'a>> {
        let has_moved = self.network.as_ref().is_none_or(|last| last.addresses != own);
        let mut affected = BTreeSet::new();
        self.claims
            .retain(|identity| wanted.contains_key(&identity), &mut affected);
        let mut unsettled = BTreeMap::new();
        for (&identity, service) in wanted {
            if has_moved || !self.is_settled(identity, service) {
                let service = Unsettled::new(service, own, problems);
                self.claims.follow(identity, &service.backends, &mut affected);
                unsettled.insert(identity, service);
            }
        }
        for identity in affected {
            if let Some(service) = wanted.get(&identity) {
                unsettled
                    .entry(identity)
                    .or_insert_with(|| Unsettled::new(service, own, problems));
            }
        }
        if self.claims.are_contested() {
            for (identity, service) in &mut unsettled {
                self.give_up_replaced(*identity, &mut service.backends);
            }
        }
        unsettled
    }

    /// Nothing is left for backends whose address another instance has.
    fn give_up_replaced(&self, (protocol, _): ServiceIdentity, backends: &mut [WantedBackend<'_>]) {
        for WantedBackend { spec, eligibility } in backends {
            let socket = (protocol, spec.address, spec.port);
            if self.claims.is_replaced(socket, spec.instance.as_ref()) {
                *eligibility = Eligibility::Dead;
            }
        }
    }

    /// Whether a service is wanted as it was when all that was wanted for it was done.
    fn is_settled(&self, identity: ServiceIdentity, wanted: &Wanted<'_>) -> bool {
        let slot = self.by_service.get(&identity);
        let record = slot.and_then(|slot| self.services.get(slot.index()));
        // What checks find out changes without the service.
        record.is_some_and(|record| {
            record.attributes.health_check.is_none() && record.settled.iter().eq(wanted.specs())
        })
    }
}
