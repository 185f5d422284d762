//! The contract between data plane and control side, and its terms.
//!
//! | term | meaning | other projects |
//! |---|---|---|
//! | service | address, port and protocol for clients | VIP (Katran), virtual server (IPVS) |
//! | backend | one real server of a service | real, RS, endpoint |
//! | flow | a 5-tuple and its translation | connection, session, conntrack entry |
//! | snapshot | all services, backends and next hops for the workers, immutable; has a generation | config, state |
//! | worker | one pinned thread that owns one receive queue and its flows | lcore |
//! | verdict, drop reason | the decision about a packet, and the cause of a drop | |
//! | drain | a backend gets no new flows and keeps its old ones until they end | graceful removal |
//!
//! Control builds a [`Snapshot`] and puts it into each worker's [`mailbox`]; workers count into
//! [`stats`].
//! This crate knows neither sockets nor Kubernetes: std, crossbeam, foldhash, serde and ipnet only.

pub mod addr;
pub mod backend;
pub mod backend_sockets;
pub mod capability;
pub mod capture;
pub mod client_address;
pub mod dataplane;
pub mod drop_reason;
pub mod flow_feed;
pub mod flow_query;
pub mod hash;
mod histogram;
pub mod maglev;
pub mod mailbox;
pub mod next_hop;
pub mod port_set;
mod port_statistics;
pub mod schedule;
pub mod selection_query;
pub mod snapshot;
pub mod source_ranges;
pub mod stats;
pub mod sync;
pub mod time;

pub use addr::{MacAddr, Protocol, ServiceKey};
pub use backend::{Backend, BackendSlot, BackendState, Generation, ServiceSlot};
pub use backend_sockets::BackendSockets;
pub use client_address::ClientAddress;
pub use drop_reason::DropReason;
pub use port_set::PortSet;
pub use snapshot::{Service, Snapshot};
pub use source_ranges::SourceRanges;
pub use time::{Duration, Timestamp};
