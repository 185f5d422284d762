//! Backends, and the stable numbers by which flows and counters refer to services and backends.

use std::net::IpAddr;

use crate::addr::{MacAddr, Protocol};
use crate::time::Timestamp;

/// Services at most, live and just removed.
pub const MAX_SERVICES: usize = 1024;
/// Backends at most, all services together, live and draining.
pub const MAX_BACKENDS: usize = 16_384;

/// Number of a snapshot; each one published is higher than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Generation(pub u64);

/// Stable number of a service, below [`MAX_SERVICES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceSlot(pub u16);

/// Stable number of a backend of one service, below [`MAX_BACKENDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendSlot(pub u32);

impl ServiceSlot {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl BackendSlot {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which flows a backend gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendState {
    /// New and old flows.
    Active,
    /// Old flows, and new ones where no other backend is active: no health check has completed yet.
    Unknown,
    /// Old flows only, since that time.
    Draining { since: Timestamp },
    /// No flows: it failed its health checks, its flows are ended at once. It may come back in its slot.
    Down,
    /// No flows: they are ended at once, and the slot is free after the last one.
    Gone,
}

impl BackendState {
    /// Whether it may be given new flows.
    pub const fn takes_new_flows(self) -> bool {
        matches!(self, Self::Active | Self::Unknown)
    }
}

/// One backend of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub slot: BackendSlot,
    /// The generation in which it got its slot; no other backend has had the slot since.
    pub since: Generation,
    pub service: ServiceSlot,
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    /// Share of new flows; 0 gets none.
    pub weight: u16,
    pub state: BackendState,
    /// The next hop's MAC address; `None` on a raw-IP link or while it is not resolved.
    pub mac: Option<MacAddr>,
}

impl Backend {
    /// Whether new flows may go to it.
    pub fn takes_new_flows(&self) -> bool {
        self.weight > 0 && self.state.takes_new_flows()
    }
}
