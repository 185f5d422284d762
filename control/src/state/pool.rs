//! The backends of one address family that get new flows of a service.

use std::sync::Arc;

use vl3lb_common::schedule::{Pool, Scheduler};
use vl3lb_common::snapshot::{Backend, BackendSlot, BackendState};

use super::slow_start::{self, Share};

/// A backend that may become a member of a pool.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) backend: Backend,
    /// Whether it is one while there is no other.
    pub(super) backup: bool,
    /// Of its weight.
    pub(super) share: Share,
}

/// A pool that is rebuilt only when its members or scheduler change: a Maglev table takes milliseconds and
/// 128 KiB.
#[derive(Debug)]
pub(super) struct CachedPool {
    scheduler: Scheduler,
    members: Vec<(BackendSlot, u16)>,
    pool: Arc<Pool>,
}

impl CachedPool {
    pub(super) fn empty() -> Self {
        Self {
            scheduler: Scheduler::Maglev,
            members: Vec::new(),
            pool: Arc::new(Pool::Empty),
        }
    }

    /// The pool of those of `candidates` that take new flows. Slots and weights identify its members: a slot is
    /// out of every pool before it is freed.
    ///
    /// A backend without a finding yet is used only while no other is up: it may not be there yet. A backend
    /// whose next hop is unresolved is used only while no other is reachable: its flows would lose their first
    /// packets, and wait a second for the next. A backup is used only while no other is left by that.
    pub(super) fn refresh(&mut self, scheduler: Scheduler, candidates: &[Candidate]) {
        let takes_flows = |candidate: &&Candidate| candidate.backend.takes_new_flows();
        let chosen: Vec<&Candidate> = candidates.iter().filter(takes_flows).collect();
        let chosen = preferred(chosen, |candidate| {
            candidate.backend.state == BackendState::Active
        });
        let chosen = preferred(chosen, |candidate| candidate.backend.mac.is_some());
        let chosen = preferred(chosen, |candidate| !candidate.backup);
        let shares: Vec<Share> = chosen.iter().map(|candidate| candidate.share).collect();
        let scale = slow_start::scale(&shares);
        let chosen: Vec<Backend> = chosen
            .into_iter()
            .map(|candidate| Backend {
                weight: scale.weight(candidate.backend.weight, candidate.share),
                ..candidate.backend.clone()
            })
            .collect();
        let members: Vec<_> = chosen
            .iter()
            .map(|backend| (backend.slot, backend.weight))
            .collect();
        if scheduler != self.scheduler || members != self.members {
            self.pool = Arc::new(Pool::build(scheduler, &chosen));
            self.scheduler = scheduler;
            self.members = members;
        }
    }

    pub(super) fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.pool)
    }
}

/// Those of `candidates` that are `better`, or all if none is.
fn preferred(candidates: Vec<&Candidate>, better: impl Fn(&Candidate) -> bool) -> Vec<&Candidate> {
    if !candidates.iter().any(|candidate| better(candidate)) {
        return candidates;
    }
    candidates
        .into_iter()
        .filter(|candidate| better(candidate))
        .collect()
}
