//! What a backend may get: what its source wants for it, and what its health checks found, together.

use vl3lb_common::snapshot::BackendState;

use super::Moment;
use crate::discovery::{BackendSpec, Eligibility, ServiceSpec};
use crate::health::{Finding, Findings, Target, Verdict};

/// What is known of a backend of a service with health checks; `None` of one without.
pub(super) fn finding<'a>(
    service: &ServiceSpec,
    backend: &BackendSpec,
    health: &'a Findings,
) -> Option<(Verdict, &'a str)> {
    service.health_check.as_ref()?;
    let finding = health.get(&Target::of(service, backend));
    Some(finding.map_or((Verdict::Unknown, ""), |Finding { verdict, why }| (*verdict, why)))
}

/// The state of a desired backend of this `eligibility` that was in state `before`.
pub(super) fn wanted_state(
    eligibility: Eligibility,
    finding: Option<(Verdict, &str)>,
    before: Option<BackendState>,
    now: Moment,
) -> BackendState {
    match (eligibility, finding.map(|(verdict, _)| verdict)) {
        (Eligibility::Dead, _) => BackendState::Gone,
        // What is shutting down may have closed its port and finish its flows all the same, so checks
        // say nothing about a backend that drains; one that was dead before stays dead.
        (Eligibility::ExistingFlows, Some(Verdict::Down)) if before == Some(BackendState::Down) => {
            BackendState::Down
        }
        (Eligibility::ExistingFlows, _) => BackendState::Draining { since: now.monotonic },
        // That checks begin is no news of a backend that is in use.
        (Eligibility::NewFlows, Some(Verdict::Unknown)) if before != Some(BackendState::Active) => {
            BackendState::Unknown
        }
        (Eligibility::NewFlows, Some(Verdict::Down)) => BackendState::Down,
        (Eligibility::NewFlows, None | Some(Verdict::Unknown | Verdict::Up)) => BackendState::Active,
    }
}

/// The finding that brought a backend from one state to another, if one did.
pub(super) fn found(
    finding: Option<(Verdict, &str)>,
    from: Option<BackendState>,
    to: BackendState,
) -> Option<String> {
    let (_, why) = finding?;
    let by_check = match (from, to) {
        (_, BackendState::Down) => true,
        (from, BackendState::Active) => {
            matches!(from, Some(BackendState::Unknown | BackendState::Down))
        }
        _ => false,
    };
    (by_check && !why.is_empty()).then(|| why.to_owned())
}

/// The word for people.
pub(super) const fn state_name(state: BackendState) -> &'static str {
    match state {
        BackendState::Active => "up",
        BackendState::Unknown => "unknown",
        BackendState::Draining { .. } => "draining",
        BackendState::Down => "down",
        BackendState::Gone => "gone",
    }
}
