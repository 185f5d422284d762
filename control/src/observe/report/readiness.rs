//! Whether the balancer is ready for clients.

use std::sync::Arc;

use vl3lb_common::Snapshot;
use vl3lb_common::dataplane::Attachment;
use vl3lb_common::stats::WorkerStats;

use crate::discovery::SourceStatus;
use crate::network::{LinkState, NetworkView};

/// What readiness depends on.
pub(super) struct Inputs<'a> {
    pub(super) draining: bool,
    /// Name of the vL3 interface.
    pub(super) interface: &'a str,
    /// `None` while there is no attachment.
    pub(super) attachment: Option<&'a Attachment>,
    /// Why attaching to the interface failed.
    pub(super) attach_failure: Option<&'a str>,
    /// `None` before the interface was looked at.
    pub(super) network: Option<&'a NetworkView>,
    /// The snapshot that is live.
    pub(super) snapshot: Option<&'a Snapshot>,
    pub(super) source: &'a SourceStatus,
    pub(super) workers: &'a [Arc<WorkerStats>],
}

/// Whether the interface is up and attached, and a complete snapshot is live on it. Errors: why not.
///
/// Cost: O(workers).
pub(super) fn readiness(inputs: &Inputs<'_>) -> Result<(), String> {
    if inputs.draining {
        return Err("shutting down: existing flows are finishing".to_owned());
    }
    let interface = inputs.interface;
    link(interface, inputs.network)?;
    let network = inputs.network;
    if inputs.attachment.is_none() {
        return Err(unattached(interface, inputs.attach_failure));
    }
    let index = |attachment: &Attachment| Some(attachment.index);
    if inputs.attachment.and_then(index) != network.and_then(|network| network.index) {
        return Err(format!(
            "interface {interface} was replaced: attaching to the new one"
        ));
    }
    let addresses = network.map_or(&[][..], |network| &network.addresses);
    if addresses.is_empty() {
        return Err(format!("interface {interface} has no address to balance on"));
    }
    let Some(snapshot) = inputs.snapshot else {
        let reason = "no complete set of services is live yet";
        return Err(match &inputs.source.error {
            Some(error) => format!("{reason}: {error}"),
            None => reason.to_owned(),
        });
    };
    if !snapshot
        .addresses
        .iter()
        .any(|address| addresses.contains(address))
    {
        return Err(format!(
            "the new addresses of interface {interface} are not live yet"
        ));
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

/// Whether the interface can carry packets. Errors: why not.
pub(super) fn link(interface: &str, network: Option<&NetworkView>) -> Result<(), String> {
    Err(match network.map(|network| network.state) {
        None => format!("interface {interface} has not been looked at yet"),
        Some(LinkState::Absent) => format!("interface {interface} does not exist: waiting for it"),
        Some(LinkState::Down) => format!("interface {interface} is down: waiting until it is up"),
        Some(LinkState::NoCarrier) => {
            format!("interface {interface} has no carrier: its other end is down or gone")
        }
        Some(LinkState::Up) => return Ok(()),
    })
}

/// Why the interface, which is up, is not attached.
pub(super) fn unattached(interface: &str, failure: Option<&str>) -> String {
    match failure {
        Some(failure) => format!("not attached to interface {interface}: {failure}"),
        None => format!("attaching to interface {interface}"),
    }
}
