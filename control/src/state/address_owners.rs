//! The owner of each backend address and port, over all services. An address has one instance at a time; the
//! flows of any other instance at it end, in all services.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use vl3lb_common::Protocol;

use super::merge::{BackendIdentity, DesiredBackend, ServiceIdentity};
use crate::discovery::Eligibility;

type Socket = (Protocol, IpAddr, u16);

/// The backends that services desire, by address and port. Updated service by service, so that an unchanged
/// one costs nothing.
#[derive(Debug, Default)]
pub(super) struct AddressOwners {
    /// In order.
    services: HashMap<ServiceIdentity, Vec<(BackendIdentity, Eligibility)>>,
    sockets: HashMap<Socket, Vec<Candidate>>,
    /// Sockets with more than one candidate.
    contested: usize,
}

#[derive(Debug)]
struct Candidate {
    service: ServiceIdentity,
    instance: Option<Arc<str>>,
    eligibility: Eligibility,
}

impl AddressOwners {
    /// Replaces the backends of `service` by `desired`, which is in order. Other services that have a backend
    /// at one of the addresses that changed are put into `affected`.
    ///
    /// Cost: O(backends of the service), and hashing of those that are new, gone or of another eligibility.
    pub(super) fn replace(
        &mut self,
        service: ServiceIdentity,
        desired: &[DesiredBackend<'_>],
        affected: &mut BTreeSet<ServiceIdentity>,
    ) {
        let mut before = std::mem::take(self.services.entry(service).or_default())
            .into_iter()
            .peekable();
        let mut after = Vec::with_capacity(desired.len());
        for backend in desired {
            let spec = backend.spec;
            while let Some((gone, _)) = before.next_if(|(known, _)| known.order(spec) == Ordering::Less) {
                self.remove(service, &gone, affected);
            }
            let known = before.next_if(|(known, _)| known.order(spec) == Ordering::Equal);
            let identity = known
                .as_ref()
                .map_or_else(|| spec.into(), |(identity, _)| identity.clone());
            if known.is_none_or(|(_, eligibility)| eligibility != spec.eligibility) {
                self.remove(service, &identity, affected);
                self.add(service, &identity, spec.eligibility, affected);
            }
            after.push((identity, spec.eligibility));
        }
        for (gone, _) in before {
            self.remove(service, &gone, affected);
        }
        self.services.insert(service, after);
    }

    /// Removes the services that are not `desired`.
    pub(super) fn retain(
        &mut self,
        is_desired: impl Fn(ServiceIdentity) -> bool,
        affected: &mut BTreeSet<ServiceIdentity>,
    ) {
        let services = self.services.keys().copied();
        let gone: Vec<_> = services.filter(|service| !is_desired(*service)).collect();
        for service in gone {
            self.replace(service, &[], affected);
            self.services.remove(&service);
        }
    }

    /// Whether any address has more than one candidate.
    pub(super) const fn are_contested(&self) -> bool {
        self.contested > 0
    }

    /// Whether another instance owns the address and port of `instance`. The known candidate with the highest
    /// eligibility is the owner. An unknown instance may be any of them, so it neither is replaced nor replaces.
    pub(super) fn is_replaced(&self, socket: Socket, instance: Option<&Arc<str>>) -> bool {
        let Some(instance) = instance else {
            return false;
        };
        let candidates = self.sockets.get(&socket).into_iter().flatten();
        let known =
            candidates.filter_map(|candidate| Some((candidate.eligibility, candidate.instance.as_ref()?)));
        known.max().is_some_and(|(_, owner)| owner != instance)
    }

    fn add(
        &mut self,
        service: ServiceIdentity,
        backend: &BackendIdentity,
        eligibility: Eligibility,
        affected: &mut BTreeSet<ServiceIdentity>,
    ) {
        let candidates = self.sockets.entry(socket(service, backend)).or_default();
        affected.extend(candidates.iter().map(|candidate| candidate.service));
        candidates.push(Candidate {
            service,
            instance: backend.instance.clone(),
            eligibility,
        });
        self.contested += usize::from(candidates.len() == 2);
    }

    fn remove(
        &mut self,
        service: ServiceIdentity,
        backend: &BackendIdentity,
        affected: &mut BTreeSet<ServiceIdentity>,
    ) {
        let socket = socket(service, backend);
        let Some(candidates) = self.sockets.get_mut(&socket) else {
            return;
        };
        let own =
            |candidate: &Candidate| candidate.service == service && candidate.instance == backend.instance;
        let Some(index) = candidates.iter().position(own) else {
            return;
        };
        candidates.swap_remove(index);
        affected.extend(candidates.iter().map(|candidate| candidate.service));
        match candidates.len() {
            0 => {
                self.sockets.remove(&socket);
            }
            1 => self.contested -= 1,
            _ => {}
        }
    }
}

fn socket((protocol, ..): ServiceIdentity, backend: &BackendIdentity) -> Socket {
    (protocol, backend.address, backend.port)
}
