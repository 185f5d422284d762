//! Flows: which client is connected to which backend, and how its packets are translated.
//!
//! [`Flows`] is the life of flows: it opens, advances and ends them, and keeps counters, affinity and
//! flow feed consistent with the table. The [`FlowTable`] is plain data in one memory mapping: a
//! versioned header, an index of both keys of each flow, and the entries. References are numbers, not
//! pointers, so the bytes are valid at any address. A packet of an established flow touches three cache lines of
//! its own, an index bucket and the two parts of the entry, and that of its endpoint, which all flows to one backend
//! share.
//!
//! ```text
//! request key ─┐                       ┌─ HotEntry   identity, state, deadline, sequence numbers   64 bytes
//!              ├─ index bucket ─ id ───┤     └─ endpoint   the backend's address and port
//! reply key ───┘                       └─ ColdEntry  counters                                      32 bytes
//! ```
//!
//! Two live flows never share a request key or a reply key. The NAT port of a flow comes out of
//! its endpoint's own map of ports, so a port serves many endpoints at once.

mod accounting;
mod affinity;
mod clients;
mod counters;
mod endpoint;
mod entry;
mod fast;
mod feed;
mod header;
mod index;
mod inserted;
#[cfg(all(test, feature = "loom"))]
mod interleavings;
mod key;
mod lifecycle;
mod local;
#[expect(unsafe_code, reason = "the memory boundary: divides the mapping into arrays")]
mod mapping;
mod open;
mod orphan;
mod overflow;
mod placed;
mod pool;
mod ports;
mod probe;
mod reclaim;
mod sctp;
mod sequence;
mod state;
mod table;
pub(crate) mod tcp;
#[cfg(test)]
mod tests;
mod victim;
mod view;

pub(crate) use affinity::{BackendId, ServiceClient};
pub(crate) use endpoint::Endpoint;
pub(crate) use entry::HotEntry;
pub(crate) use feed::FeedWriter;
pub(crate) use inserted::Passage;
pub(crate) use key::{ReplyKey, RequestKey};
pub(crate) use lifecycle::Flows;
pub(crate) use open::{NewFlow, OpenError, Predecessor};
pub(crate) use orphan::Orphan;
pub(crate) use overflow::{Guest, Overflow};
pub(crate) use placed::PlacedFlows;
pub(crate) use probe::Probe;
#[cfg(test)]
pub(crate) use sequence::Sequence;
pub(crate) use sequence::SynNumbers;
pub(crate) use state::{Direction, State};
pub(crate) use table::{FlowId, FlowTable};
