//! Whether the balancer is ready for clients.

use std::sync::Arc;

use thiserror::Error;
use vl3lb_common::Snapshot;
use vl3lb_common::dataplane::Attachment;
use vl3lb_common::stats::WorkerStats;

use crate::api::{NsmConnection, NsmState};
use crate::discovery::SourceStatus;
use crate::network::{LinkState, NetworkView};

/// Why the balancer is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotReady {
    #[error("shutting down: existing flows are finishing")]
    Draining,
    #[error("network service {service} is not connected ({}){}", state.name(), cause(error.as_deref()))]
    NotConnected {
        service: String,
        state: NsmState,
        /// The last error of a call.
        error: Option<String>,
    },
    #[error(transparent)]
    Interface(#[from] InterfaceProblem),
    #[error("no complete set of services is live yet{}", cause(source_error.as_deref()))]
    NoSnapshot {
        /// The last error of the source of backends.
        source_error: Option<String>,
    },
    #[error("the new addresses of interface {interface} are not live yet")]
    StaleAddresses { interface: String },
    #[error("worker {worker} has not started")]
    WorkerNotStarted { worker: usize },
    #[error("worker {worker} has no snapshot yet")]
    WorkerWithoutSnapshot { worker: usize },
}

/// The reason why the interface cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InterfaceProblem {
    #[error("interface {interface} has not been inspected yet")]
    Unknown { interface: String },
    #[error("interface {interface} does not exist: waiting for it")]
    Absent { interface: String },
    #[error("interface {interface} is down: waiting until it is up")]
    Down { interface: String },
    #[error("interface {interface} has no carrier: its other end is down or gone")]
    NoCarrier { interface: String },
    #[error("attaching to interface {interface}")]
    Attaching { interface: String },
    #[error("not attached to interface {interface}: {failure}")]
    NotAttached { interface: String, failure: String },
    #[error("interface {interface} was replaced: attaching to the new one")]
    Replaced { interface: String },
    #[error("interface {interface} has no address to balance on")]
    NoAddress { interface: String },
}

fn cause(error: Option<&str>) -> String {
    error.map_or_else(String::new, |error| format!(": {error}"))
}

/// The inputs of readiness.
pub(super) struct Inputs<'a> {
    pub(super) draining: bool,
    /// Name of the vL3 interface.
    pub(super) interface: &'a str,
    /// `None` while there is no attachment.
    pub(super) attachment: Option<&'a Attachment>,
    /// Why attaching to the interface failed.
    pub(super) attach_failure: Option<&'a str>,
    /// `None` before the first look at the interface.
    pub(super) network: Option<&'a NetworkView>,
    /// The snapshot that is live.
    pub(super) snapshot: Option<&'a Snapshot>,
    pub(super) source: &'a SourceStatus,
    /// `None` where another process makes the interface.
    pub(super) nsm: Option<&'a NsmConnection>,
    pub(super) workers: &'a [Arc<WorkerStats>],
}

/// Whether the interface is up and attached, and a complete snapshot is live on it. Errors: why not.
///
/// Cost: O(workers).
pub(super) fn readiness(inputs: &Inputs<'_>) -> Result<(), NotReady> {
    if inputs.draining {
        return Err(NotReady::Draining);
    }
    let (interface, network) = (inputs.interface, inputs.network);
    connection(inputs.nsm, network)?;
    link(interface, network)?;
    if inputs.attachment.is_none() {
        return Err(unattached(interface, inputs.attach_failure).into());
    }
    let named = || interface.to_owned();
    let index = |attachment: &Attachment| Some(attachment.index);
    if inputs.attachment.and_then(index) != network.and_then(|network| network.index) {
        return Err(InterfaceProblem::Replaced { interface: named() }.into());
    }
    let addresses = network.map_or(&[][..], |network| &network.addresses);
    if addresses.is_empty() {
        return Err(InterfaceProblem::NoAddress { interface: named() }.into());
    }
    let Some(snapshot) = inputs.snapshot else {
        let source_error = inputs.source.error.clone();
        return Err(NotReady::NoSnapshot { source_error });
    };
    if !snapshot
        .addresses
        .iter()
        .any(|address| addresses.contains(address))
    {
        return Err(NotReady::StaleAddresses { interface: named() });
    }
    for (worker, stats) in inputs.workers.iter().enumerate() {
        if stats.heartbeat.get() == 0 {
            return Err(NotReady::WorkerNotStarted { worker });
        }
        if stats.generation.get() == 0 {
            return Err(NotReady::WorkerWithoutSnapshot { worker });
        }
    }
    Ok(())
}

/// Whether the vL3 network is connected, or an earlier connection is in use. Errors: why not.
fn connection(nsm: Option<&NsmConnection>, network: Option<&NetworkView>) -> Result<(), NotReady> {
    let absent = network.is_none_or(|network| network.index.is_none());
    let Some(nsm) = nsm else {
        return Ok(());
    };
    match nsm.state {
        NsmState::Connected | NsmState::Healing => Ok(()),
        // The packets of an earlier process's connection go on.
        NsmState::Restoring | NsmState::Requesting if !absent => Ok(()),
        state => Err(NotReady::NotConnected {
            service: nsm.network_service.clone(),
            state,
            error: nsm.last_error.clone(),
        }),
    }
}

/// Whether the interface can carry packets. Errors: why not.
pub(super) fn link(interface: &str, network: Option<&NetworkView>) -> Result<(), InterfaceProblem> {
    let interface = interface.to_owned();
    Err(match network.map(|network| network.state) {
        None => InterfaceProblem::Unknown { interface },
        Some(LinkState::Absent) => InterfaceProblem::Absent { interface },
        Some(LinkState::Down) => InterfaceProblem::Down { interface },
        Some(LinkState::NoCarrier) => InterfaceProblem::NoCarrier { interface },
        Some(LinkState::Up) => return Ok(()),
    })
}

/// Why the interface, which is up, is not attached.
pub(super) fn unattached(interface: &str, failure: Option<&str>) -> InterfaceProblem {
    let interface = interface.to_owned();
    match failure.map(str::to_owned) {
        Some(failure) => InterfaceProblem::NotAttached { interface, failure },
        None => InterfaceProblem::Attaching { interface },
    }
}
