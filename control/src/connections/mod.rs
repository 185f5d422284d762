//! Bounded connections of the balancer's own servers: the admin API and DNS over TCP.
//!
//! Every connection costs a descriptor, and a process without free descriptors fails its probes and is
//! restarted, which ends all flows. So each server has a limit, well below that of the process, and a
//! share of it for one source. A new connection is always admitted: at a limit, the connection that has
//! been idle longest is closed to make room, so that no client keeps a probe out.

mod accept;
mod deadline;
mod slots;

pub use accept::{Listen, accept};
pub use deadline::WriteDeadline;
pub use slots::{Busy, Limits, Requests, Slot, Slots, Source};
