//! The flow table: which client talks to which backend, and how its packets are translated.
//!
//! Each worker owns one [`FlowTable`]. It is plain data in one memory mapping: a versioned header,
//! an index of both keys of each flow, and the entries. Everything refers to everything else by
//! number, so the same bytes mean the same at another address. A packet of an established flow
//! touches three cache lines: an index bucket, the hot half of the entry and the cold half.
//!
//! ```text
//! request key ─┐                       ┌─ HotEntry   identity, state, deadline   64 bytes
//!              ├─ index bucket ─ id ───┤
//! reply key ───┘                       └─ ColdEntry  counters                    32 bytes
//! ```
//!
//! Two live flows never share a request key or a reply key. The NAT port of a flow comes out of
//! its backend's own map of ports, so a port serves many backends at once.

mod affinity;
mod counters;
mod entry;
mod feed;
mod finished;
mod header;
mod index;
mod key;
mod lifecycle;
mod local;
#[expect(unsafe_code, reason = "the memory boundary: cuts the mapping into arrays")]
mod mapping;
mod open;
mod pool;
mod ports;
mod state;
mod table;
pub mod tcp;
#[cfg(test)]
mod tests;
mod view;

pub use affinity::{BackendId, ServiceClient};
pub use counters::ColdEntry;
pub use entry::HotEntry;
pub use feed::FeedWriter;
pub use key::{ReplyKey, RequestKey};
pub use lifecycle::Flows;
pub use open::{NewFlow, OpenError};
pub use state::{Direction, State};
pub use table::{FlowId, FlowTable, Probe};
