//! How unevenly the flows of a service are spread: the fullest backend against the mean, as Linux and HAProxy users compute
//! it from their tables.

use crate::api::{Backend, BackendState};

/// Flows of the fullest of `backends`, which are those of one service, for its weight, as a multiple of the mean. Backends
/// that get no new flows do not count, nor backups beside others. `None` without flows, or with fewer than two backends.
#[expect(clippy::cast_precision_loss, reason = "numbers of flows are far below 2^53")]
pub(super) fn imbalance<'a>(backends: impl Iterator<Item = &'a Backend> + Clone) -> Option<f64> {
    let takes_flows = |backend: &&Backend| backend.state == BackendState::Up && backend.weight > 0;
    let up = backends.filter(takes_flows);
    let has_others = up.clone().any(|backend| !backend.backup);
    let used = up.filter(|backend| !(has_others && backend.backup));
    used.clone().nth(1)?;
    let load = |backend: &Backend| backend.flows as f64 / f64::from(backend.weight);
    let fullest = used.clone().map(load).fold(0.0, f64::max);
    let flows: u64 = used.clone().map(|backend| backend.flows).sum();
    let weight: f64 = used.map(|backend| f64::from(backend.weight)).sum();
    (flows > 0).then(|| super::build::rounded(fullest * weight / flows as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::report::fixture;

    /// Backends as (weight, flows), all up.
    fn backends(of: &[(u16, u64)]) -> Vec<Backend> {
        let template = fixture::report().backends.swap_remove(0);
        let backend = |&(weight, flows): &(u16, u64)| Backend {
            state: BackendState::Up,
            backup: false,
            weight,
            flows,
            ..template.clone()
        };
        of.iter().map(backend).collect()
    }

    #[test]
    fn the_fullest_backend_is_compared_with_the_mean() {
        for (of, want) in [
            (&[(1, 10), (1, 10)][..], Some(1.0)),
            (&[(1, 30), (1, 10)], Some(1.5)),
            (&[(1, 10), (3, 30)], Some(1.0)),
            (&[(1, 20), (3, 20)], Some(2.0)),
            (&[(1, 10), (0, 90), (1, 10)], Some(1.0)),
            (&[(1, 0), (1, 0)], None),
            (&[(1, 10)], None),
            (&[], None),
        ] {
            assert_eq!(imbalance(backends(of).iter()), want, "{of:?}");
        }
    }

    #[test]
    fn backends_without_new_flows_do_not_count() {
        let mut all = backends(&[(1, 10), (1, 30), (1, 500), (1, 0)]);
        all[2].state = BackendState::Draining;
        all[3].backup = true;
        assert_eq!(imbalance(all.iter()), Some(1.5));
        all[0].backup = true;
        all[1].state = BackendState::Down;
        assert_eq!(imbalance(all.iter()), Some(2.0), "only backups are left");
    }
}
