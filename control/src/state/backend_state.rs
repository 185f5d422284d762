//! The state of a backend, from its eligibility and the findings of its health checks.

use vl3lb_common::snapshot::BackendState;

use super::TimePoint;
use crate::discovery::{BackendSpec, Eligibility, ServiceSpec};
use crate::health::{Finding, Findings, Target, Verdict};

/// The finding about a backend; `None` if its service has no health checks.
pub(super) fn finding<'a>(
    service: &ServiceSpec,
    backend: &BackendSpec,
    health: &'a Findings,
) -> Option<(Verdict, &'a str)> {
    let default = match (&service.health_check, &service.rules.passive_check) {
        (Some(_), _) => Verdict::Unknown,
        (None, Some(_)) => Verdict::Up,
        (None, None) => return None,
    };
    let finding = health.get(&Target::of(service, backend));
    Some(finding.map_or((default, ""), |Finding { verdict, why }| (*verdict, why)))
}

/// The state of a desired backend of this `eligibility` that was in state `before`.
pub(super) fn desired_state(
    eligibility: Eligibility,
    finding: Option<(Verdict, &str)>,
    before: Option<BackendState>,
    now: TimePoint,
) -> BackendState {
    match (eligibility, finding.map(|(verdict, _)| verdict)) {
        (Eligibility::Dead, _) => BackendState::Gone,
        // A backend that shuts down may close its port and still finish its flows, so checks are ignored
        // while it drains. One that was dead before stays dead.
        (Eligibility::ExistingFlows, Some(Verdict::Down)) if before == Some(BackendState::Down) => {
            BackendState::Down
        }
        (Eligibility::ExistingFlows, _) => BackendState::Draining { since: now.monotonic },
        // Enabling checks does not demote a backend already in use.
        (Eligibility::NewFlows, Some(Verdict::Unknown)) if before != Some(BackendState::Active) => {
            BackendState::Unknown
        }
        (Eligibility::NewFlows, Some(Verdict::Down)) => BackendState::Down,
        (Eligibility::NewFlows, None | Some(Verdict::Unknown | Verdict::Up)) => BackendState::Active,
    }
}

/// The text of the finding that caused a transition; `None` if checks did not cause it.
pub(super) fn reason(
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

/// The name that users see.
pub(super) const fn state_name(state: BackendState) -> &'static str {
    match state {
        BackendState::Active => "up",
        BackendState::Unknown => "unknown",
        BackendState::Draining { .. } => "draining",
        BackendState::Down => "down",
        BackendState::Gone => "gone",
    }
}
