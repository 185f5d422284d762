//! Who wants which address and port, of all services: an address has one instance at a time, and another
//! one's flows end wherever they are.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use vl3lb_common::Protocol;

use super::wanted::{BackendIdentity, ServiceIdentity, WantedBackend};
use crate::discovery::Eligibility;

type Socket = (Protocol, IpAddr, u16);

/// What services claim. Follows them one by one, so that what did not change costs nothing.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// In order.
    services: HashMap<ServiceIdentity, Vec<(BackendIdentity, Eligibility)>>,
    sockets: HashMap<Socket, Vec<Claim>>,
    /// Sockets that more than one backend claims.
    contested: usize,
}

#[derive(Debug)]
struct Claim {
    service: ServiceIdentity,
    instance: Option<Arc<str>>,
    eligibility: Eligibility,
}

impl Claims {
    /// `service` wants these backends, which are in order, and no others. Puts services into `affected` that
    /// want one of the addresses that changed hands, perhaps.
    ///
    /// Cost: O(backends of the service), and hashing of those that are new, gone or take something else.
    pub(super) fn follow(
        &mut self,
        service: ServiceIdentity,
        wanted: &[WantedBackend<'_>],
        affected: &mut BTreeSet<ServiceIdentity>,
    ) {
        let mut before = std::mem::take(self.services.entry(service).or_default())
            .into_iter()
            .peekable();
        let mut after = Vec::with_capacity(wanted.len());
        for backend in wanted {
            let spec = backend.spec;
            while let Some((gone, _)) = before.next_if(|(known, _)| known.order(spec) == Ordering::Less) {
                self.withdraw(service, &gone, affected);
            }
            let known = before.next_if(|(known, _)| known.order(spec) == Ordering::Equal);
            let identity = known
                .as_ref()
                .map_or_else(|| spec.into(), |(identity, _)| identity.clone());
            if known.is_none_or(|(_, eligibility)| eligibility != spec.eligibility) {
                self.withdraw(service, &identity, affected);
                self.claim(service, &identity, spec.eligibility, affected);
            }
            after.push((identity, spec.eligibility));
        }
        for (gone, _) in before {
            self.withdraw(service, &gone, affected);
        }
        self.services.insert(service, after);
    }

    /// Services for which `wanted` says no want nothing any more.
    pub(super) fn retain(
        &mut self,
        wanted: impl Fn(ServiceIdentity) -> bool,
        affected: &mut BTreeSet<ServiceIdentity>,
    ) {
        let services = self.services.keys().copied();
        let gone: Vec<_> = services.filter(|service| !wanted(*service)).collect();
        for service in gone {
            self.follow(service, &[], affected);
            self.services.remove(&service);
        }
    }

    /// Whether any address is claimed more than once.
    pub(super) const fn are_contested(&self) -> bool {
        self.contested > 0
    }

    /// Whether another instance has the address and port of `instance` now: of several the one that takes
    /// most.
    pub(super) fn is_replaced(&self, socket: Socket, instance: Option<&Arc<str>>) -> bool {
        let claims = self.sockets.get(&socket).into_iter().flatten();
        let holder = claims.max_by(|a, b| (a.eligibility, &a.instance).cmp(&(b.eligibility, &b.instance)));
        holder.is_some_and(|holder| holder.instance.as_ref() != instance)
    }

    fn claim(
        &mut self,
        service: ServiceIdentity,
        backend: &BackendIdentity,
        eligibility: Eligibility,
        affected: &mut BTreeSet<ServiceIdentity>,
    ) {
        let claims = self.sockets.entry(socket(service, backend)).or_default();
        affected.extend(claims.iter().map(|claim| claim.service));
        claims.push(Claim {
            service,
            instance: backend.instance.clone(),
            eligibility,
        });
        self.contested += usize::from(claims.len() == 2);
    }

    fn withdraw(
        &mut self,
        service: ServiceIdentity,
        backend: &BackendIdentity,
        affected: &mut BTreeSet<ServiceIdentity>,
    ) {
        let socket = socket(service, backend);
        let Some(claims) = self.sockets.get_mut(&socket) else {
            return;
        };
        let own = |claim: &Claim| claim.service == service && claim.instance == backend.instance;
        let Some(index) = claims.iter().position(own) else {
            return;
        };
        claims.swap_remove(index);
        affected.extend(claims.iter().map(|claim| claim.service));
        match claims.len() {
            0 => {
                self.sockets.remove(&socket);
            }
            1 => self.contested -= 1,
            _ => {}
        }
    }
}

fn socket((protocol, _): ServiceIdentity, backend: &BackendIdentity) -> Socket {
    (protocol, backend.address, backend.port)
}
