//! Selects the services that an update must reconcile.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::merge::{DesiredBackend, DesiredService, ServiceIdentity};
use super::{Inputs, State};
use crate::discovery::Eligibility;

/// A service that may have to change.
#[derive(Debug)]
pub(super) struct DirtyService<'a> {
    pub(super) desired: &'a DesiredService<'a>,
    /// Each once, in order.
    pub(super) backends: Vec<DesiredBackend<'a>>,
    /// Whether no desired backend was left out.
    pub(super) is_complete: bool,
}

impl<'a> DirtyService<'a> {
    fn new(desired: &'a DesiredService<'a>, own: &[IpAddr], problems: &mut Vec<String>) -> Self {
        let before = problems.len();
        let backends = desired.backends(own, problems);
        Self {
            desired,
            backends,
            is_complete: problems.len() == before,
        }
    }
}

impl State {
    /// Services with changed desired state, changed findings of health checks, or an address whose owner changed.
    /// Descriptions of backends that are left out are added to `problems`.
    ///
    /// Cost: O(services), and O(its backends) for each dirty one.
    pub(super) fn dirty<'a>(
        &mut self,
        desired: &'a BTreeMap<ServiceIdentity, DesiredService<'a>>,
        inputs: Inputs<'_>,
        problems: &mut Vec<String>,
    ) -> BTreeMap<ServiceIdentity, DirtyService<'a>> {
        let own = &inputs.network.addresses;
        let own_changed = self.network.as_ref().is_none_or(|last| last.addresses != *own);
        let last = self.findings.replace(Arc::clone(inputs.health));
        let findings_changed = last.is_none_or(|last| !Arc::ptr_eq(&last, inputs.health));
        let mut affected = BTreeSet::new();
        self.address_owners
            .retain(|identity| desired.contains_key(&identity), &mut affected);
        let mut dirty = BTreeMap::new();
        for (&identity, service) in desired {
            if own_changed || !self.is_applied(identity, service, findings_changed) {
                let service = DirtyService::new(service, own, problems);
                self.address_owners
                    .replace(identity, &service.backends, &mut affected);
                dirty.insert(identity, service);
            }
        }
        for identity in affected {
            if let Some(service) = desired.get(&identity) {
                dirty
                    .entry(identity)
                    .or_insert_with(|| DirtyService::new(service, own, problems));
            }
        }
        if self.address_owners.are_contested() {
            for (identity, service) in &mut dirty {
                self.end_replaced(*identity, &mut service.backends);
            }
        }
        dirty
    }

    /// Backends whose address another instance owns are dead.
    fn end_replaced(&self, (protocol, ..): ServiceIdentity, backends: &mut [DesiredBackend<'_>]) {
        for DesiredBackend { spec, eligibility } in backends {
            let socket = (protocol, spec.address, spec.port);
            if self.address_owners.is_replaced(socket, spec.instance.as_ref()) {
                *eligibility = Eligibility::Dead;
            }
        }
    }

    /// Whether a service is desired exactly as it was applied, with the same findings.
    fn is_applied(
        &self,
        identity: ServiceIdentity,
        desired: &DesiredService<'_>,
        findings_changed: bool,
    ) -> bool {
        let slot = self.by_service.get(&identity);
        let record = slot.and_then(|slot| self.services.get(slot.index()));
        record.is_some_and(|record| {
            let attributes = &record.attributes;
            let is_checked = attributes.health_check.is_some() || attributes.rules.passive_check.is_some();
            !(is_checked && findings_changed) && record.applied.iter().eq(desired.specs())
        })
    }
}
