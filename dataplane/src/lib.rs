//! The packet path of vl3-lb: takes frames from the kernel, translates them, sends them on.
//!
//! One packet, from file to file:
//!
//! 1. `bpf/steer.bpf.c` (attached by [`steer`]) sends what is the balancer's to the queue's AF_XDP
//!    socket; all else goes to the kernel.
//! 2. [`port::xsk`] takes a burst of owned frames out of the receive ring: a [`port`].
//! 3. [`worker`], one pinned thread per queue, reads the [`clock`] once a burst and looks for a new
//!    snapshot.
//! 4. [`pipeline`] decides about each packet: [`packet`] parses it, [`flow`] finds its flow or opens
//!    one with a backend and a NAT port, [`packet`] rewrites it in place. The verdict is one of
//!    transmit, cut, answer, hand over or drop.
//! 5. [`worker::handoff`] carries packets to the worker that owns their flow.
//! 6. [`port::xsk`] puts what is to be sent into the transmit ring, wakes the kernel once a burst, and takes
//!    completed frames back.
//!
//! [`plane`] sets all of this up and is what the control side talks to.

pub mod capability;
pub mod clock;
pub mod config;
pub mod error;
pub mod flow;
pub mod link;
pub mod packet;
pub mod pipeline;
pub mod plane;
pub mod port;
pub mod steer;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod worker;
