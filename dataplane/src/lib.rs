//! The packet path of vl3-lb: receives frames from the kernel, translates them, transmits them.
//!
//! The way of one packet, in the order of execution:
//!
//! 1. `bpf/steer.bpf.c` (attached by `steer`) redirects the balancer's frames to AF_XDP sockets; the kernel
//!    keeps all others.
//! 2. `worker::Worker::step`, the loop of one pinned thread, takes a burst of frames out of its `port`,
//!    `port::xsk` in production.
//! 3. `pipeline` decides about each packet: `packet` parses it, `flow` finds its flow or opens
//!    one with a backend and a NAT port, `packet` rewrites it in place.
//! 4. The worker carries out the verdict: transmit, segment, reject, hand over or drop. `worker::handoff`
//!    takes a packet to the worker that owns its flow, which continues with step 3.
//! 5. `port::xsk` puts frames into the transmit ring, wakes the kernel once a burst, and takes completed
//!    frames back.
//!
//! Packets of established flows can take a shorter way: `bpf/fastpath.h` translates them in the kernel, for the
//! flows that a worker has put into `fastpath`.
//!
//! [`Plane`] is what the control side uses: it attaches workers to an interface that may come and go, and
//! publishes snapshots to them.
//!
//! The modules are private. Beside [`Plane`] and its [`config`], public is what the benchmarks of `perf` call
//! without a plane: the ports and the steer program for their packet generators, and the packet logic.

mod capability;
mod clock;
pub mod config;
mod error;
mod fastpath;
mod flow;
mod link;
mod packet;
mod pipeline;
mod plane;
mod port;
mod shed;
mod steer;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod worker;

pub use error::SetupError;
pub use link::{Link, LinkInfo, Path};
pub use packet::Framing;
pub use pipeline::{Engine, EngineConfig, Origin, Verdict};
pub use plane::Plane;
pub use port::xsk::{Layout, XskFrame, XskPort};
pub use port::{Frame, Port};
pub use steer::{Rules, Steer};
