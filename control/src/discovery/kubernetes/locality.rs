//! Backends that are near get the new flows, for as long as there are any. Without any that is ready those get
//! them that serve until they end, as kube-proxy does it (KEP-1669).

use std::net::IpAddr;

use crate::config::Prefer;
use crate::discovery::{BackendSpec, Eligibility};

/// Which backends of a service get new flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Distribution {
    /// As the configuration says for all services.
    #[default]
    AsConfigured,
    /// Those in the balancer's zone, if there are any.
    Zone,
    /// Those on the balancer's node, else in its zone, if there are any.
    Node,
    /// Those on the balancer's node and no others.
    LocalOnly,
}

impl Distribution {
    /// Whether a Service asks for what only a balancer that knows its zone can do.
    pub(super) const fn needs_zone(self) -> bool {
        matches!(self, Self::Zone | Self::Node)
    }
}

/// A backend and where it is.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) backend: BackendSpec,
    pub(super) node: Option<String>,
    pub(super) zone: Option<String>,
    /// Whether it may get new flows where no other one does.
    pub(super) last_resort: bool,
}

/// Where the balancer is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Location<'a> {
    pub(super) node: Option<&'a str>,
    pub(super) zone: Option<&'a str>,
    /// For services that say nothing.
    pub(super) prefer: Prefer,
}

impl Location<'_> {
    /// The backends, those weighted 0 that are too far away: they keep their flows and get no new ones.
    /// Each family by itself.
    pub(super) fn choose(&self, mut placed: Vec<Candidate>, distribution: Distribution) -> Vec<BackendSpec> {
        for is_in in [IpAddr::is_ipv4 as fn(&IpAddr) -> bool, IpAddr::is_ipv6] {
            let family = placed.iter_mut().filter(|placed| is_in(&placed.backend.address));
            self.choose_family(family.collect(), distribution);
        }
        placed.into_iter().map(|placed| placed.backend).collect()
    }

    fn choose_family(&self, mut family: Vec<&mut Candidate>, distribution: Distribution) {
        type Test<'a> = &'a dyn Fn(&Candidate) -> bool;
        let on_node: Test<'_> = &|placed| self.node.is_some() && placed.node.as_deref() == self.node;
        let in_zone: Test<'_> = &|placed| self.zone.is_some() && placed.zone.as_deref() == self.zone;
        let distribution = match (distribution, self.prefer) {
            (Distribution::AsConfigured, Prefer::Zone) => Distribution::Zone,
            (Distribution::AsConfigured, Prefer::Node) => Distribution::Node,
            (distribution, _) => distribution,
        };
        let counts: Test<'_> = match distribution {
            Distribution::LocalOnly => on_node,
            Distribution::Node | Distribution::Zone | Distribution::AsConfigured => &|_| true,
        };
        resort(
            family
                .iter_mut()
                .map(|placed| &mut **placed)
                .filter(|placed| counts(placed)),
        );
        let has = |test: Test<'_>| {
            let mut family = family.iter();
            family.any(|placed| takes_flows(&placed.backend) && test(placed))
        };
        let chosen = match distribution {
            Distribution::LocalOnly => Some(on_node),
            Distribution::Node => [on_node, in_zone].into_iter().find(|test| has(test)),
            Distribution::Zone => Some(in_zone).filter(|test| has(test)),
            Distribution::AsConfigured => None,
        };
        let Some(near) = chosen else { return };
        for placed in family {
            if !near(placed) {
                placed.backend.weight = 0;
            }
        }
    }
}

/// Gives new flows to those that still serve, if none is ready.
fn resort<'a>(candidates: impl Iterator<Item = &'a mut Candidate>) {
    let candidates: Vec<_> = candidates.collect();
    if candidates.iter().any(|placed| takes_flows(&placed.backend)) {
        return;
    }
    for placed in candidates.into_iter().filter(|placed| placed.last_resort) {
        placed.backend.eligibility = Eligibility::NewFlows;
    }
}

fn takes_flows(backend: &BackendSpec) -> bool {
    backend.eligibility == Eligibility::NewFlows && backend.weight > 0
}
