//! Queries for the backend that a new flow would get: a worker answers by the code that opens flows, and opens none.

use std::net::IpAddr;

use crate::backend::{BackendSlot, ServiceSlot};
use crate::drop_reason::DropReason;

/// Asks a worker which backend it would give the next new flow of a client.
#[derive(Debug)]
pub struct SelectionQuery {
    pub service: ServiceSlot,
    pub client: IpAddr,
    pub client_port: u16,
    /// Receives the answer; if it would block, the query is dropped.
    pub answer: crossbeam::channel::Sender<Selection>,
}

/// The answer to a [`SelectionQuery`], by the snapshot and the tables of one worker at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// Whether this worker opens the flow: packets that arrive at others are handed to it.
    pub owner: bool,
    /// The backend that the client keeps by affinity, and whether new flows of the service may go there.
    pub kept: Option<(BackendSlot, bool)>,
    /// The scheduler's choice, if no backend were full.
    pub scheduled: Option<BackendSlot>,
    /// The backend, or why the packet would be dropped: the client may not use the service, there is no backend, all are
    /// full, or the next hop is not known. Overload, and the room in the flow table and among NAT ports, do not count.
    pub choice: Result<BackendSlot, DropReason>,
}
