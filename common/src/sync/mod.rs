//! The atomic words and queues that threads of the balancer share.
//!
//! With the feature `loom` they are those of the model checker loom, which tries all interleavings and all values that the
//! memory orderings allow. Only its tests may be run then: `./run test unit` does.

#[cfg(feature = "loom")]
mod model;

#[cfg(not(feature = "loom"))]
pub use crossbeam::queue::{ArrayQueue, SegQueue};
#[cfg(not(feature = "loom"))]
pub use std::sync::atomic;

#[cfg(feature = "loom")]
pub use loom::sync::atomic;
#[cfg(feature = "loom")]
pub use model::{ArrayQueue, SegQueue};

#[cfg(all(feature = "loom", not(debug_assertions)))]
compile_error!("the feature loom is for tests: without it the words are those of the CPU");
