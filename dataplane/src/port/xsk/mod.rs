//! AF_XDP: packet memory that the kernel shares with us, and one [`XskPort`] per worker.
//!
//! A port has any number of receive queues and one transmit queue or none. All ports share one `Memory` (a UMEM) so that a frame can be handed
//! to another worker and be sent from there without a copy. Each frame has an owner, the worker whose
//! part of the memory it lies in; another worker that releases it puts it into its owner's return ring.
//!
//! ```text
//!            +-------------------- free <----------------------+
//!            v                       ^ |                       |
//!        fill ring                   | | allocate              |
//!            v                return | v                       |
//!    (kernel receives)  ----------> in hand -> tx ring -> (kernel sends) -> completion ring
//!        rx ring ----------------------^
//! ```
//!
//! # Soundness
//!
//! This folder is the boundary where memory is shared with the kernel. What the unsafe blocks rely
//! on:
//!
//! - A frame is in exactly one place of the picture. [`XskFrame`] is "in hand", the only place from
//!   which its bytes can be reached, and is neither `Copy` nor `Clone`; everywhere else it is a bare
//!   descriptor that only this folder sees. Frames begin in `Memory::new`, one descriptor per
//!   chunk, and every step moves the descriptor.
//! - A frame's memory stays mapped as long as the frame exists: `Memory` unmaps itself only when
//!   every frame has been accounted for, and stays mapped for the life of the process otherwise.
//! - A frame of one memory never enters the rings of another: `Memory::descriptor` refuses it.

mod frame;
mod local;
mod memory;
mod pool;
mod port;
mod provider;
mod receiver;
mod socket;
#[cfg(test)]
mod tests;
mod transmitter;

pub use frame::XskFrame;
pub use port::{Layout, XskPort};
pub(crate) use provider::AfXdp;
