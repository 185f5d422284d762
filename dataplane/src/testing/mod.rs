//! A port made of memory, and packets to push through it: for unit tests, benchmarks and fuzzers.
//!
//! [`MemPort`] keeps books about its frames, so a test can prove that none is lost or doubled, and
//! refuses on demand what a busy kernel refuses. [`builder`] makes packets with etherparse, which
//! the packet path itself does not use: checks here are checks by a second implementation.

pub mod builder;
#[cfg(test)]
pub(crate) mod conversation;
#[cfg(feature = "testing")]
mod flood_filter;
#[cfg(test)]
pub(crate) mod netns;
#[cfg(feature = "testing")]
mod redirect;
pub mod sctp;
pub mod validate;
#[cfg(test)]
pub(crate) mod world;

#[cfg(feature = "testing")]
pub use flood_filter::FloodFilter;
#[cfg(feature = "testing")]
pub use redirect::Redirect;

pub use crate::port::memory::{CHUNK, MemFrame, MemPort, frame, frames_of};
