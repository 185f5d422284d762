//! Ports made of memory, for tests and benchmarks.
//!
//! A [`MemPort`] alone is stepped by hand. A [`MemProvider`] has an interface of memory that comes and
//! goes, so that a whole plane with its worker threads runs without a kernel.

mod frame;
mod port;
mod provider;
#[cfg(test)]
mod tests;
mod wire;

pub use frame::{CHUNK, MemFrame, frame, frames_of};
pub use port::MemPort;
pub use provider::{MemInterface, MemProvider};
pub use wire::Wire;
