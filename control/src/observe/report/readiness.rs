//! Whether the balancer is ready for clients.

use std::sync::Arc;

use vl3lb_common::dataplane::Attachment;
use vl3lb_common::stats::WorkerStats;

use crate::discovery::SourceStatus;
use crate::network::NetworkView;

/// What readiness depends on.
pub(super) struct Inputs<'a> {
    pub(super) draining: bool,
    /// `None` while there is no attachment.
    pub(super) attachment: Option<&'a Attachment>,
    /// `None` before the interface was looked at.
    pub(super) network: Option<&'a NetworkView>,
    /// Whether a complete snapshot is live.
    pub(super) published: bool,
    pub(super) source: &'a SourceStatus,
    pub(super) workers: &'a [Arc<WorkerStats>],
}

/// Whether workers are bound and a complete snapshot is live. Errors: why not.
///
/// Cost: O(workers).
pub(super) fn readiness(inputs: &Inputs<'_>) -> Result<(), String> {
    if inputs.draining {
        return Err("shutting down: existing flows are finishing".to_owned());
    }
    let Some(Attachment { interface, index, .. }) = inputs.attachment else {
        return Err("the interface is not attached".to_owned());
    };
    match inputs.network {
        None => return Err(format!("interface {interface} has not been looked at yet")),
        Some(network) if network.index.is_none() => {
            return Err(format!("interface {interface} is not there"));
        }
        // The workers' sockets went with the old one.
        Some(network) if network.index != Some(*index) => {
            return Err(format!(
                "interface {interface} was removed and made again: restart the balancer"
            ));
        }
        Some(network) if network.addresses.is_empty() => {
            return Err(format!("interface {interface} has no address to balance on"));
        }
        Some(_) => {}
    }
    if !inputs.published {
        let reason = "no complete set of services is live yet";
        return Err(match &inputs.source.error {
            Some(error) => format!("{reason}: {error}"),
            None => reason.to_owned(),
        });
    }
    for (id, stats) in inputs.workers.iter().enumerate() {
        if stats.heartbeat.get() == 0 {
            return Err(format!("worker {id} has not started"));
        }
        if stats.generation.get() == 0 {
            return Err(format!("worker {id} has no snapshot yet"));
        }
    }
    Ok(())
}
