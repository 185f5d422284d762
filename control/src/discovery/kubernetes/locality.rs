//! Prefers near backends for new flows while any of them is eligible. If none is ready at all, terminating backends that
//! still serve get new flows, as with kube-proxy (KEP-1669).

use std::net::IpAddr;

use crate::config::Prefer;
use crate::discovery::{BackendSpec, Eligibility};

/// Which backends of a service get new flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Distribution {
    /// The preference of the configuration.
    #[default]
    AsConfigured,
    /// Those in the balancer's zone, if any, else all.
    Zone,
    /// Those on the balancer's node, if any, else those in its zone, else all.
    Node,
    /// Only those on the balancer's node.
    LocalOnly,
}

impl Distribution {
    /// Whether it needs a balancer that knows its zone.
    pub(super) const fn needs_zone(self) -> bool {
        matches!(self, Self::Zone | Self::Node)
    }
}

/// A backend and its location.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) backend: BackendSpec,
    pub(super) node: Option<String>,
    pub(super) zone: Option<String>,
    /// Whether it is terminating and serves, so that it gets new flows if no other backend does.
    pub(super) last_resort: bool,
}

/// The balancer's location.
#[derive(Debug, Clone, Copy)]
pub(super) struct Location<'a> {
    pub(super) node: Option<&'a str>,
    pub(super) zone: Option<&'a str>,
    /// For services without a preference of their own.
    pub(super) prefer: Prefer,
}

impl Location<'_> {
    /// The backends, those that are not preferred with weight 0: they keep their flows and get no new ones. IPv4 and
    /// IPv6 are separate.
    pub(super) fn choose(
        &self,
        mut candidates: Vec<Candidate>,
        distribution: Distribution,
    ) -> Vec<BackendSpec> {
        for is_in in [IpAddr::is_ipv4 as fn(&IpAddr) -> bool, IpAddr::is_ipv6] {
            let family = candidates
                .iter_mut()
                .filter(|candidate| is_in(&candidate.backend.address));
            self.choose_family(family.collect(), distribution);
        }
        candidates
            .into_iter()
            .map(|candidate| candidate.backend)
            .collect()
    }

    fn choose_family(&self, mut family: Vec<&mut Candidate>, distribution: Distribution) {
        type Test<'a> = &'a dyn Fn(&Candidate) -> bool;
        let on_node: Test<'_> = &|candidate| self.node.is_some() && candidate.node.as_deref() == self.node;
        let in_zone: Test<'_> = &|candidate| self.zone.is_some() && candidate.zone.as_deref() == self.zone;
        let distribution = match (distribution, self.prefer) {
            (Distribution::AsConfigured, Prefer::Zone) => Distribution::Zone,
            (Distribution::AsConfigured, Prefer::Node) => Distribution::Node,
            (distribution, _) => distribution,
        };
        let counts: Test<'_> = match distribution {
            Distribution::LocalOnly => on_node,
            Distribution::Node | Distribution::Zone | Distribution::AsConfigured => &|_| true,
        };
        fall_back_to_terminating(
            family
                .iter_mut()
                .map(|candidate| &mut **candidate)
                .filter(|candidate| counts(candidate)),
        );
        let has = |test: Test<'_>| {
            let mut family = family.iter();
            family.any(|candidate| is_eligible(&candidate.backend) && test(candidate))
        };
        let chosen = match distribution {
            Distribution::LocalOnly => Some(on_node),
            Distribution::Node => [on_node, in_zone].into_iter().find(|test| has(test)),
            Distribution::Zone => Some(in_zone).filter(|test| has(test)),
            Distribution::AsConfigured => None,
        };
        let Some(near) = chosen else { return };
        for candidate in family {
            if !near(candidate) {
                candidate.backend.weight = 0;
            }
        }
    }
}

/// Makes terminating backends that serve eligible for new flows, if no backend is.
fn fall_back_to_terminating<'a>(candidates: impl Iterator<Item = &'a mut Candidate>) {
    let candidates: Vec<_> = candidates.collect();
    if candidates.iter().any(|candidate| is_eligible(&candidate.backend)) {
        return;
    }
    for candidate in candidates.into_iter().filter(|candidate| candidate.last_resort) {
        candidate.backend.eligibility = Eligibility::NewFlows;
    }
}

fn is_eligible(backend: &BackendSpec) -> bool {
    backend.eligibility == Eligibility::NewFlows && backend.weight > 0
}
