//! The leader and the timing of the group, from its Leases.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use vl3lb_common::Duration;

use super::lease;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct GroupState {
    /// The leader's Lease; `None` if there is none, or before the first list.
    pub(super) leader: Option<Arc<Lease>>,
    /// Whether the watch has run long enough to know the living balancers.
    pub(super) settled: bool,
    /// The period in which a balancer renews its own Lease, and the duration of the Lease.
    pub(super) pace: (Duration, Duration),
}

impl Default for GroupState {
    fn default() -> Self {
        Self {
            leader: None,
            settled: false,
            pace: (lease::DURATION / 3, lease::DURATION),
        }
    }
}
