//! Ports made of memory, for tests and benchmarks.
//!
//! A [`MemPort`] alone is stepped by hand. A [`MemProvider`] has an interface of memory that comes and
//! goes, so that a whole plane with its worker threads runs without a kernel.

mod frame;
mod port;
#[cfg(test)]
mod provider;
#[cfg(test)]
mod tests;
mod wire;

pub use frame::{CHUNK, MemFrame, frame, frames_of};
pub use port::MemPort;
#[cfg(test)]
pub(crate) use provider::{MemInterface, MemProvider};
#[cfg(test)]
pub(crate) use wire::Wire;
