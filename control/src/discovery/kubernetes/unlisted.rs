//! Collections that the API server refuses to list, and the services that depend on them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::admission::{Decision, Refused};
use super::assembly::Assembled;
use super::backends::AssembledService;
use super::cache::Scope;
use super::selection::Owner;
use super::service::Reason;

/// Collections that the API server refuses to list, so that their objects are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unlisted {
    pub(super) pods: BTreeSet<Scope>,
    pub(super) slices: BTreeSet<Scope>,
}

impl Unlisted {
    /// Leaves out services whose backends are unknown. Served without backends they would reject clients that another
    /// balancer of the group can serve. Returns the problems of the file's services.
    pub(super) fn leave_out(
        &self,
        services: &BTreeMap<Owner, Vec<AssembledService>>,
        decision: &Decision,
        assembled: &mut Assembled,
    ) -> Vec<String> {
        let mut problems = Vec::new();
        // Names are unique among all services.
        let mut unknown: HashSet<&str> = HashSet::new();
        for (owner, services) in services {
            let Some(cause) = self.cause(owner) else {
                continue;
            };
            for AssembledService { spec, .. } in services {
                if !spec.backends.is_empty() {
                    continue;
                }
                let name = &spec.name;
                unknown.insert(name);
                let message = format!("not served: no backend of {name} is known, and {cause}");
                match owner {
                    Owner::File(_) => problems.push(format!("service {name}: {message}")),
                    Owner::Service(key) => {
                        let admitted = decision.admitted.get(key);
                        let reason = Reason::new("BackendsUnknown", message);
                        assembled
                            .refused
                            .extend(admitted.map(|admitted| Refused::new(&admitted.record, reason)));
                    }
                }
            }
        }
        assembled.accepted.retain_mut(|accepted| {
            accepted
                .services
                .retain(|service| !unknown.contains(service.as_str()));
            !accepted.services.is_empty()
        });
        let services = &mut assembled.desired.services;
        services.retain(|service| !unknown.contains(service.name.as_str()));
        problems
    }

    /// Why backends of `owner` may be unknown; `None` if all are known.
    fn cause(&self, owner: &Owner) -> Option<String> {
        let concerns = |scope: &&Scope| match owner {
            Owner::File(_) => true,
            Owner::Service((namespace, _)) => scope.as_ref().is_none_or(|scope| scope == namespace),
        };
        let pods = self.pods.iter().find(concerns).map(|scope| ("pods", scope));
        let slices = || {
            let is_service = matches!(owner, Owner::Service(_));
            let mut slices = self.slices.iter().filter(|_| is_service);
            slices.find(concerns).map(|scope| ("endpointslices", scope))
        };
        let (kind, scope) = pods.or_else(slices)?;
        let scope = scope
            .as_ref()
            .map_or_else(|| "all namespaces".to_owned(), |name| format!("namespace {name}"));
        Some(format!("{kind} in {scope} cannot be listed"))
    }
}
