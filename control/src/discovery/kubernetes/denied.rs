//! Pods and endpoints that services must not have, and the report about them.

use std::collections::{BTreeMap, BTreeSet};

use super::admission::{Decision, Refused};
use super::assembly::Assembled;
use super::backends::AssembledService;
use super::quota::Granted;
use super::selection::Owner;
use super::service::Reason;
use crate::config::Service;

/// A pod or endpoint that a service must not have as a backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Denied {
    pub(super) reason: DeniedReason,
    /// The object, its field, its value and what is allowed.
    pub(super) text: String,
}

/// Why a service must not have a pod or endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DeniedReason {
    /// It claims an address that it must not have.
    Address,
    /// The service has no backends in its namespace.
    Namespace,
    /// Its namespace has as many backends as it may have.
    Quota,
}

impl DeniedReason {
    /// One word in CamelCase, as in Kubernetes Events.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Address => "AddressNotAllowed",
            Self::Namespace => "NamespaceNotAllowed",
            Self::Quota => "QuotaExceeded",
        }
    }
}

/// Adds the pods and endpoints that were left out to the report, those of Services to their refusals. Returns the
/// problems of the file's services: not those of foreign namespaces, which may use the same labels for other pods.
pub(super) fn report(
    services: &BTreeMap<Owner, Vec<AssembledService>>,
    granted: &[(&Owner, Granted)],
    file: &[Service],
    decision: &Decision,
    assembled: &mut Assembled,
) -> Vec<String> {
    let mut by_service: BTreeMap<(&Owner, DeniedReason), BTreeSet<&Denied>> = BTreeMap::new();
    for (owner, services) in services {
        for denied in services.iter().flat_map(|service| &service.denied) {
            by_service
                .entry((owner, denied.reason))
                .or_default()
                .insert(denied);
        }
    }
    for &(owner, ref granted) in granted {
        for denied in &granted.denied {
            by_service
                .entry((owner, denied.reason))
                .or_default()
                .insert(denied);
        }
    }
    let mut problems = Vec::new();
    for ((owner, reason), denied) in by_service {
        let Some(first) = denied.first() else { continue };
        let more = match denied.len() - 1 {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let message = format!("{}{more}", first.text);
        let count = denied.len() as u64;
        match owner {
            Owner::Service(key) => {
                // Counted with the refusals of Services, as one.
                *assembled.left_out.entry(reason.word()).or_default() += count - 1;
                let admitted = decision.admitted.get(key);
                let reason = Reason::new(reason.word(), message);
                assembled
                    .refused
                    .extend(admitted.map(|admitted| Refused::new(&admitted.record, reason)));
            }
            Owner::File(position) => {
                *assembled.left_out.entry(reason.word()).or_default() += count;
                let name = file
                    .get(*position)
                    .map_or("", |service| service.unique_name.as_str());
                match reason {
                    DeniedReason::Address => problems.push(format!("service {name}: {message}")),
                    DeniedReason::Quota => problems.push(message),
                    DeniedReason::Namespace => {}
                }
            }
        }
        assembled.denied.extend(denied.into_iter().cloned());
    }
    problems
}
